#!/usr/bin/env bash
# Fine-tune on one card, or on the CPU. Settings come from environment variables, further flags from the command line:
#
#   bash run_single.sh
#   MODEL_NAME=./my_model INSTANCE_DIR=./my_dog MAX_TRAIN_STEPS=800 bash run_single.sh --train_text_encoder
#
# Without a card and without MODEL_NAME, it teaches the embedded model.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}") # the folder of the sample pictures; other paths are relative to the current folder
. "$here/setup.sh"
setup

# Set `method` to the flags for a card with so many megabytes. Several processes average all gradients, so none of them
# can be freed early.
choose_method() {
    local several=${NNODES:-}
    case ${gpus:-} in *,*) several=1 ;; esac
    if [ "$1" -ge 20000 ] || [ "$1" -lt 1000 ]; then # the driver may not know
        return
    elif [ -n "$several" ] && [ "$1" -ge 11000 ]; then
        method=(--gradient_checkpointing --optimizer adamw8bit)
    elif [ -z "$several" ] && [ "$1" -ge 15000 ]; then
        method=(--early_update --gradient_checkpointing)
    elif [ -z "$several" ] && [ "$1" -ge 10000 ]; then
        method=(--early_update --gradient_checkpointing --optimizer adamw8bit)
    else
        method=(--lora_rank 4 --lora_merge --gradient_checkpointing --sample_batch_size 1) # a pipeline results all the same
        # half precision needs a compute capability of 7.0
        if [ "$(printf '7.0\n%s\n' "$(query_cards compute_cap)" | sort -V | head -n 1)" = 7.0 ]; then method+=(--mixed_precision fp16); fi
    fi
    echo "The card has $1 MB, so this run adds: ${method[*]} (your own --lora_rank, --optimizer or --gradient_checkpointing replaces them)"
}

several=
case " $* " in *" --concepts"*) several=1 ;; esac # a list has the subjects
output=${OUTPUT_DIR:-./dream_outputs}
prompt=${INSTANCE_PROMPT:-a photo of sks dog}
pictures=${INSTANCE_DIR:-$here/dream_image}
if [ -n "$several" ]; then prompt=${INSTANCE_PROMPT:-} pictures=${INSTANCE_DIR:-}; fi
accumulation=${GRADIENT_ACCUMULATION_STEPS:-1} schedule=${LR_SCHEDULER:-constant}
embedded= average=
recipe=()
cards=$(query_cards index) || cards=
method=()
file=
case " $* " in *" --config"* | *" --preset"*) file=1 ;; esac
if [ -n "$file" ]; then
    # The file has the settings; variables that are set have priority
    model=${MODEL_NAME:-} output=${OUTPUT_DIR:-} prompt=${INSTANCE_PROMPT:-} pictures=${INSTANCE_DIR:-}
    accumulation=${GRADIENT_ACCUMULATION_STEPS:-} schedule=${LR_SCHEDULER:-}
    class=${CLASS_PROMPT:-} class_pictures= count=
    defaults=("" "" "" "")
elif [ -z "${MODEL_NAME:-}$cards" ]; then
    embedded=$here/miniworld/model
    echo "No card found: this run teaches the embedded model, which draws 64 x 64 pictures of a small world."
    echo "To teach another model: MODEL_NAME=./my_model bash run_single.sh (or a name on the hub)"
    model=$embedded
    # What learned best in a study: docs/learning.md
    defaults=(64 3 2e-4 600)
    average=0.98
    recipe=(--timestep_shift 2)
    case " $* " in
        *" --lora_rank"*)
            defaults=(64 3 2e-3 250) average=0.96 recipe=()
            case " $* " in *" --lora_targets"*) ;; *) recipe+=(--lora_targets all) ;; esac # which are added up
            ;;
        *" --trained_layers"* | *" --learn_identifier alone"* | *" --learn_identifier=alone"*) ;; # text encoder as it is
        *) recipe+=(--train_text_encoder --text_encoder_lr 3e-5) ;;
    esac
    class=${CLASS_PROMPT:-}
    if [ -z "${CLASS_PROMPT+set}${INSTANCE_PROMPT:-}$several" ]; then class="a photo of a dog"; fi
    class_pictures=./class_images/miniworld
    count=48
