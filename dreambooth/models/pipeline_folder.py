"""Checks of a pipeline's folder, before the libraries are loaded: its index, its parts, its files of weights."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.files import atomic, moves, records, weight_files
from dreambooth.files.safetensors import shown
from dreambooth.models import layouts, registry
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.models.family.facts import FamilyFacts
    from dreambooth.system.types import JSON

FLAG = "--pretrained_model_name_or_path"
# files of the parts that hold a JSON object, as the index does
_SETTINGS = (
    layouts.CONFIG,
    layouts.OLD_CONFIG,
    "scheduler_config.json",
    "tokenizer_config.json",
    "vocab.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)

# sizes of networks, which the libraries multiply and divide by; a damaged one would fail in the first step
_SIZES = (
    *("num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "max_position_embeddings"),
    *("vocab_size", "layers_per_block", "norm_num_groups", "in_channels", "out_channels", "latent_channels"),
    *("cross_attention_dim", "sample_size", "attention_head_dim"),
)

_LATENTS, _COLOURS = 4, 3  # channels of a VAE that says nothing of it, and of pixels
_OUTPUT = ("project_dim", "hidden_size", "d_model")  # of a text encoder: AltDiffusion's, CLIP or BERT, and T5
_OF_LEVELS = ("num_class_embeds", "class_embed_type")  # a denoiser that is told how noisy a small picture is

_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pdparams")
_SAMPLES, _SAMPLE = 64, 4096  # places in a file of weights, and the bytes at each


def _is_path(name: str) -> bool:
    """Check whether a name that is no folder is rather meant as a path than as a name on the hub."""
    return name.startswith((".", "/", "~")) or name.endswith(("/", *_SINGLE_FILES)) or name.count("/") > 1


def check(name: str, flag: str = FLAG) -> None:
    """Refuse a local folder that is no whole pipeline of a family of the registry; the message names the fault.

    A name on the hub passes: it is checked when it has been fetched.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_file() and folder.suffix in _SINGLE_FILES:
            paths = f"--model_path {shlex.quote(name)} --output {shlex.quote(str(folder.with_suffix('')))}"
            raise BadInput(
                f"{flag} {name}: a single file, as web UIs have, and this tool reads folders. This makes one, with a"
                f" model of the same kind: python -m dreambooth.export {paths} --format safetensors --like MODEL"
                " (a file that is a LoRA goes to --lora of infer.py)"
            )
        if folder.exists() or _is_path(name):
            kind = "file" if name.endswith(_SINGLE_FILES) else "folder"
            raise BadInput(f"{flag} {name}: there is no such {kind}")
        return
    moves.finish_move(folder, flag)
    if base := records.find_base(name, flag):
        raise BadInput(f"{flag} {name}: it is a {base.kind}; python -m dreambooth.export makes a whole model of it")
    if not (folder / moves.INDEX).is_file():
        inside = ", ".join(sorted(each.name for each in folder.iterdir())[:5]) or "nothing"
        raise BadInput(f"{flag} {name}: no pipeline, it has no {moves.INDEX} (there is {inside})")
    try:
        index = read_index(folder)
    except ValueError as error:
        raise BadInput(f"{flag} {name}: its {moves.INDEX} can't be read ({error})") from None
    facts = check_index(name, index, flag)
    for part in facts.parts:
        _check_part(name, folder, part, facts, flag)
    _check_denoiser(name, folder, facts, flag)
    try:
        for part, chosen in layouts.choose_files(folder, facts).files.items():
            for path in chosen.paths(layouts.part_folder(folder, part, facts)):
                weight_files.check(path)
    except ValueError as error:
        raise BadInput(f"{flag} {name}: it can't be loaded ({error})") from None


