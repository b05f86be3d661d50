"""The layouts of a pipeline's folder: Paddle's and that of diffusers, in their varieties, and Paddle's before 2023.

The library converts weights of torch, but it writes into the folder that it reads, and it expects one name for each
file. It also runs a None.py in a folder, and imports any module that model_index.json names. So it gets a folder of
links to the files that it has to read, and to no others.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.files import atomic, moves, safetensors
from dreambooth.models import registry
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

    from dreambooth.models.family.facts import FamilyFacts

_EITHER = "model.safetensors"  # of Paddle or of torch, according to its metadata
# the weights that the library looks for, the best first: safetensors hold nothing but weights
PADDLE = ("diffusion_paddle_model.safetensors", _EITHER, "model_state.pdparams")
_IN_PARTS = f"{_EITHER}.index.json"  # names the files of a network that has several, as those of T5 have
_PARTS = re.compile(r"model(\.fp16)?-\d+-of-\d+\.safetensors")
TORCH = ("diffusion_pytorch_model.safetensors", _EITHER, _IN_PARTS, "diffusion_pytorch_model.bin", "pytorch_model.bin")
CONFIG, OLD_CONFIG = "config.json", "model_config.json"
_SMALL = (".json", ".txt", ".model")  # settings, vocabularies, SentencePiece
_kept: list[tempfile.TemporaryDirectory[str]] = []  # folders of links, deleted when the process ends


class Weights(NamedTuple):
    """A file of weights, or the index of several, and the name under which the library looks for it."""

    file: str
    expected: str

    def paths(self, folder: Path) -> list[Path]:
        """List the files of weights in their folder. ValueError names the fault of an index."""
        path = folder / self.file
        return _files_of_index(path) if self.expected == _IN_PARTS else [path]


class Choice(NamedTuple):
    """The files of a pipeline's networks: all of them are Paddle's, or all torch's."""

    is_torch: bool
    files: Mapping[str, Weights]  # by part


def choose(names: Mapping[str, Collection[str]], either_is_torch: Mapping[str, bool]) -> Choice | None:
    """Choose between Paddle's and torch's files of the networks; None if neither has one for each network.

    `names` has the names of the files of each part; `either_is_torch` has the kind of a part's _EITHER, where that is
    known. Full precision goes before half, safetensors before pickles, and torch's pickles before Paddle's: the library
    itself leaves a .pdparams in a folder of torch, and a stranger may too.
    """

    def rank(choice: Choice) -> tuple[int, int, int, bool]:
        halves = sum(weights.file != weights.expected for weights in choice.files.values())
        pickles = sum(not weights.file.endswith((".safetensors", ".json")) for weights in choice.files.values())
        # a repository whose files are all of unknown kind is one of torch
        guesses = sum(
            weights.expected == _EITHER and part not in either_is_torch for part, weights in choice.files.items()
        )
        return halves, pickles, 0 if choice.is_torch else guesses, pickles > 0 and not choice.is_torch

    choices = []
    for is_torch in (False, True):
        files = {part: _best(inside, is_torch, either_is_torch.get(part)) for part, inside in names.items()}
        found = {part: weights for part, weights in files.items() if weights is not None}
        if len(found) == len(files):
            choices.append(Choice(is_torch, found))
    return min(choices, key=rank, default=None)


def _best(names: Collection[str], is_torch: bool, either_is_torch: bool | None) -> Weights | None:
    """Return the best file of one kind. One of half precision stands in where there is no other, as in fp16 folders."""
    full = {name: name for name in names}
    half = {name.replace(".fp16.", "."): name for name in names if ".fp16." in name}
    for known in (full, half):
        for expected in TORCH if is_torch else PADDLE:
            if expected in known and (expected != _EITHER or either_is_torch in (None, is_torch)):
                return Weights(known[expected], expected)
    return None