else
    model=${MODEL_NAME:-CompVis/stable-diffusion-v1-4}
    defaults=(512 1 "" "") # the tool has rates and steps of its own, for the whole network and for a LoRA
    class=${CLASS_PROMPT:-}
    class_pictures=./class_images
    count=100
    # The best method that fits the smallest card, for Stable Diffusion 1 at 512 x 512 with class pictures
    megabytes=$(query_cards memory.total | sort -n | head -n 1) || megabytes=
    case " $* $model$(cat "$model/model_index.json" 2>/dev/null || true)" in
        *" --lora_rank"* | *" --optimizer"* | *" --early_update"* | *" --gradient_checkpointing"* | *" --mixed_precision"*) ;;
        *" --max_grad_norm"* | *[Uu]ni[Dd]iffuser*) ;; # which can't be combined with all of them
        *) if [ -n "$megabytes" ] && [ "$accumulation" = 1 ]; then choose_method "$megabytes"; fi ;;
    esac
fi

# Collect the flags in an array, so that a prompt with spaces stays one argument
flags=()
add() { if [ -n "$2" ]; then flags+=("$1" "$2"); fi; }
add --pretrained_model_name_or_path "$model"
add --instance_data_dir "$pictures"
add --output_dir "$output"
add --instance_prompt "$prompt"
add --resolution "${RESOLUTION:-${defaults[0]}}"
add --train_batch_size "${TRAIN_BATCH_SIZE:-${defaults[1]}}"
add --gradient_accumulation_steps "$accumulation"
add --lr_scheduler "$schedule"
add --learning_rate "${LEARNING_RATE:-${defaults[2]}}"
add --max_train_steps "${MAX_TRAIN_STEPS:-${defaults[3]}}"
add --ema_decay "${EMA_DECAY:-$average}"
# Draw the subject at the end, for the report
case " $* " in
    *" --validation_prompt"*) ;;
    *) if [ -n "${embedded:-}" ]; then add --validation_prompt "$prompt"; fi ;;
esac
# Preserve the class of CLASS_PROMPT
if [ -n "$class" ]; then
    flags+=(--with_prior_preservation)
    add --class_prompt "$class"
    add --class_data_dir "${CLASS_DIR:-$class_pictures}"
    add --num_class_images "${NUM_CLASS_IMAGES:-$count}"
fi
flags+=("${recipe[@]+"${recipe[@]}"}" "${method[@]+"${method[@]}"}" "$@")
"$PYTHON" "${LAUNCHER[@]+"${LAUNCHER[@]}"}" "$here/train_dreambooth.py" "${flags[@]}" || exit # run_multi.sh's trap comes before `exit`, and not before that of -e

# Measure the result on other pictures of the sample dog, where the embedded model trained on it
if [ -z "$embedded" ] || [ -n "${INSTANCE_DIR:-}${INSTANCE_PROMPT:-}$several" ]; then exit; fi
while [ $# != 0 ]; do
    case $1 in
        -h | --help | --dry_run) exit ;;
        --instance_data_dir* | --instance_prompt* | --pretrained_model_name_or_path*) exit ;; # something else
        --output_dir) output=${2:-} ;;
        --output_dir=*) output=${1#*=} ;;
    esac
    shift
done
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
"$PYTHON" -m miniworld.photograph --subject dog --measuring --output "$output/samples/subject"
"$PYTHON" -m dreambooth.metrics --model_path "$output" --base_model_path "$embedded" \
    --clip_model_path "$here/miniworld/clip" --subject_data_dir "$output/samples/subject" \
    --prompts_file "$output/samples/subject/prompts.txt" --identifier sks --class_prompt "a photo of a dog" \
    --num_class_images 8 --scheduler dpmsolver++ --num_inference_steps 25 --guidance_scale 6 \
    --pictures_dir "$output/samples/measured" --sheet "$output/sheet.png"
