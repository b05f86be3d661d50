"""What a pipeline's folder must hold, checked before anything heavy is loaded."""

import hashlib
from pathlib import Path

from dreambooth.files import atomic, lora, moves, weight_files
from dreambooth.files.safetensors import shown
from dreambooth.models import layouts, registry
from dreambooth.system.errors import BadInput

FLAG = "--pretrained_model_name_or_path"


def looks_like_a_path(name):
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1


def check(name, flag=FLAG):
    """Refuse a local folder that is no pipeline of a family we know, and say what is missing in it. A name of the hub
    passes: it is checked when it has been fetched."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or looks_like_a_path(name):
            raise BadInput(f"{flag} {name}: there is no such folder")
        return
    moves.finish_move(folder, flag)
    index = folder / "model_index.json"
    if not index.is_file():
        inside = ", ".join(sorted(each.name for each in folder.iterdir())[:5]) or "nothing"
        raise BadInput(f"{flag} {name}: no pipeline, it has no model_index.json (there is {inside})")
    try:
        known = read_index(folder)
    except ValueError as error:
        raise BadInput(f"{flag} {name}: its model_index.json can't be read ({error})") from None
    facts = check_index(name, known, flag)
    for part in facts.parts:
        check_part(name, folder, part, facts, flag)
    try:
        for part, chosen in layouts.choose_files(folder, facts).files.items():
            weight_files.check(layouts.part_folder(folder, part, facts) / chosen.file)
    except ValueError as error:
        raise BadInput(f"{flag} {name}: it can't be loaded ({error})") from None


def check_part(name, pipeline, part, facts, flag):
    folder = layouts.part_folder(pipeline, part, facts)
    if not folder.is_dir():
        raise BadInput(f"{flag} {name}: it has no folder {part}/")
    if part in facts.without_weights:
        if not any(folder.iterdir()):
            raise BadInput(f"{flag} {name}: its folder {part}/ is empty")
        return
    # Paddle's store has folders from the time when a text encoder's settings had another name
    needed = ["scheduler_config.json"] if part == "scheduler" else [layouts.CONFIG, layouts.OLD_CONFIG]
    if not any((folder / file).is_file() for file in needed):
        raise BadInput(f"{flag} {name}: {part}/{needed[0]} is missing")
    if part != "scheduler" and not layouts.has_weights(folder):
        raise BadInput(f"{flag} {name}: its folder {part}/ has no weights (model_state.pdparams or *.safetensors)")


def read_index(folder):
    return atomic.read_json(Path(folder) / "model_index.json")


def check_index(name, index, flag=FLAG):
    """Refuse a pipeline, or a class of one of its parts, that is not supported; returns the family's facts."""
    if not isinstance(index, dict):
        raise BadInput(f"{flag} {name}: its model_index.json can't be read (it is no JSON object)")
    pipeline = index.get("_class_name")
    facts = registry.FAMILIES.get(pipeline) if isinstance(pipeline, str) else None
    if facts is None:
        raise BadInput(f"{flag} {name}: it is a {shown(str(pipeline))}; supported: {', '.join(registry.FAMILIES)}")
    for part, value in index.items():
        if isinstance(value, list):
            _check_names(name, part, value, flag)
    for part, classes in facts.parts.items():
        value = index.get(part) or index.get(facts.newer_names.get(part)) or (None, None)
        if not isinstance(value, (list, tuple)) or value[1] is None:
            raise BadInput(f"{flag} {name}: its model_index.json names no {part}")
        if value[1] not in classes:
            raise BadInput(f"{flag} {name}: its {part} is a {value[1]}; supported: {', '.join(classes)}")
    return facts


def _check_names(name, part, value, flag):
    """Refuse what the library would import to load a part, unless genuine pipelines have it."""
    if value == [None, None]:
        return
    if len(value) != 2 or not all(isinstance(each, str) for each in value):
        raise BadInput(f"{flag} {name}: its model_index.json can't be read (the entry of {shown(part)})")
    library, class_name = value
    if library not in registry.LIBRARIES or class_name not in registry.CLASSES:
        raise BadInput(
            f"{flag} {name}: its model_index.json asks for {shown(f'{library}.{class_name}')} as {shown(part)}, which"
            " this tool does not import; nothing of it was run"
        )


def fingerprint(name):
    """What tells a local model from another one, whatever its folder is called: its settings, and the names and sizes
    of its files. A name on the hub stands for itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for part in registry.FAMILIES[read_index(folder)["_class_name"]].parts:
        for path in sorted((folder / part).glob("*")):
            content = path.read_bytes() if path.suffix == ".json" else b""
            digest.update(f"{part}/{path.name} {path.stat().st_size} ".encode() + content)
    return f"files {digest.hexdigest()[:12]}"


def check_model(name, flag):
    """Refuse, before the libraries are loaded, what is no pipeline and no LoRA whose base is here."""
    base = lora.find_base(name, flag)
    if base is None:
        return check(name, flag)
    try:
        check(base["model"], flag)
    except BadInput as error:
        raise BadInput(f"{flag} {name}: it is a LoRA, and its base model can't be used ({error})") from None
    lora.find_file(name, flag)
