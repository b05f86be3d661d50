"""The output folder: whose it is, the pipeline in it, and what tells later how it was made."""

import sys
from pathlib import Path

from dreambooth.files import atomic, lora, moves
from dreambooth.models import loading
from dreambooth.run import checkpoints
from dreambooth.system import libraries
from dreambooth.system.errors import BadInput

ARGUMENTS = "training_args.json"
CARD = "README.md"
SAMPLES = "samples"
INDEX = "model_index.json"
LAST = (*lora.NAMES.values(), INDEX)  # the files by which a folder loads, in the order in which they arrive


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
    moves.finish_move(folder)
    if not config.lora.saves_pipeline and (folder / INDEX).exists():
        raise BadInput(
            f"--output_dir {folder}: it holds a whole pipeline, which a LoRA alone would not replace; give a new"
            " folder, or --lora_merge"
        )
    if is_ours(folder):
        return atomic.clean(folder)
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
    atomic.clean(folder)


def is_ours(folder):
    """Whether an earlier run wrote into this folder: its record or a whole checkpoint is there."""
    try:
        record = atomic.read_json(folder / ARGUMENTS)
        return {"flags", "base_model", "concepts", "versions"} <= record.keys()
    except (OSError, ValueError, AttributeError):
        return bool(checkpoints.scan(folder)[0])


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


def save_result(family, config, record, card):
    """Write the pipeline, or the LoRA, with its card and arguments, in place of an earlier result."""
    folder = Path(config.saving.output_dir)
    form = "diffusers" if config.saving.save_format == "diffusers" else "paddle"
    what = f"the {'pipeline' if config.lora.saves_pipeline else 'LoRA'} in {folder}"
    with moves.whole_parts(folder, LAST, parts_of(folder), what) as temporary:
        if config.lora.lora_rank:
            matrices = {part: adapters.matrices() for part, adapters in family.adapters.items()}
            lora.write(temporary / lora.NAMES[form], matrices, form, family.facts.lora_prefixes)
            if config.lora.lora_merge:
                for adapters in family.adapters.values():
                    adapters.detach()
                loading.merge(family.learners(), matrices)
        if config.lora.saves_pipeline:
            family.save(temporary, config.saving.save_format)
        atomic.write_json(temporary / ARGUMENTS, record)
        atomic.write_text(temporary / CARD, card)


def lacks_result(folder, state):
    """Return whether a checkpoint is newer than the result in the folder, as after a full disk at the end of a run."""
    record = Path(folder) / ARGUMENTS
    return not record.exists() or record.stat().st_mtime_ns < state["written_ns"]


def parts_of(folder):
    """The names of what belongs to the pipeline in a folder."""
    try:
        index = atomic.read_json(folder / INDEX)
        return [name for name in index if isinstance(index[name], list) and name == Path(name).name]
    except (OSError, ValueError, TypeError):
        return []


def save_samples(config, step, pictures):
    """Write validation pictures as samples/step-N-PROMPT-K.png."""
    folder = Path(config.saving.output_dir) / SAMPLES
    for index, picture in enumerate(pictures):
        prompt, number = divmod(index, config.logging.validation_count)
        atomic.write_picture(folder / f"step-{step}-{prompt}-{number}.png", picture)
