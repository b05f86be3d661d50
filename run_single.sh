#!/usr/bin/env bash
# Fine-tune on one card, or on the CPU. Settings come from the environment, further flags from the command line:
#
#   bash run_single.sh
#   MODEL_NAME=./my_model INSTANCE_DIR=./my_dog MAX_TRAIN_STEPS=800 bash run_single.sh --train_text_encoder
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}") # the sample pictures lie here; other paths are seen from where you are
. "$here/setup.sh"
setup

# An array, so that a prompt with spaces stays one argument
flags=(
    --pretrained_model_name_or_path "${MODEL_NAME:-CompVis/stable-diffusion-v1-4}"
    --instance_data_dir "${INSTANCE_DIR:-$here/dream_image}"
    --output_dir "${OUTPUT_DIR:-./dream_outputs}"
    --instance_prompt "${INSTANCE_PROMPT:-a photo of sks dog}"
    --resolution "${RESOLUTION:-512}"
    --train_batch_size "${TRAIN_BATCH_SIZE:-1}"
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-1}"
    --learning_rate "${LEARNING_RATE:-5e-6}"
    --lr_scheduler "${LR_SCHEDULER:-constant}"
    --max_train_steps "${MAX_TRAIN_STEPS:-400}"
)
# With CLASS_PROMPT, the class is preserved
if [ -n "${CLASS_PROMPT:-}" ]; then
    flags+=(
        --with_prior_preservation
        --class_prompt "$CLASS_PROMPT"
        --class_data_dir "${CLASS_DIR:-./class_images}"
        --num_class_images "${NUM_CLASS_IMAGES:-100}"
    )
fi
exec "$PYTHON" "${LAUNCHER[@]+"${LAUNCHER[@]}"}" "$here/train_dreambooth.py" "${flags[@]}" "$@"