def choose_files(folder: Path, facts: FamilyFacts) -> Choice:
    """Choose the files of the networks of a folder that has weights for each. ValueError names the fault."""
    folders = {part: part_folder(folder, part, facts) for part in facts.networks}
    names = {part: _files_in(path) for part, path in folders.items()}
    either_is_torch = {}
    for part, inside in names.items():
        for file in (_EITHER, _EITHER.replace(".", ".fp16.")):
            if file in inside and part not in either_is_torch:
                metadata = safetensors.header(folders[part] / file).metadata or {}
                either_is_torch[part] = metadata.get("format", "pt") == "pt"
        if (found := _best(inside, True, False)) and found.expected == _IN_PARTS:
            for path in found.paths(folders[part]):
                if (safetensors.header(path).metadata or {}).get("format", "pt") != "pt":
                    raise ValueError(f"{part}/ has weights of Paddle in several files; join them in one")
    choice = choose(names, either_is_torch)
    if choice is None:
        lacking = [
            next(part for part in names if _best(names[part], is_torch, either_is_torch.get(part)) is None)
            for is_torch in (True, False)
        ]
        raise ValueError(f"{lacking[0]}/ is in Paddle's format, and {lacking[1]}/ in torch's; they can't be mixed")
    return choice


def has_weights(folder: Path) -> bool:
    """Check whether the folder of a network has weights of some kind."""
    return any(_best(_files_in(folder), is_torch, None) for is_torch in (False, True))


def part_folder(folder: Path, part: str, facts: FamilyFacts) -> Path:
    """Return the folder of a part, which may have the name that newer diffusers give it."""
    newer = folder / facts.newer_names.get(part, part)
    return newer if newer.is_dir() and not (folder / part).is_dir() else folder / part


