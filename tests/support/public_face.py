"""The public face as it has to stay: flags, defaults, keys, files, purposes of randomness; test_public.py compares."""

from __future__ import annotations

# --flag|--alias VALUES = default, as the help lists them
TRAIN = """
--pretrained_model_name_or_path TEXT  --instance_data_dir TEXT  --instance_prompt TEXT
--output_dir TEXT = dreambooth-model  --with_prior_preservation  --class_data_dir TEXT  --class_prompt TEXT
--num_class_images N = 100  --prior_loss_weight X = 1.0  --train_text_encoder  --lora_rank N  --lora_alpha X
--lora_dropout X = 0  --lora_merge  --num_train_epochs N  --max_train_steps N  --seed N  --tokenizer_name TEXT
--revision TEXT  --dry_run  --verbose  --height N = 512  --width N = 512  --resolution N  --center_crop  --random_flip
--train_batch_size N = 4  --gradient_accumulation_steps N = 1  --learning_rate X  --text_encoder_lr X  --scale_lr
--lr_scheduler {constant,linear,cosine,cosine_with_restarts,polynomial,constant_with_warmup} = constant
--lr_warmup_steps N = 500  --lr_num_cycles N = 1  --lr_power X = 1.0
--optimizer {adamw,adamw8bit,adafactor,prodigy,lion} = adamw  --adam_beta1 X = 0.9  --adam_beta2 X = 0.999
--adam_weight_decay X = 0.02  --adam_epsilon X = 1e-08  --max_grad_norm X  --ema_decay X  --gradient_checkpointing
--early_update|--fused_backward_pass
--mixed_precision {no,fp16,bf16} = no  --cache_latents  --no_cache_latents  --sample_batch_size N = 4
--prior_scheduler {own,ddim,ddpm,dpmsolver++,euler,euler_a,lms,pndm} = dpmsolver++  --prior_inference_steps N = 20
--dataloader_num_workers N = 0  --save_steps|--checkpointing_steps N = 500  --last_checkpoint  --no_last_checkpoint
--checkpoints_total_limit N = 3  --overwrite
--resume_from_checkpoint TEXT  --allow_changes  --save_format {pdparams,safetensors,diffusers} = pdparams
--logging_dir TEXT = logs  --writer_type|--report_to {visualdl,tensorboard} = visualdl  --logging_steps N = 1
--validation_prompt TEXT  --validation_steps N  --num_validation_images N = 4  --config TEXT  --preset TEXT
--sheet FILE.png  --resize_mode {squeeze,crop,pad,buckets}  --mask_dir TEXT  --use_alpha  --unmasked_weight X = 0.1
--subject TEXT  --class_negative_prompt TEXT  --captions {off,txt,jsonl}  --caption_dropout X = 0.0
--concepts FILE  --class_captions {off,txt,jsonl} = off  --class_prompts_from_captions  --random_crop
--color_jitter X = 0.0  --lora_targets TEXT [TEXT ...] = attention  --lora_ranks TARGET=N [TARGET=N ...]
--lora_alphas TARGET=X [TARGET=X ...]  --use_rslora  --use_dora  --loraplus_lr_ratio X = 1  --prior_by_prediction
--snr_gamma X  --loss_type {l2,huber} = l2  --huber_c X = 0.1  --noise_offset X = 0.0  --input_perturbation X = 0.0
--trained_layers TEXT [TEXT ...] = all  --validation_data_dir TEXT  --clip_model_path TEXT  --keep_best  --patience N
--learn_identifier {alone,jointly}  --initializer_token TEXT  --identifier_lr X = 0.0005
--zero_terminal_snr  --min_timestep N = 0  --max_timestep N  --timestep_sampling {uniform,logit_normal}
--timestep_shift X = 1.0  --without_t5
"""
INFER = """
--model_path TEXT  --prompt TEXT [TEXT ...]  --negative_prompt TEXT  --num_images N = 1  --num_inference_steps N = 50
--guidance_scale X = 7.5  --lora TEXT  --lora_scale X = 1  --seed N = 0  --height N  --width N  --batch_size N = 4
--scheduler {ddim,ddpm,dpmsolver++,euler,euler_a,lms,pndm}  --output_dir TEXT = outputs  --output FILE.png
--grid [AXIS ...]
--mixed_precision {no,fp16,bf16} = no  --vae_tiling  --verbose  --without_t5  --image FILE  --mask FILE
--strength X = 0.8  --controlnet TEXT  --control_image FILE [FILE ...]  --draw_edges  --control_scale X = 1
--upscaler TEXT
"""
METRICS = """
--model_path TEXT  --base_model_path TEXT  --subject_data_dir TEXT  --clip_model_path TEXT  --prompt TEXT [TEXT ...]
--prompts_file FILE  --class_prompt TEXT  --identifier TEXT  --num_images N = 4  --num_class_images N = 16
--num_inference_steps N = 50  --guidance_scale X = 7.5  --scheduler {ddim,ddpm,dpmsolver++,euler,euler_a,lms,pndm}
--seed N = 0  --batch_size N = 4  --json FILE  --sheet FILE.png  --pictures_dir TEXT
--mixed_precision {no,fp16,bf16} = no  --verbose  --concepts FILE  --dino_model_path TEXT
"""
EXPORT = """
--model_path TEXT  --like TEXT  --output TEXT  --half  --verbose
--format {pdparams,safetensors,diffusers,single_file,lora_paddle,lora_diffusers,lora_web_ui}
"""
IDENTIFIER = "--model TEXT  --count N = 20  --seed N = 0  --all  --check TEXT  --verbose"
BENCH = """
--data TEXT  --model TEXT  --clip_model_path TEXT  --dino_model_path TEXT  --config TEXT  --preset TEXT
--subjects NAME [NAME ...] = all  --num_prompts N = all  --num_images N = 4  --identifier TEXT = sks
--output_dir TEXT = bench  --keep_models  --num_inference_steps N = 50  --guidance_scale X = 7.5
--scheduler {ddim,ddpm,dpmsolver++,euler,euler_a,lms,pndm}  --seed N = 0  --batch_size N = 4
--mixed_precision {no,fp16,bf16} = no  --verbose
"""
REPORT = "--model_path TEXT [TEXT ...]  --output FILE.html  --verbose"
PUSH = """
--model_path TEXT  --to {hub,folder}  --name USER/NAME  --output TEXT  --public  --license TEXT
--with_training_pictures  --dry_run  --verbose
"""
COMMANDS = {
    "train_dreambooth.py": TRAIN,
    "infer.py": INFER,
    "dreambooth.metrics": METRICS,
    "dreambooth.export": EXPORT,
    "dreambooth.identifier": IDENTIFIER,
    "dreambooth.bench": BENCH,
    "dreambooth.report": REPORT,
    "dreambooth.push": PUSH,
}
OTHER_COMMANDS = ["dreambooth.selfcheck"]
OTHER_COMMANDS += [f"miniworld.{name}" for name in ("examine", "photograph", "pretrain", "study", "together")]
OTHER_COMMANDS += [f"benchmarks.{name}" for name in ("memory", "prior", "startup", "step")]

