"""The files of a result that others get: the model, its card, its record, its pictures; and nothing else of a run."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dreambooth.config.config import Config
from dreambooth.data import picture_files, surveys
from dreambooth.files import atomic, embeddings, lora, moves, records
from dreambooth.run import output_folder
from dreambooth.run.sharing import card, cleaning
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_KEPT_TEXT = ("prompt", "picture", "seed", "updates")  # of a sample
_TRAINING = "training_pictures"
_SETTINGS = ("config.json", "special_tokens_map.json", moves.INDEX)  # the ends of names; a vocabulary is none
_FLAG = "--model_path"


@dataclass(frozen=True)
class Entry:
    """A file to share: its name, and its content, or the path where that is."""

    name: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """The bytes of it."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def write(self, folder: Path) -> None:
        """Write it below a folder."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, Path):
            shutil.copyfile(self.content, path)
        else:
            path.write_bytes(self.content)


def collect(folder: Path, license: str | None = None, with_training_pictures: bool = False) -> list[Entry]:
    """List the files of a result as others may have them; what can't be shared so is a BadInput that names the file."""
    record = _read_record(folder)
    files = list(_model_files(folder))
    if not files:
        raise BadInput(f"{_FLAG} {folder}: it has no pipeline, no LoRA and no learned word")
    samples = list(_samples(folder, record))
    found = [_as_entry(folder, path) for path in files]
    found.append(Entry(records.RESULT, _encoded(atomic.as_json(cleaning.without_places(record)))))
    found += samples
    shown = {entry.name: _prompt_of(entry) for entry in samples}
    text = (folder / card.NAME).read_text(encoding="utf-8") if (folder / card.NAME).is_file() else ""
    found.append(Entry(card.NAME, _encoded(card.for_others(text, record, shown, license))))
    if with_training_pictures:
        found += _training_pictures(folder, record)
    for entry in found:
        _check(folder, entry, record)
    return sorted(found, key=lambda entry: entry.name)


def _encoded(text: str) -> bytes:
    """Return a text as UTF-8, with ? for what is none, such as in a name of a file."""
    return text.encode("utf-8", "replace")


def _read_record(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadInput(f"{_FLAG} {folder}: there is no such folder")
    if (folder / records.STATE).is_file():
        raise BadInput(f"{_FLAG} {folder}: it is a checkpoint; give the folder of its run, {folder.parent}")
    moves.finish_move(folder, _FLAG)
    record = records.read_result(folder)
    if record is None:
        raise BadInput(f"{_FLAG} {folder}: it has no result of a run ({records.RESULT} is missing, or can't be read)")
    try:
        if not isinstance(record["flags"], dict) or not all(str(each["prompt"]) for each in record["concepts"]):
            raise TypeError("no settings, or no prompts")
        int(record["steps"])
        if not isinstance(record.get("base_folder"), (str, type(None))):
            raise TypeError("base_folder is no name")
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(f"{_FLAG} {folder}: its {records.RESULT} can't be read ({error})") from None
    return record


def _model_files(folder: Path) -> Iterator[Path]:
    """Yield the files of the pipeline, or of the LoRA and the words."""
    index = folder / moves.INDEX
    if index.is_file():
        yield index
        try:
            parts = [name for name, value in atomic.read_json(index).items() if isinstance(value, list)]
        except ValueError as error:
            raise BadInput(f"{_FLAG} {folder}: its {moves.INDEX} can't be read ({error})") from None
        for part in parts:
            if part == Path(part).name and (folder / part).is_dir():
                yield from (each for each in atomic.files_in(folder / part) if not each.name.startswith("."))
    yield from (folder / name for name in lora.NAMES.values() if (folder / name).is_file())
    yield from embeddings.files_in(folder)


def _as_entry(folder: Path, path: Path) -> Entry:
    """Return a file of the model; the libraries write the paths that they loaded from into their settings."""
    name = path.relative_to(folder).as_posix()
    if not path.name.endswith(_SETTINGS):
        return Entry(name, path)
    text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput(f"{_FLAG} {folder}: {name} is no JSON") from None
    if not isinstance(value, dict):
        return Entry(name, path)
    changed = cleaning.cleaned(value)
    return Entry(name, path if changed == value else _encoded(atomic.as_json(changed)))


def _samples(folder: Path, record: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the drawings of the step whose weights the result has, with prompt and seed alone as their texts."""
    step = int(record.get("saved_step") or record["steps"])
    for path in sorted((folder / output_folder.SAMPLES).glob(f"step-{step}-*.png"), key=_in_order):
        try:
            with Image.open(path) as picture:
                text = {name: str(picture.info[name]) for name in _KEPT_TEXT if name in picture.info}
                yield Entry(f"{output_folder.SAMPLES}/{path.name}", _as_png(picture.convert("RGB"), text))
        except (OSError, ValueError, SyntaxError):
            raise BadInput(f"{_FLAG} {folder}: {path.name} is no picture; remove it") from None


def _in_order(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _as_png(picture: Image.Image, text: Mapping[str, str]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    chunks, data = PngInfo(), io.BytesIO()
    for name, value in text.items():
        chunks.add_itxt(name, str(cleaning.cleaned(value)))
    picture.save(data, "PNG", pnginfo=chunks)
    return data.getvalue()


def _prompt_of(entry: Entry) -> str:
    assert isinstance(entry.content, bytes)
    with Image.open(io.BytesIO(entry.content)) as picture:
        return str(picture.info.get("prompt", ""))


def _training_pictures(folder: Path, record: Mapping[str, Any]) -> Iterable[Entry]:
    """Return the pictures that the run trained on, turned upright and without what a camera wrote into them.

    Their captions stand beside them as the hub's data sets have them.
    """
    try:
        settings = Config.from_flat(**record["flags"])
        concepts = surveys.survey(settings.concepts, settings.pictures).concepts
    except (BadInput, TypeError, OSError) as error:
        raise BadInput(f"--with_training_pictures: they are not where the run found them: {error}") from None
    recorded = {each["sha256"] for concept in record["concepts"] for each in concept["pictures"]}
    pictures = [(concept, picture) for concept in concepts for picture in concept.pictures]
    if {picture.sha256 for _, picture in pictures} != recorded:
        raise BadInput("--with_training_pictures: the pictures there are not those that the run trained on")
    found, lines = [], []
    for number, (concept, picture) in enumerate(pictures):
        name = f"{number:03d}-{picture.path.stem}.png"
        found.append(Entry(f"{_TRAINING}/{name}", _as_png(picture_files.open_picture(picture.path), {})))
        lines.append(json.dumps({"file_name": name, "text": picture.caption or concept.prompt}, ensure_ascii=False))
    return [*found, Entry(f"{_TRAINING}/metadata.jsonl", _encoded("\n".join(lines) + "\n"))]


def _check(folder: Path, entry: Entry, record: Mapping[str, Any]) -> None:
    """Refuse a file in which something of this machine is left."""
    own = [str(folder.resolve()), str(record.get("base_folder") or "")]
    own = [each for each in own if each.count("/") > 1]
    content = entry.content
    chunks = cleaning.chunks_of(content) if isinstance(content, Path) else [content]
    if what := cleaning.found_in(chunks, own):
        raise BadInput(f"{_FLAG} {folder}: {entry.name} has {what} in it; remove that, so that nobody reads it")
