"""The output folder: whose it is, the pipeline in it, and what tells later how it was made."""

import json
import shutil
import sys
from pathlib import Path

from dreambooth.files import atomic, lora
from dreambooth.models import loading
from dreambooth.run import checkpoints
from dreambooth.system import libraries
from dreambooth.system.errors import BadInput

ARGUMENTS = "training_args.json"
CARD = "README.md"
SAMPLES = "samples"


def check(config):
    """Refuse a folder that can't be written, or that holds something else than an earlier run."""
    folder = Path(config.saving.output_dir)
    if not atomic.can_be_written(folder):
        raise BadInput(f"--output_dir {folder}: it is no folder that can be written")
    for flag, place in (("--logging_dir", log_folder(config)), ("--class_data_dir", config.concepts.class_data_dir)):
        if place and not atomic.can_be_written(Path(place)):
            raise BadInput(f"{flag} {place}: it is no folder that can be written")
    if not folder.is_dir():
        return
    if not config.lora.saves_pipeline and (folder / "model_index.json").exists():
        raise BadInput(
            f"--output_dir {folder}: it holds a whole pipeline, which a LoRA alone would not replace; give a new"
            " folder, or --lora_merge"
        )
    if is_ours(folder):
        return
    begun = [SAMPLES]
    for place in filter(
        None, (log_folder(config), config.concepts.class_data_dir)
    ):  # a run that came no further made these
        if Path(place).resolve().is_relative_to(folder.resolve()):
            begun += Path(place).resolve().relative_to(folder.resolve()).parts[:1]
    foreign = sorted(each.name for each in folder.iterdir() if not each.name.startswith(".") and each.name not in begun)
    if foreign:
        raise BadInput(
            f"--output_dir {folder}: it holds something else than an earlier run ({', '.join(foreign[:3])});"
            " give a new or empty folder"
        )


def is_ours(folder):
    """Whether an earlier run wrote into this folder: its record or a whole checkpoint is there."""
    try:
        record = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
        return {"flags", "base_model", "concepts", "versions"} <= record.keys()
    except (OSError, ValueError, AttributeError):
        return bool(checkpoints.survey(folder)[0])


def log_folder(config):
    return Path(config.saving.output_dir) / config.logging.logging_dir


def arguments(config, steps, processes, concepts):
    """All that is needed to make the result again. There is no flag for a token, so none can get in here."""

    def listed(pictures):
        return [{"name": each.path.name, "sha256": each.sha256} for each in pictures]

    return {
        "flags": config.flat(),
        "base_model": config.model.pretrained_model_name_or_path,
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
        "versions": {"python": sys.version.split()[0], **libraries.versions()},
    }


def as_text(record):
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def save_result(family, config, record, card):
    """Write the pipeline, or the LoRA, with its card and arguments beside its place, then move each part in;
    model_index.json, by which a folder is a pipeline, comes last."""
    folder = Path(config.saving.output_dir)
    unfinished = folder / ".pipeline.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    form = "diffusers" if config.saving.save_format == "diffusers" else "paddle"
    if config.lora.lora_rank:
        matrices = {part: adapters.matrices() for part, adapters in family.adapters.items()}
        lora.write(unfinished / lora.NAMES[form], matrices, form)
        if config.lora.lora_merge:
            for adapters in family.adapters.values():
                adapters.take_off()
            loading.merge(family.learners(), matrices)
    if config.lora.saves_pipeline:
        family.save(str(unfinished), config.saving.save_format)
    (unfinished / ARGUMENTS).write_text(as_text(record), encoding="utf-8")
    (unfinished / CARD).write_text(card, encoding="utf-8")
    for path in atomic.files_in(unfinished):
        atomic.flush(path)
    for part in sorted(unfinished.iterdir(), key=lambda each: (each.name == "model_index.json", each.name)):
        place = folder / part.name
        if place.is_dir():
            shutil.rmtree(place)
        part.replace(place)
    for name in lora.NAMES.values():  # an earlier run's, in another format
        if not (config.lora.lora_rank and name == lora.NAMES[form]):
            (folder / name).unlink(missing_ok=True)
    unfinished.rmdir()
    atomic.flush(folder)


def save_samples(config, step, pictures):
    """Write validation pictures as samples/step-N-PROMPT-K.png."""
    folder = Path(config.saving.output_dir) / SAMPLES
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        prompt, number = divmod(index, config.logging.validation_count)
        picture.save(folder / f"step-{step}-{prompt}-{number}.png")
