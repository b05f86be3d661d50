"""Flags that the command line does not have: the nearest one, or what another script's flag corresponds to here."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_NOT_NEEDED = "leave it out"
# what short names stand for, of which a command has one
_SHORT = {
    "lr": ("--learning_rate",),
    "epochs": ("--num_train_epochs",),
    "model": ("--pretrained_model_name_or_path", "--model_path"),
    "steps": ("--max_train_steps", "--num_inference_steps"),
}
_NO_HUB = "nothing is uploaded; the model card in --output_dir is ready for it"

# of the training scripts of diffusers and PPDiffusers, without the flags that are the same here
_ELSEWHERE = {
    "rank": "here it is --lora_rank",
    "use_lora": "here --lora_rank N trains a LoRA",
    "validation_epochs": "here --validation_steps counts updates",
    "validation_scheduler": "--prior_scheduler draws class and validation pictures",
    "prior_generation_precision": "class pictures are drawn in the model's own precision; " + _NOT_NEEDED,
    "use_8bit_adam": "here it is --optimizer adamw8bit",
    "use_ema": "here it is --ema_decay, 0.97 for example",
    "enable_xformers_memory_efficient_attention": "Paddle has its own attention for cards; " + _NOT_NEEDED,
    "enable_xformers": "Paddle has its own attention for cards; " + _NOT_NEEDED,
    "set_grads_to_none": "gradients are always freed; " + _NOT_NEEDED,
    "allow_tf32": "a setting of torch; " + _NOT_NEEDED,
    "train_data_dir": "here it is --instance_data_dir",
    "network_dim": "here it is --lora_rank",
    "network_alpha": "here it is --lora_alpha",
    "unet_lr": "here it is --learning_rate",
    "final_validation_prompt": "here it is --validation_prompt",
    "image_interpolation_mode": "pictures are always scaled by bilinear interpolation; " + _NOT_NEEDED,
    "only_save_embeds": "not offered: this trains networks, no embeddings",
    "local_rank": "`python -m paddle.distributed.launch` starts several processes; " + _NOT_NEEDED,
    "pre_compute_text_embeddings": "prompts are always encoded once where the text encoder does not train; "
    + _NOT_NEEDED,
    "text_encoder_use_attention_mask": "not offered",
    "tokenizer_max_length": "the model's own length is used; " + _NOT_NEEDED,
    "skip_save_text_encoder": "the result is always a whole pipeline; " + _NOT_NEEDED,
    "class_labels_conditioning": "not offered",
    "validation_images": "not offered",
    "min_snr_gamma": "here it is --snr_gamma",
    "offset_noise": "here --noise_offset X has a strength",
    "ip_noise_gamma": "here it is --input_perturbation",
    "huber_schedule": "here --huber_c is the same at all timesteps; " + _NOT_NEEDED,
    "timestep_bias_strategy": "here it is --timestep_shift",
    "optimizer_type": "here it is --optimizer",
    "loraplus_unet_lr_ratio": "here it is --loraplus_lr_ratio",
    "loraplus_lr_embedding": "not offered: this trains networks, no embeddings",
    "prodigy_beta3": "here it is the root of --adam_beta2; " + _NOT_NEEDED,
    "prodigy_use_bias_correction": "not offered",
    "network_dropout": "here it is --lora_dropout",
    "network_args": "here --lora_targets, --lora_ranks and --use_dora choose the layers and their kind",
    "conv_dim": "here it is --lora_targets attention convolution --lora_ranks convolution=N",
    "lora_layers": "here it is --lora_targets",
    "caption_extension": "here it is --captions txt",
    "caption_column": "here it is --captions jsonl, which reads the column text",
    "caption_dropout_rate": "here it is --caption_dropout",
    "masked_loss": "here it is --mask_dir",
    "alpha_mask": "here it is --use_alpha",
    "enable_bucket": "here it is --resize_mode buckets",
    "color_aug": "here it is --color_jitter",
    "config_file": "here it is --config",
    "concepts_list": "here it is --concepts",
    "variant": "the hub's usual weights are fetched; " + _NOT_NEEDED,
    "push_to_hub": _NO_HUB,
    "hub_token": "no flag takes a token: set HF_TOKEN",
    "hub_model_id": _NO_HUB,
}


def complaint(argv: Iterable[str], own: Collection[str]) -> str | None:
    """Describe the flags in a command line that are not among its own, the first one with a remedy; None if all are."""
    names = [word.partition("=")[0] for word in argv if word.startswith("--") and len(word) > 2]
    unknown = list(dict.fromkeys(name for name in names if name not in own))
    if not unknown:
        return None
    first, *others = ((name, remedy(name, own)) for name in unknown)
    return "; ".join([f"{first[0]}: there is no such flag; {first[1]}", *(f"{name}: {text}" for name, text in others)])


def remedy(flag: str, own: Collection[str]) -> str:
    """Return what to do about a flag, or a setting of a file, that is not among a command's own."""
    name = flag.lstrip("-").replace("-", "_")
    if "--pretrained_model_name_or_path" in own and name in _ELSEWHERE:
        return _ELSEWHERE[name]
    meant = [each for each in _SHORT.get(name, ()) if each in own]
    near = meant or difflib.get_close_matches(f"--{name}", own, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else "--help lists the flags"