def _check_part(name: str, pipeline: Path, part: str, facts: FamilyFacts, flag: str) -> None:
    folder = layouts.part_folder(pipeline, part, facts)
    if not folder.is_dir():
        raise BadInput(f"{flag} {name}: it has no folder {part}/")
    for file in filter(Path.is_file, (folder / each for each in _SETTINGS)):
        try:
            settings = atomic.read_json(file)
        except ValueError as error:
            raise BadInput(f"{flag} {name}: {part}/{file.name} can't be read ({error})") from None
        for size in _SIZES if file.name in (layouts.CONFIG, layouts.OLD_CONFIG) else ():
            if isinstance(value := settings.get(size), (int, float)) and value < 1:
                raise BadInput(f"{flag} {name}: {part}/{file.name} can't be used ({size} is {value})")
        for setting in facts.refused.get(part, ()) if file.name == layouts.CONFIG else ():
            if settings.get(setting):
                reason = f"{setting} is {shown(str(settings[setting]))}, as in {facts.refused_models}"
                raise BadInput(f"{flag} {name}: {part}/{file.name} can't be used ({reason})")
    if part in facts.without_weights:
        if not any(folder.iterdir()):
            raise BadInput(f"{flag} {name}: its folder {part}/ is empty")
        return
    # in old folders of Paddle's store, a text encoder's settings have another name
    needed = ["scheduler_config.json"] if part in facts.schedulers else [layouts.CONFIG, layouts.OLD_CONFIG]
    if not any((folder / file).is_file() for file in needed):
        raise BadInput(f"{flag} {name}: {part}/{needed[0]} is missing")
    if part not in facts.schedulers and not layouts.has_weights(folder):
        raise BadInput(f"{flag} {name}: its folder {part}/ has no weights (model_state.pdparams or *.safetensors)")


def _check_denoiser(name: str, pipeline: Path, facts: FamilyFacts, flag: str) -> None:
    """Refuse a denoiser that is of another kind of model, or whose VAE or text encoders have other sizes."""

    def settings_of(part: str) -> JSON:
        path = layouts.part_folder(pipeline, part, facts) / layouts.CONFIG
        return atomic.read_json(path) if path.is_file() else {}

    own = settings_of(facts.denoiser)
    places = settings_of(facts.decoder).get("latent_channels", _LATENTS) if facts.decoder else _COLOURS
    if not isinstance(places, int):
        raise BadInput(
            f"{flag} {name}: {facts.decoder}/{layouts.CONFIG} can't be used (latent_channels is {shown(str(places))})"
        )
    needed = {"in_channels": places + (places + 1 if facts.paints else _COLOURS if facts.enlarges else 0)}

    def sum_of(parts: Sequence[str]) -> int | None:
        """Return the sum of some widths of parts; None where one of them is not known."""
        widths = []
        for part, _, setting in (each.partition(".") for each in parts):
            settings = settings_of(part) if part in facts.parts else {}
            names = (setting,) if setting else _OUTPUT
            width = next((settings[name] for name in names if name in settings), None)
            widths += [width] if isinstance(width, int) else []
        return sum(widths) if len(widths) == len(parts) else None

    for setting, parts in facts.widths.items():
        if (width := sum_of(parts)) is not None:
            # what sees the prompt's encoding may be a layer before the others
            is_before = setting == "cross_attention_dim" and own.get("encoder_hid_dim")
            needed["encoder_hid_dim" if is_before else setting] = width
    faults = [
        f"{setting} is {shown(str(own[setting]))}, and {value} fits"
        for setting, value in needed.items()
        if isinstance(own.get(setting), int) and own[setting] != value
    ]
    for setting, parts in facts.least_widths.items():
        width = sum_of(parts)
        if isinstance(own.get(setting), int) and width is not None and own[setting] < width:
            faults.append(f"{setting} is {own[setting]}, and at least {width} fits")
    if own.get("addition_embed_type") != facts.added:
        faults.append(f"addition_embed_type is {shown(str(own.get('addition_embed_type')))}, and {facts.added} fits")
    levels = own.get("num_class_embeds")
    if facts.enlarges and isinstance(levels, int) and levels <= facts.noise_level:
        faults.append(f"num_class_embeds is {levels}, and {_noise_of(facts)}")
    if any(own.get(each) for each in _OF_LEVELS) != facts.enlarges:
        faults.append(f"{' and '.join(_OF_LEVELS)}: {'one of them fits' if facts.enlarges else 'none of them fits'}")
    if faults:
        reason = f"{facts.denoiser}/{layouts.CONFIG} is not that of a {facts.pipeline} with these parts"
        raise BadInput(f"{flag} {name}: {reason} ({'; '.join(faults)})")


def read_index(folder: str | Path) -> JSON:
    """Read the model_index.json of a pipeline's folder."""
    return atomic.read_json(Path(folder) / moves.INDEX)