# script: {flag: the variable that it comes from}
SINGLE = {
    "--pretrained_model_name_or_path": "MODEL_NAME",
    "--instance_data_dir": "INSTANCE_DIR",
    "--instance_prompt": "INSTANCE_PROMPT",
    "--output_dir": "OUTPUT_DIR",
    "--class_prompt": "CLASS_PROMPT",
    "--class_data_dir": "CLASS_DIR",
    "--num_class_images": "NUM_CLASS_IMAGES",
    "--resolution": "RESOLUTION",
    "--train_batch_size": "TRAIN_BATCH_SIZE",
    "--gradient_accumulation_steps": "GRADIENT_ACCUMULATION_STEPS",
    "--learning_rate": "LEARNING_RATE",
    "--lr_scheduler": "LR_SCHEDULER",
    "--max_train_steps": "MAX_TRAIN_STEPS",
}
LAUNCHER = {
    "--log_dir": "LAUNCH_LOG",
    "--nproc_per_node": "NPROC",
    "--nnodes": "NNODES",
    "--master": "MASTER",
    "--rank": "NODE_RANK",
}
VARIABLES = {"run_single.sh": SINGLE, "run_multi.sh": {**SINGLE, **LAUNCHER}}

# fmt: off
# training_args.json, "flags": the values where no flag is given
DEFAULTS = {
    "class_data_dir": None, "class_prompt": None, "with_prior_preservation": False, "num_class_images": 100,
    "prior_loss_weight": 1.0, "train_text_encoder": False, "lora_rank": None, "lora_alpha": None, "lora_dropout": None,
    "lora_merge": False, "num_train_epochs": None, "tokenizer_name": None, "revision": None, "dry_run": False,
    "verbose": False, "height": None, "width": None, "center_crop": False, "random_flip": False,
    "train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 5e-6, "text_encoder_lr": None,
    "scale_lr": False, "lr_scheduler": "constant", "lr_warmup_steps": 500, "lr_num_cycles": 1, "lr_power": 1.0,
    "optimizer": "adamw",
    "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_weight_decay": 0.02, "adam_epsilon": 1e-8, "max_grad_norm": None,
    "ema_decay": None,
    "gradient_checkpointing": False, "early_update": False, "mixed_precision": "no", "cache_latents": True,
    "sample_batch_size": 4, "prior_scheduler": "dpmsolver++", "prior_inference_steps": 20, "dataloader_num_workers": 0,
    "save_steps": 500, "last_checkpoint": True, "checkpoints_total_limit": 3, "resume_from_checkpoint": None,
    "allow_changes": False, "overwrite": False,
    "save_format": "pdparams", "logging_dir": "logs", "writer_type": "visualdl", "logging_steps": 1,
    "validation_prompt": None, "validation_steps": None, "num_validation_images": None,
    "resize_mode": None, "mask_dir": None, "use_alpha": False, "unmasked_weight": 0.1,
    "sheet": None, "subject": None, "class_negative_prompt": None, "captions": None, "caption_dropout": 0.0,
    "concepts": None, "class_captions": "off", "class_prompts_from_captions": False, "random_crop": False,
    "color_jitter": 0.0, "lora_targets": None, "lora_ranks": None, "lora_alphas": None, "use_rslora": False,
    "use_dora": False, "loraplus_lr_ratio": None, "prior_by_prediction": False, "snr_gamma": None, "loss_type": "l2",
    "huber_c": 0.1, "noise_offset": 0.0, "input_perturbation": 0.0, "zero_terminal_snr": False, "min_timestep": 0,
    "max_timestep": None, "timestep_sampling": None,
    "timestep_shift": 1.0, "validation_data_dir": None, "clip_model_path": None,
    "keep_best": False, "patience": None, "trained_layers": None, "learn_identifier": None, "initializer_token": None,
    "identifier_lr": None, "without_t5": False,
}
STATE = {"step", "written_ns", "course", "optimizer", "arguments", "files", "checksums", "checksum"}  # of state.json
# state.json, "course": what a resumed run is compared with
COURSE = {
    "pretrained_model_name_or_path", "instance_prompt", "with_prior_preservation", "train_text_encoder", "seed",
    "tokenizer_name", "revision", "center_crop", "random_flip", "learning_rate", "text_encoder_lr", "scale_lr",
    "lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power", "adam_beta1", "adam_beta2", "adam_weight_decay",
    "adam_epsilon", "max_grad_norm", "ema_decay", "mixed_precision", "height", "width",
    "train_batch_size x gradient_accumulation_steps x processes", "the pictures' hashes", "the class pictures' hashes",
}
PRIOR_COURSE = {"class_prompt", "num_class_images", "prior_loss_weight"}  # with --with_prior_preservation
LORA_COURSE = {"lora_rank", "lora_alpha", "lora_dropout"}  # with --lora_rank
# fmt: on
MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")

