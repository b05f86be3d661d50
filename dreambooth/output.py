"""The output folder: whose it is, the pipeline in it, and what tells later how it was made."""

import json
import os
import shutil
import sys
from pathlib import Path

from dreambooth import checkpoint, lora_files, stack
from dreambooth.config import BadInput

ARGUMENTS = "training_args.json"
CARD = "README.md"
SAMPLES = "samples"


def check(config):
    """Refuse a folder that can't be written, or that holds something else than an earlier run."""
    folder = Path(config.output_dir)
    if not can_be_written(folder):
        raise BadInput(f"--output_dir {folder}: it is no folder that can be written")
    for flag, place in (("--logging_dir", log_folder(config)), ("--class_data_dir", config.class_data_dir)):
        if place and not can_be_written(Path(place)):
            raise BadInput(f"{flag} {place}: it is no folder that can be written")
    if not folder.is_dir():
        return
    if not config.saves_pipeline and (folder / "model_index.json").exists():
        raise BadInput(
            f"--output_dir {folder}: it holds a whole pipeline, which a LoRA alone would not replace; give a new"
            " folder, or --lora_merge"
        )
    if is_ours(folder):
        return
    begun = [SAMPLES]
    for place in filter(None, (log_folder(config), config.class_data_dir)):  # a run that came no further made these
        if Path(place).resolve().is_relative_to(folder.resolve()):
            begun += Path(place).resolve().relative_to(folder.resolve()).parts[:1]
    foreign = sorted(each.name for each in folder.iterdir() if not each.name.startswith(".") and each.name not in begun)
    if foreign:
        raise BadInput(
            f"--output_dir {folder}: it holds something else than an earlier run ({', '.join(foreign[:3])});"
            " give a new or empty folder"
        )


def can_be_written(folder):
    """Whether a folder, or the nearest one above that is there, lets itself be written in."""
    nearest = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def is_ours(folder):
    """Whether an earlier run wrote into this folder: its record or a whole checkpoint is there."""
    try:
        record = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
        return {"flags", "base_model", "concepts", "versions"} <= record.keys()
    except (OSError, ValueError, AttributeError):
        return bool(checkpoint.survey(folder)[0])


def log_folder(config):
    return Path(config.output_dir) / config.logging_dir


def arguments(config, steps, processes, concepts):
    """All that is needed to make the result again. There is no flag for a token, so none can get in here."""

    def listed(pictures):
        return [{"name": each.path.name, "sha256": each.sha256} for each in pictures]

    return {
        "flags": config.as_dict(),
        "base_model": config.pretrained_model_name_or_path,
        "steps": steps,
        "processes": processes,
        "concepts": [
            {
                "prompt": concept.prompt,
                "pictures": listed(concept.pictures),
                "class_prompt": concept.class_prompt,
                "class_pictures": listed(concept.class_pictures),
            }
            for concept in concepts
        ],
        "versions": {"python": sys.version.split()[0], **stack.versions()},
    }


def as_text(record):
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def save_result(family, config, record, card):
    """Write the pipeline, or the LoRA, with its card and arguments beside its place, then move each part in;
    model_index.json, by which a folder is a pipeline, comes last."""
    folder = Path(config.output_dir)
    unfinished = folder / ".pipeline.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    form = "diffusers" if config.save_format == "diffusers" else "paddle"
    if config.lora_rank:
        matrices = {part: adapters.matrices() for part, adapters in family.adapters.items()}
        lora_files.write(unfinished / lora_files.NAMES[form], matrices, form)
        if config.lora_merge:
            for adapters in family.adapters.values():
                adapters.take_off()
            lora_files.merge(family.learners(), matrices)
    if config.saves_pipeline:
        family.save(str(unfinished), config.save_format)
    (unfinished / ARGUMENTS).write_text(as_text(record), encoding="utf-8")
    (unfinished / CARD).write_text(card, encoding="utf-8")
    for path in checkpoint.files_in(unfinished):
        checkpoint.flush(path)
    for part in sorted(unfinished.iterdir(), key=lambda each: (each.name == "model_index.json", each.name)):
        place = folder / part.name
        if place.is_dir():
            shutil.rmtree(place)
        part.replace(place)
    for name in lora_files.NAMES.values():  # an earlier run's, in another format
        if not (config.lora_rank and name == lora_files.NAMES[form]):
            (folder / name).unlink(missing_ok=True)
    unfinished.rmdir()
    checkpoint.flush(folder)


def save_samples(config, step, pictures):
    """Write validation pictures as samples/step-N-PROMPT-K.png."""
    folder = Path(config.output_dir) / SAMPLES
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        prompt, number = divmod(index, config.validation_count)
        picture.save(folder / f"step-{step}-{prompt}-{number}.png")


def card(config, steps, processes, draw_command, pipeline):
    """The model card: what this is, how it was made, how to draw with it."""
    prior = "no"
    if config.with_prior_preservation:
        prior = f'{config.num_class_images} pictures of "{config.class_prompt}", weight {config.prior_loss_weight:g}'
    learned = "UNet and text encoder" if config.train_text_encoder else "UNet"
    if config.lora_rank:
        learned = f"a LoRA of rank {config.lora_rank} beside {learned}"
    rows = {
        "base model": f"`{config.pretrained_model_name_or_path}`",
        "prompt of the subject": f'"{config.instance_prompt}"',
        "class pictures": prior,
        "learned": learned,
        "steps": f"{steps} updates, batch {config.global_batch(processes)}, learning rate {config.base_rate:g}",
        "size": "{1} x {0}".format(*config.size),
        "seed": str(config.seed),
    }
    library = "diffusers" if config.save_format == "diffusers" else "ppdiffusers"
    model, added = config.output_dir, ""
    if not config.saves_pipeline:
        model = config.pretrained_model_name_or_path
        added = f"\npipeline.load_lora_weights({json.dumps(config.output_dir)})"
    code = f"""
```python
from {library} import {pipeline}

pipeline = {pipeline}.from_pretrained({json.dumps(model)}){added}
pipeline({json.dumps(config.instance_prompt, ensure_ascii=False)}).images[0].save("picture.png")
```
"""
    told_elsewhere = pipeline != "StableDiffusionPipeline" or config.train_text_encoder or library == "diffusers"
    if told_elsewhere and not config.saves_pipeline:
        code = ""  # the libraries' own ways have conditions there, which README.md tells
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    samples = ""
    last = sorted((Path(config.output_dir) / SAMPLES).glob(f"step-{steps}-*.png"))
    if last:
        shown = "\n".join(f"![{path.stem}]({SAMPLES}/{path.name})" for path in last)
        prompts = "\n".join(f'- {number}: "{prompt}"' for number, prompt in enumerate(config.validation_prompt))
        samples = f"\n## Samples\n\nThe first number after the step is the prompt's:\n\n{prompts}\n\n{shown}\n"
    return f"""---
base_model: {json.dumps(config.pretrained_model_name_or_path)}
instance_prompt: {json.dumps(config.instance_prompt, ensure_ascii=False)}
tags: [text-to-image, dreambooth, paddlepaddle, {library}{", lora" if config.lora_rank else ""}]
---

# DreamBooth: {config.instance_prompt}

A text-to-image model that was taught one subject with DreamBooth (https://arxiv.org/abs/2208.12242).

| | |
|---|---|
{table}

All settings, versions and the pictures' hashes are in `{ARGUMENTS}`.

## Draw with it

```bash
{draw_command}
```
{code}{samples}"""