def check_index(name: str | Path, index: JSON, flag: str = FLAG) -> FamilyFacts:
    """Refuse a pipeline, or a class of one of its parts, that is not supported; return the family's facts."""
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in registry.FAMILIES:
        raise BadInput(f"{flag} {name}: it is a {shown(str(pipeline))}; supported: {', '.join(registry.FAMILIES)}")
    facts = registry.facts_of(index)
    most = index.get("max_noise_level", facts.noise_level)
    if facts.enlarges and (not isinstance(most, (int, float)) or most < facts.noise_level):
        reason = f"max_noise_level is {shown(str(most))}, and {_noise_of(facts)}"
        raise BadInput(f"{flag} {name}: its {moves.INDEX} can't be used ({reason})")
    for part, value in index.items():
        if isinstance(value, list) or (part in registry.PARTS and value is not None):
            _check_names(name, part, value, flag)
    for part, classes in facts.parts.items():
        value = index.get(part) or index.get(facts.newer_names.get(part)) or (None, None)
        if not isinstance(value, (list, tuple)) or value[1] is None:
            raise BadInput(f"{flag} {name}: its {moves.INDEX} names no {part}")
        if value[1] not in classes:
            raise BadInput(f"{flag} {name}: its {part} is a {value[1]}; supported: {', '.join(classes)}")
    return facts


def _noise_of(facts: FamilyFacts) -> str:
    return f"the small picture gets noise of the level {facts.noise_level}"


def _check_names(name: str | Path, part: str, value: JSON, flag: str) -> None:
    """Refuse classes that no genuine pipeline has, which the library would import to load a part."""
    if value == [None, None]:
        return
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(each, str) for each in value):
        raise BadInput(f"{flag} {name}: its {moves.INDEX} can't be read (the entry of {shown(part)})")
    library, class_name = value
    if library not in registry.LIBRARIES or class_name not in registry.CLASSES:
        raise BadInput(
            f"{flag} {name}: its {moves.INDEX} names {shown(f'{library}.{class_name}')} as {shown(part)}, which"
            " this tool does not import; nothing of it was run"
        )


def fingerprint(name: str, before: str | None = None) -> str:
    """Summarize a local model by its settings and its files, whatever its folder is called.

    Of a file of weights count the name, the size and samples of its bytes, which training changes everywhere; reading
    them all would take a minute. `before` is the fingerprint to compare with: earlier versions took no samples. The
    fingerprint of a name on the hub is the name.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    is_by_size = (before or "").startswith("files ")
    digest = hashlib.sha256()
    for part in registry.facts_of(read_index(folder)).parts:
        for path in sorted((folder / part).glob("*")):
            digest.update(f"{part}/{path.name} {path.stat().st_size} ".encode())
            if path.suffix == ".json":
                digest.update(path.read_bytes())
            elif not is_by_size:
                digest.update(_samples(path))
    return f"{'files' if is_by_size else 'weights'} {digest.hexdigest()[:12]}"


def _samples(path: Path) -> bytes:
    """Read the beginning of a file, its end, and some places between them; a small file whole."""
    size = path.stat().st_size if path.is_file() else 0
    if size <= _SAMPLES * _SAMPLE:
        return path.read_bytes() if size else b""
    with path.open("rb") as file:
        parts = []
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            parts.append(file.read(_SAMPLE))
    return b"".join(parts)


def check_draws(name: str, flag: str) -> None:
    """Refuse what check_model() does, and a folder's model that draws nothing from a prompt alone."""
    check_model(name, flag)
    base = records.find_base(name, flag)
    folder = base.model if base else name
    if Path(folder).is_dir() and (facts := registry.facts_of(read_index(folder))).enlarges:
        raise enlarges(name, facts, flag)


def enlarges(name: str, facts: FamilyFacts, flag: str) -> BadInput:
    """Return the refusal of a model that draws nothing from a prompt alone."""
    what = f"it is a model of {facts.pipeline}, which enlarges pictures, and draws none from a prompt alone"
    return BadInput(f"{flag} {name}: {what}; give one that draws")


def check_model(name: str, flag: str) -> None:
    """Refuse a folder that holds neither a pipeline, nor a LoRA or a checkpoint whose base can be used."""
    base = records.find_base(name, flag)
    if base is None:
        check(name, flag)
        return
    try:
        check(base.model, flag)
    except BadInput as error:
        remedy = "" if base.is_checkpoint else "; with another copy of it: infer.py --model_path COPY --lora " + name
        reason = f"it is a {base.kind}, and its base model can't be used ({error})"
        raise BadInput(f"{flag} {name}: {reason}{remedy}") from None
    if base.is_lora:
        records.check_lora(name, flag)