def _files_of_index(path: Path) -> list[Path]:
    """List the files that an index of weights names, which lie beside it. ValueError names its fault."""
    try:
        names = sorted({str(name) for name in atomic.read_json(path)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is no index of weights") from error
    for name in names:
        if not _PARTS.fullmatch(name) or not (path.parent / name).is_file():
            raise ValueError(f"{path.parent.name}/{path.name} names {ascii(name)}, which is not there")
    return [path.parent / name for name in names]


def _files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@contextlib.contextmanager
def readable(name: str | Path, flag: str) -> Iterator[tuple[Path, bool]]:
    """Yield (a folder that the library can load, whether its weights are torch's).

    The weights in that folder are gone afterwards. Its small files stay as long as the process, since a tokenizer is
    saved by copying them.
    """
    source = Path(name).resolve()
    index = atomic.read_json(source / moves.INDEX)
    facts = registry.facts_of(index)
    try:
        choice = choose_files(source, facts)
    except ValueError as error:
        raise BadInput(f"{flag} {name}: it can't be loaded ({error})") from None
    _kept.append(tempfile.TemporaryDirectory(prefix="dreambooth-"))
    links = Path(_kept[-1].name)
    try:
        _link_folder(source, links, facts, choice)
        _write_index(index, links, facts)
        yield links, choice.is_torch
    finally:
        for file in links.glob("*/*"):
            if file.suffix not in _SMALL:  # the links, and the .pdparams that the library leaves beside them
                file.unlink()


def networks_in_parts(readable: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield each network of a readable folder whose weights are in several files, and these."""
    for index in sorted(readable.glob(f"*/{_IN_PARTS}")):
        yield index.parent.name, _files_of_index(index)


@contextlib.contextmanager
def readable_network(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the same for the folder of one network. ValueError names the fault."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"it has no {CONFIG}")
    choice = choose({"": _files_in(folder)}, {})
    if choice is None:
        raise ValueError("it has no weights")
    [weights] = choice.files.values()
    with tempfile.TemporaryDirectory(prefix="dreambooth-") as links:
        (Path(links) / CONFIG).symlink_to(folder.resolve() / CONFIG)
        (Path(links) / weights.expected).symlink_to(folder.resolve() / weights.file)
        yield Path(links), choice.is_torch


def _link_folder(source: Path, links: Path, facts: FamilyFacts, choice: Choice) -> None:
    """Fill a folder with links to the files that the library has to read, under the names that it looks for."""
    for name in (*facts.parts, *facts.optional_parts):
        folder, part = part_folder(source, name, facts), links / name
        if not folder.is_dir():
            continue
        part.mkdir()
        for file in folder.iterdir():
            if file.suffix in _SMALL and not file.name.endswith(".index.json") and file.is_file():
                (part / file.name).symlink_to(file)
        if name in choice.files:
            file, expected = folder / choice.files[name].file, part / choice.files[name].expected
            prefix = _omitted_prefix(file) if choice.is_torch and name in facts.text_encoders else None
            if prefix is not None:
                _add_prefix(file, expected, prefix)
            else:
                expected.symlink_to(file)
            for path in choice.files[name].paths(folder):
                if path != file:
                    (part / path.name).symlink_to(path)
        _write_vocabulary(part)
        if settings := _newer_settings(folder):
            atomic.write_json(part / CONFIG, settings)


def _write_index(index: Mapping[str, Any], links: Path, facts: FamilyFacts) -> None:
    """Write a model_index.json that names the parts in the folder and nothing else."""
    known: dict[str, Any] = {
        name: value for name, value in index.items() if name.startswith("_") and isinstance(value, str)
    }
    known |= {name: index[name] for name in facts.index_settings if isinstance(index.get(name), (bool, int))}
    for part in (*facts.parts, *facts.optional_parts):
        names = index.get(part) or index.get(facts.newer_names.get(part, part))
        if names and (links / part).is_dir():
            known[part] = names
    atomic.write_json(links / moves.INDEX, known)


def _newer_settings(part: Path) -> dict[str, Any] | None:
    """Return the settings of a text encoder of before 2023 in their names of today, None if they have them."""
    path = part / OLD_CONFIG
    if (part / CONFIG).exists() or not path.is_file():
        return None
    old = atomic.read_json(path)
    for inner in old.pop("init_args", []):
        old |= inner if isinstance(inner, dict) else {}
    newer = (facts.newer_settings(old) for facts in registry.TEXT_ENCODER_CLASSES)
    return next((settings for settings in newer if settings is not None), None)


def _omitted_prefix(file: Path) -> str | None:
    """Return the prefix that a text encoder's weights lack, as transformers 5 writes them; None if they lack none."""
    if file.suffix != ".safetensors":
        return None
    config = atomic.read_json(file.parent / CONFIG)
    prefix = next((facts.prefix for facts in registry.TEXT_ENCODER_CLASSES if facts.has(config)), None)
    if prefix is None or any(name.startswith(prefix) for name in safetensors.header(file).entries):
        return None
    return prefix


def _add_prefix(file: Path, target: Path, prefix: str) -> None:
    """Write the same weights under the names that they had before transformers 5."""
    metadata = {**(safetensors.header(file).metadata or {}), "format": "pt"}
    safetensors.copy_renamed(file, target, lambda name: prefix + name, metadata)


def _write_vocabulary(tokenizer: Path) -> None:
    """Write the vocabulary files that the library reads, where a tokenizer is one tokenizer.json."""
    whole = tokenizer / "tokenizer.json"
    if not whole.is_file() or any((tokenizer / name).exists() for name in ("vocab.json", "vocab.txt")):
        return
    model = atomic.read_json(whole)["model"]
    if model.get("type") == "WordPiece":
        words = sorted(model["vocab"], key=model["vocab"].get)
        atomic.write_text(tokenizer / "vocab.txt", "\n".join(words) + "\n")
        return
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    atomic.write_json(tokenizer / "vocab.json", model["vocab"])
    atomic.write_text(tokenizer / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))


def of_network(files: Collection[str]) -> list[str]:
    """Return the files of a repository that is one network which are needed of it; none where it has no weights."""
    choice = choose({"": [file for file in files if "/" not in file]}, {})
    return [CONFIG, choice.files[""].file] if choice else []


def worth_fetching(files: Collection[str]) -> list[str]:
    """Return the files of a repository that a pipeline needs: the best weights of each network, and all small files."""
    parts: dict[str, list[str]] = {}
    for folder, _, name in (file.rpartition("/") for file in files):
        parts.setdefault(folder, []).append(name)
    known = {part: names for part, names in parts.items() if part in registry.PARTS}
    chosen = {f"{part}/{name}" for part, names in known.items() for name in names if name.endswith(_SMALL)}
    networks = {
        part: names for part, names in known.items() if any(_best(names, is_torch, None) for is_torch in (False, True))
    }
    choice = choose(networks, {})
    for part, names in networks.items():
        weights = choice.files[part] if choice else _best(names, True, None) or _best(names, False, None)
        chosen |= {f"{part}/{weights.file}"} if weights else set()
        if weights and weights.expected == _IN_PARTS:
            is_half = weights.file != weights.expected
            parts_of_it = (match for name in names if (match := _PARTS.fullmatch(name)))
            chosen |= {f"{part}/{match[0]}" for match in parts_of_it if bool(match[1]) == is_half}
    return sorted({moves.INDEX, *chosen})
