"""The formats that a pipeline is saved in: Paddle's own two, and that of Hugging Face's diffusers."""

import json
from pathlib import Path

FORMATS = ("pdparams", "safetensors", "diffusers")
# a part's name in the library, and in diffusers since 0.25
NEWER_NAMES = {"image_processor": "clip_image_processor"}
# of PPDiffusers' networks alone, with their defaults
OWN_SETTINGS = {"data_format": "NCHW", "down_block_out_channels": None, "up_block_out_channels": None}
CLASSES = {"GPTTokenizer": "GPT2Tokenizer"}


def save(pipeline, folder, save_format):
    """Write a pipeline into a folder."""
    if save_format == "diffusers":
        pipeline.save_pretrained(str(folder), safe_serialization=True, to_diffusers=True)
        leave_out_own_settings(Path(folder))
        if type(pipeline).__name__ == "UniDiffuserPipeline":
            give_newer_names(Path(folder))
            spell_out_head(Path(folder) / "text_decoder/diffusion_pytorch_model.safetensors")
    else:
        pipeline.save_pretrained(str(folder), safe_serialization=save_format == "safetensors")


def leave_out_own_settings(folder):
    """Take the library's own settings out of the networks': diffusers complains of them. They are at their defaults."""
    for path in folder.glob("*/config.json"):
        settings = read(path)
        write(path, {name: value for name, value in settings.items() if OWN_SETTINGS.get(name, ...) != value})


def give_newer_names(folder):
    """Call the parts of a UniDiffuser, and their classes, as diffusers calls them today."""
    known = read(folder / "model_index.json")
    for old, new in NEWER_NAMES.items():
        (folder / old).rename(folder / new)
        known[new] = known.pop(old)
    for part, value in known.items():
        if isinstance(value, list):
            known[part] = [value[0], CLASSES.get(value[1], value[1])]
    write(folder / "model_index.json", known)
    for path in folder.glob("*tokenizer/tokenizer_config.json"):
        settings = read(path)
        write(path, {**settings, "tokenizer_class": CLASSES.get(settings["tokenizer_class"], "CLIPTokenizer")})


def spell_out_head(path):
    """Write the last layer of a UniDiffuser's text decoder, which is its first one's matrix, a second time: diffusers
    looks for both."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(path)
    weights["transformer.lm_head.weight"] = weights["transformer.transformer.wte.weight"].copy()
    save_file(weights, path, metadata={"format": "pt"})


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(path, settings):
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
