"""The card of a model as the hub shows it: with its licence, its base and its pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "README.md"
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n(.*)\Z", re.DOTALL)
# the licences that the models of docs/models.md have on the hub, by the beginnings of their names
_KNOWN = {
    "CompVis/stable-diffusion-v1": "creativeml-openrail-m",
    "runwayml/stable-diffusion": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2": "openrail++",
    "stabilityai/stable-diffusion-x4-upscaler": "openrail++",
    "stabilityai/stable-diffusion-xl": "openrail++",
    "IDEA-CCNL/Taiyi-Stable-Diffusion": "creativeml-openrail-m",
    "thu-ml/unidiffuser": "agpl-3.0",
}


def for_others(text: str, record: Mapping[str, Any], samples: Mapping[str, str], license: str | None) -> str:
    """Return a card with what the hub reads at its top; what its author wrote there, and below, stays.

    `samples` are the prompts of the pictures by their names. Without a licence of one's own it is the base model's,
    where that is known.
    """
    import yaml

    front, body = _parted(text)
    base = base_of(record)
    known = license or front.get("license") or license_of(record)
    made: dict[str, Any] = {"base_model": base, "pipeline_tag": "text-to-image"}
    if known:
        made["license"] = known
    if samples:
        made["widget"] = [{"text": prompt or " ", "output": {"url": name}} for name, prompt in samples.items()]
    merged = {**made, **front, **({"license": license} if license else {})}
    if record.get("base_folder"):
        merged["base_model"] = base  # of a folder the last part alone
    head = yaml.safe_dump(merged, allow_unicode=True, sort_keys=False, width=1000)
    sentence = _licence_in_words(base, known)
    body = body if sentence in body else f"{body.rstrip()}\n\n## Licence\n\n{sentence}\n"
    return f"---\n{head}---\n{body}"


def _parted(text: str) -> tuple[dict[str, Any], str]:
    """Return (what stands at a card's top, the text below)."""
    import yaml

    found = _FRONT.match(text)
    if found is None:
        return {}, f"\n{text}"
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError:
        front = "no YAML"
    if not isinstance(front or {}, dict):
        raise BadInput(f"--model_path: the top of {NAME}, between the lines ---, can't be read; mend or remove it")
    return front or {}, found[2]


def base_of(record: Mapping[str, Any]) -> str:
    """Return the base model's name; of a folder the last part alone."""
    return Path(str(record["base_folder"])).name if record.get("base_folder") else str(record["base_model"])


def license_of(record: Mapping[str, Any]) -> str | None:
    """Return the licence that the base model's own card tells, or the one that the hub has for its name."""
    folder = record.get("base_folder")
    if folder:
        try:
            front, _ = _parted((Path(folder) / NAME).read_text(encoding="utf-8"))
            return str(front["license"]) if front.get("license") else None
        except (BadInput, OSError, ValueError):  # it has none, or one that can't be read
            return None
    name = base_of(record)
    return next((known for beginning, known in _KNOWN.items() if not folder and name.startswith(beginning)), None)


def _licence_in_words(base: str, known: str | None) -> str:
    if known:
        return f"This model was made from {base}. Its licence is {known}; that of the base model applies to it too."
    return f"This model was made from {base}, whose licence applies to it."
