"""The model card: what a model is, how it was made, how to draw with it."""

import json
from pathlib import Path

from dreambooth.run import output_folder


def make_card(config, steps, processes, draw_command, pipeline):
    """The model card: what this is, how it was made, how to draw with it."""
    model, concepts, lora, saving = config.model, config.concepts, config.lora, config.saving
    prior = "no"
    if concepts.with_prior_preservation:
        weight = f"weight {config.objective.prior_loss_weight:g}"
        prior = f'{concepts.num_class_images} pictures of "{concepts.class_prompt}", {weight}'
    learned = "UNet and text encoder" if model.train_text_encoder else "UNet"
    if lora.lora_rank:
        learned = f"a LoRA of rank {lora.lora_rank} beside {learned}"
    batch = config.optimizer.global_batch(processes)
    rows = {
        "base model": f"`{model.pretrained_model_name_or_path}`",
        "prompt of the subject": f'"{concepts.instance_prompt}"',
        "class pictures": prior,
        "learned": learned,
        "steps": f"{steps} updates, batch {batch}, learning rate {config.base_rate:g}",
        "size": "{1} x {0}".format(*config.pictures.size),
        "seed": str(config.run.seed),
    }
    library = "diffusers" if saving.save_format == "diffusers" else "ppdiffusers"
    loaded, added = saving.output_dir, ""
    if not lora.saves_pipeline:
        loaded = model.pretrained_model_name_or_path
        added = f"\npipeline.load_lora_weights({json.dumps(saving.output_dir)})"
    code = f"""
```python
from {library} import {pipeline}

pipeline = {pipeline}.from_pretrained({json.dumps(loaded)}){added}
pipeline({json.dumps(concepts.instance_prompt, ensure_ascii=False)}).images[0].save("picture.png")
```
"""
    told_elsewhere = pipeline != "StableDiffusionPipeline" or model.train_text_encoder or library == "diffusers"
    if told_elsewhere and not lora.saves_pipeline:
        code = ""  # the libraries' own ways have conditions there, which README.md tells
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    samples = ""
    last = sorted((Path(saving.output_dir) / output_folder.SAMPLES).glob(f"step-{steps}-*.png"))
    if last:
        shown = "\n".join(f"![{path.stem}]({output_folder.SAMPLES}/{path.name})" for path in last)
        prompts = "\n".join(f'- {number}: "{prompt}"' for number, prompt in enumerate(config.logging.validation_prompt))
        samples = f"\n## Samples\n\nThe first number after the step is the prompt's:\n\n{prompts}\n\n{shown}\n"
    return f"""---
base_model: {json.dumps(model.pretrained_model_name_or_path)}
instance_prompt: {json.dumps(concepts.instance_prompt, ensure_ascii=False)}
tags: [text-to-image, dreambooth, paddlepaddle, {library}{", lora" if lora.lora_rank else ""}]
---

# DreamBooth: {concepts.instance_prompt}

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