# folder: its files
CLIP_TOKENIZER = "merges.txt special_tokens_map.json tokenizer_config.json vocab.json"
RESULT = {"": "README.md training_args.json progress.jsonl report.html", "logs": "vdlrecords.log"}
PIPELINE = {
    "": "model_index.json",
    "scheduler": "scheduler_config.json",
    "tokenizer": CLIP_TOKENIZER,
    **{part: "config.json model_state.pdparams" for part in ("unet", "vae", "text_encoder")},
}
CHECKPOINT = {
    "": "optimizer.safetensors state.json",
    "unet": "config.json diffusion_paddle_model.safetensors",
    "text_encoder": "config.json model.safetensors",
}
LORA_CHECKPOINT = {**CHECKPOINT, "unet": "model.safetensors", "text_encoder": "model.safetensors"}
UNIDIFFUSER_PIPELINE = {  # with --save_format diffusers
    "": "model_index.json",
    "scheduler": "scheduler_config.json",
    "clip_image_processor": "preprocessor_config.json",
    **{part: CLIP_TOKENIZER for part in ("clip_tokenizer", "text_tokenizer")},
    **{part: "config.json model.safetensors" for part in ("image_encoder", "text_encoder")},
    **{part: "config.json diffusion_pytorch_model.safetensors" for part in ("unet", "vae", "text_decoder")},
}

# what a random number is for; a LoRA also has "lora PART LAYER"
PURPOSES = (
    *(
        "latent",
        "noise",
        "timestep",
        "noise offset",
        "input perturbation",
        "flip",
        "order of kind 0",
        "order of kind 1",
    ),
    *("lora dropout unet", "lora dropout text_encoder"),
    *("class picture", "class picture embedding", "class picture steps"),
    *("picture", "picture embedding", "picture steps"),
    "identifiers",
)
