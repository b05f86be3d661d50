"""What a run's record says, as rows for people: its settings, its machine, and the commands to go on with it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.config.config import SECTIONS
from dreambooth.models import registry
from dreambooth.system import console, machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dreambooth.models.family.facts import FamilyFacts

# by which runs differ most often, so that every run's log has them
_COMPARED = (
    *("learning_rate", "text_encoder_lr", "train_batch_size", "gradient_accumulation_steps", "lr_scheduler"),
    *("optimizer", "lora_rank", "train_text_encoder", "with_prior_preservation", "prior_loss_weight", "ema_decay"),
    *("timestep_shift", "seed"),
)
_PATHS = ("output_dir", "logging_dir")  # in which runs differ, and that change no result


class Setting(NamedTuple):
    """A flag of a run, with its value and what it does."""

    name: str
    value: str
    help: str
    is_changed: bool


class Topic(NamedTuple):
    """The settings of one section."""

    title: str
    settings: tuple[Setting, ...]


def compared(record: Mapping[str, Any]) -> dict[str, str | float]:
    """Return the settings that a log compares runs by."""
    flags = record["flags"]
    return {"updates": int(record["steps"]), **{name: _plain(flags.get(name)) for name in _COMPARED}}


def _plain(value: object) -> str | float:
    """Return a value as a log's writer takes it: a number or a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return shown(value)
    return value


def shown(value: object) -> str:
    """Return a setting's value as people read it."""
    if value is None or value in ((), []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return console.without_secrets(value)
    if isinstance(value, (list, tuple)) and all(isinstance(each, (str, int, float)) for each in value):
        return ", ".join(shown(each) for each in value)
    return console.without_secrets(json.dumps(value, ensure_ascii=False, default=str))


def topics(flags: Mapping[str, Any]) -> list[Topic]:
    """List the settings by section, as the help has them; of a record of another version, those of today."""
    found = []
    for section in SECTIONS.values():
        settings = []
        for field in dataclasses.fields(section):
            value = flags.get(field.name, field.default)
            is_changed = _comparable(value) != _comparable(field.default)
            settings.append(Setting(field.name, shown(value), str(field.metadata["help"]), is_changed))
        found.append(Topic(section.title, tuple(settings)))
    return found


def differences(several: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """List the settings in which runs differ, with the value of each run."""
    rows = [("updates", [shown(record.get("steps")) for record in several])]
    for section in SECTIONS.values():
        for field in dataclasses.fields(section):
            values = [record["flags"].get(field.name, field.default) for record in several]
            rows.append((field.name, [shown(value) for value in values]))
    rows.append(("processes", [shown(record.get("processes")) for record in several]))
    return [(name, values) for name, values in rows if len({*values}) > 1 and name not in _PATHS]


def _comparable(value: object) -> object:
    """Return a value in which JSON's lists are tuples, as the fields have them, and nothing is None."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_comparable, value)) or None
    return value


def machine_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the machine, the processes and the versions of a run."""
    rows = []
    try:
        rows.append(("device", machine.in_words(record["machine"])))
    except (KeyError, TypeError, AttributeError):  # of another version
        rows.append(("device", shown(record.get("machine"))))
    rows.append(("processes", shown(record.get("processes"))))
    versions = record.get("versions")
    rows += [(str(name), shown(value)) for name, value in versions.items()] if isinstance(versions, dict) else []
    return rows


def commands(folder: Path, record: Mapping[str, Any], has_result: bool, checkpoint: Path | None) -> Iterator[
    tuple[str, str]
]:  # fmt: skip
    """Yield (what for, command) of what can be done with the folder of a run: `checkpoint` is its newest."""
    python, script = console.script_command("infer.py")
    place, flags = shlex.quote(str(folder)), record["flags"]
    prompt = _prompt_of(record)
    facts = _facts_of(record)
    begin = f" --image {facts.pictures['image']}" if facts is not None and facts.enlarges else ""
    drawn = place if has_result else shlex.quote(str(checkpoint)) if checkpoint else ""
    if drawn:
        yield "draw", f"{python} {script} --model_path {drawn}{begin} --prompt {shlex.quote(prompt)}"
    if checkpoint and has_result:
        yield (
            "grid",
            f"{python} {script} --model_path {place}{begin} --prompt {shlex.quote(prompt)} --grid checkpoint=all"
            " seed=0-3",
        )
    training = console.script_command("train_dreambooth.py")
    if not has_result and checkpoint:
        yield "resume", f"{' '.join(training)} {_as_flags(flags)} --resume_from_checkpoint latest"
    if has_result:
        yield "again", f"{' '.join(training)} {_as_flags(flags)}"
        if checkpoint:
            more = {**flags, "max_train_steps": 2 * int(record["steps"])}
            yield "further", f"{' '.join(training)} {_as_flags(more)} --resume_from_checkpoint latest"
        format, name = _export_of(flags, facts)
        output = shlex.quote(str(folder.with_name(f"{folder.name or 'exported'}{name}")))
        yield "export", f"{python} -m dreambooth.export --model_path {place} --format {format} --output {output}"


def _prompt_of(record: Mapping[str, Any]) -> str:
    validation = record["flags"].get("validation_prompt")
    if isinstance(validation, (list, tuple)) and validation:
        return str(validation[0])
    return str(record["concepts"][0]["prompt"])


def _facts_of(record: Mapping[str, Any]) -> FamilyFacts | None:
    try:
        return registry.facts_of(record["base_index"])
    except (KeyError, TypeError, AttributeError):  # of another version
        return None


def _export_of(flags: Mapping[str, Any], facts: FamilyFacts | None) -> tuple[str, str]:
    """Return the format that most others read of a result, and the end of its name."""
    if flags.get("lora_rank") and not flags.get("lora_merge"):
        return ("lora_web_ui" if facts is not None and facts.web_ui_networks else "lora_diffusers"), ".safetensors"
    if facts is not None and facts.single_file:
        return "single_file", ".safetensors"
    return "diffusers", "-diffusers"


def _as_flags(flags: Mapping[str, Any]) -> str:
    """Return the flags of a command line that has these settings; a list of subjects stands in a file of the user's."""
    words: list[str] = []
    for section in SECTIONS.values():
        for field in dataclasses.fields(section):
            value = flags.get(field.name, field.default)
            if _comparable(value) == _comparable(field.default) or field.name == "resume_from_checkpoint":
                continue
            words += _as_words(field, value)
    return " ".join(words)


def _as_words(field: dataclasses.Field[Any], value: object) -> list[str]:
    flag = f"--{field.name}"
    if field.name == "concepts":
        return [flag, "SUBJECTS.yaml"]
    if isinstance(value, bool):
        return [flag if value else f"--no_{field.name}"]
    if isinstance(value, (list, tuple)):
        texts = [shlex.quote(str(each)) for each in value]
        if field.metadata["parser"].get("action") == "append":
            return [word for text in texts for word in (flag, text)]
        return [flag, *texts]
    if value is None:
        return []
    return [flag, shlex.quote(shown(value) if isinstance(value, str) else repr(value))]
