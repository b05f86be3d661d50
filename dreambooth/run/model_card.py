"""The model card: a model's kind, its making, and the command that draws with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.files import embeddings, records
from dreambooth.models import registry
from dreambooth.run import endings, output_folder

if TYPE_CHECKING:
    from dreambooth.config.config import Config
    from dreambooth.config.run_sections import LoggingSettings, SavingSettings
    from dreambooth.models.family.facts import FamilyFacts


def make_card(config: Config, steps: int, processes: int, facts: FamilyFacts, saved: int | None = None) -> str:
    """Return the text of the card, for Hugging Face's hub and for people.

    It shows the samples of the last step that are in the output folder, or of the one whose weights were saved.
    """
    prompts = [subject.prompt for subject in config.concepts.subjects]
    prompt, subjects = prompts[0], "one subject" if len(prompts) == 1 else f"{len(prompts)} subjects"
    rows = _describe_run(config, steps, processes, facts)
    if saved is not None:
        rows["steps"] += f"; the weights are those after update {saved}, the best of the validations"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
base_model: {json.dumps(_base_name(config), ensure_ascii=False)}
instance_prompt: {json.dumps(prompt, ensure_ascii=False)}
tags: [text-to-image, dreambooth, paddlepaddle, {_library(config.saving)}{", lora" if config.lora.lora_rank else ""}]
---

# DreamBooth: {_plain(", ".join(prompts))}

A text-to-image model that was taught {subjects} with DreamBooth (https://arxiv.org/abs/2208.12242).

| | |
|---|---|
{table}

All settings, versions and the pictures' hashes are in `{records.RESULT}`.

## Draw with it

{_block("bash", endings.draw_command(_folder_name(config.saving), prompt, facts))}
{_example_code(config, facts)}{_samples(config.saving.output_dir, config.logging, steps if saved is None else saved)}"""


def _base_name(config: Config) -> str:
    """Return the base model's name; of a folder the last part alone, for its path is this machine's."""
    name = config.model.pretrained_model_name_or_path
    return Path(name).resolve().name if Path(name).is_dir() else name


def _folder_name(saving: SavingSettings) -> str:
    """Return the folder of the result as others have it; of an absolute path the last part alone."""
    folder = Path(saving.output_dir)
    return f"./{folder.name}" if folder.is_absolute() else saving.output_dir


def _plain(text: str) -> str:
    """Escape a text so that Markdown, HTML and a table's cell show it as it is."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _block(language: str, code: str) -> str:
    """Return code in a fence that is longer than any that its texts have."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _library(saving: SavingSettings) -> str:
    """Return the library that loads the result."""
    return "diffusers" if saving.save_format == "diffusers" else "ppdiffusers"


def _describe_run(config: Config, steps: int, processes: int, facts: FamilyFacts) -> dict[str, str]:
    """Return the rows of the table."""
    concepts = config.concepts
    prior = "no"
    weight = f"weight {config.objective.prior_loss_weight:g}"
    by_prediction = ", by the base model's predictions" if concepts.prior_by_prediction else ""
    if concepts.with_prior_preservation:
        drawn = (f'{each.count} pictures of "{_plain(each.prompt)}"' for each in concepts.classes)
        prior = f"{', '.join(drawn)}, {weight}{by_prediction}"
    elif concepts.prior_by_prediction:
        prompts = dict.fromkeys(_plain(each.class_prompt or "") for each in concepts.subjects)
        prior = f"none; {', '.join(f'{chr(34)}{each}{chr(34)}' for each in prompts)} kept{by_prediction}, {weight}"
    learners = facts.learners if config.model.train_text_encoder else (facts.denoiser,)
    trained = " and ".join(facts.labels[part] for part in learners)
    if config.model.layers:
        trained = f"{', '.join(config.model.layers)} of the {trained}"
    if config.lora.lora_rank:
        trained = f"{config.lora.in_words} beside {trained}"
    if config.word.learn_identifier:
        words = f"the new words {_plain(', '.join(config.concepts.new_words))}"
        trained = words if config.word.is_alone else f"{trained}, with {words}"
    height, width = config.pictures.size
    batch = config.optimizer.global_batch(processes)
    return {
        "base model": _plain(_base_name(config)),
        "prompt of the subject": ", ".join(f'"{_plain(subject.prompt)}"' for subject in concepts.subjects),
        "class pictures": prior,
        "learned": trained,
        "steps": f"{steps} updates, batch {batch}, learning rate {config.base_rate:g}",
        "size": f"{width} x {height}",
        "seed": str(config.run.seed),
    }


def _example_code(config: Config, facts: FamilyFacts) -> str:
    """Return Python code that draws with the library alone; none where that takes conditions: see docs/lora.md."""
    library, saving = _library(config.saving), config.saving
    lora, kinds = config.lora, registry.LAYER_KINDS.keys()
    is_read = facts.lora_in_library and not lora.use_dora and {*lora.targets} <= kinds
    is_read = is_read and not config.objective.zero_terminal_snr
    is_read = is_read and not (config.word.learn_identifier and len(facts.text_encoders) > 1)
    conditions = not is_read or config.model.train_text_encoder or library == "diffusers"
    if conditions and config.result != "pipeline":
        return ""
    loaded, added = _folder_name(saving), ""
    if config.result != "pipeline":
        loaded, folder = _base_name(config), _folder_name(saving)
        if config.lora.lora_rank:
            added = f"\npipeline.load_lora_weights({json.dumps(folder, ensure_ascii=False)})"
        for name in embeddings.file_names(config.concepts.new_words if config.word.learn_identifier else ()).values():
            added += f"\npipeline.load_textual_inversion({json.dumps(folder)}, weight_name={json.dumps(name)})"
    opened = "from PIL import Image\n" if facts.pictures else ""
    pictures = "".join(f', {argument}=Image.open("{name}")' for argument, name in facts.pictures.items())
    pictures += f", noise_level={facts.noise_level}" if facts.noise_level else ""
    prompt = json.dumps(config.concepts.subjects[0].prompt, ensure_ascii=False)
    code = f"""{opened}from {library} import {facts.pipeline}

pipeline = {facts.pipeline}.from_pretrained({json.dumps(loaded, ensure_ascii=False)}){added}
pipeline({prompt}{pictures}).images[0].save("picture.png")"""
    return f"\n{_block('python', code)}\n"


def _samples(output_dir: str, logging: LoggingSettings, steps: int) -> str:
    """Return a section that shows the last validation pictures, if there are any."""
    last = sorted((Path(output_dir) / output_folder.SAMPLES).glob(f"step-{steps}-*.png"))
    if not last:
        return ""
    shown = "\n".join(f"![{path.stem}]({output_folder.SAMPLES}/{path.name})" for path in last)
    validation = logging.validation_prompt or ()
    prompts = "\n".join(f'- {number}: "{_plain(prompt)}"' for number, prompt in enumerate(validation))
    return f"\n## Samples\n\nThe first number after the step is the prompt's:\n\n{prompts}\n\n{shown}\n"
