"""The model card: what a model is, how it was made, how to draw with it."""

import json
from pathlib import Path

from dreambooth.run import output_folder


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
    last = sorted((Path(config.output_dir) / output_folder.SAMPLES).glob(f"step-{steps}-*.png"))
    if last:
        shown = "\n".join(f"![{path.stem}]({output_folder.SAMPLES}/{path.name})" for path in last)
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

All settings, versions and the pictures' hashes are in `{output_folder.ARGUMENTS}`.

## Draw with it

```bash
{draw_command}
```
{code}{samples}"""
