"""Who may import whom: imports go down only, and what runs before the libraries are loaded does not import them."""

import ast

import pytest
from conftest import ROOT

FLOORS = (
    {"tensors"},
    {
        "config",
        "dist",
        "formats",
        "loss",
        "noise",
        "rarity",
        "single_file",
        "stack",
        "lora_files",
        "miniworld.things",
        "miniworld.networks",
    },
    {"models", "data", "checkpoint", "tracking", "optim", "lora", "sampling", "command", "flags", "miniworld.scenes"},
    {"prior", "latents", "output", "clip", "miniworld.draw", "miniworld.training"},
    {"plan", "validation", "metrics", "export", "identifier", "miniworld.world", "benchmarks.subjects"},
    {
        "train_dreambooth",
        "infer",
        "miniworld.tokenizer",
        "miniworld.detector",
        "miniworld.judge",
        "miniworld.photograph",
    },
    {"miniworld.stages"},
    {"miniworld.packing"},
    {"miniworld.pretrain", "miniworld.study", "miniworld.examine"},
    {f"benchmarks.{name}" for name in ("step", "memory", "prior", "startup")},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FREE = "config"  # its BadInput is everyone's
LIBRARIES = {"paddle", "ppdiffusers", "paddlenlp"}
LIGHT = [f"dreambooth/{name}.py" for name in ("config", "dist", "data", "noise", "command", "plan", "output", "prior")]
LIGHT += [
    f"dreambooth/{name}.py" for name in ("checkpoint", "tracking", "sampling", "stack", "models/__init__", "formats")
]
LIGHT += [f"benchmarks/{name}.py" for name in ("subjects", "step", "memory", "prior", "startup")]
LIGHT += [f"dreambooth/models/{name}.py" for name in ("folders", "fetch", "text", "layouts")]
LIGHT += [f"dreambooth/{name}.py" for name in ("flags", "clip", "metrics", "lora_files", "tensors")]
LIGHT += ["dreambooth/export.py", "train_dreambooth.py", "infer.py"]
LIGHT += [
    f"miniworld/{name}.py"
    for name in (
        "things",
        "scenes",
        "draw",
        "world",
        "photograph",
        "networks",
        "stages",
        "packing",
        "pretrain",
        "study",
    )
]
FOLDERS = (".", "dreambooth", "dreambooth/models", "miniworld", "benchmarks")
FILES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))


def part_of(file):
    """The name by which FLOORS knows a file: its own, that of its package inside dreambooth, or miniworld.its_own."""
    parts = file.removesuffix(".py").removeprefix("dreambooth/").split("/")
    return ".".join(parts[:2]) if parts[0] in ("miniworld", "benchmarks") and parts[1:] else parts[0]


def tree_of(file):
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imports(tree):
    """The dotted names that a syntax tree imports, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + f"{node.module}.{each.name}" for each in node.names)


def imports_at_load(node):
    """The packages that are imported when a module is: by all imports but those inside functions."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (name.split(".")[0] for name in imports(node))
    elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in ast.iter_child_nodes(node):
            yield from imports_at_load(child)


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith("/__init__.py") or "models" in file])
def test_imports_go_down_only(file):
    mine = part_of(file)
    assert mine in FLOOR, f"give {mine} a floor"
    for name in imports(tree_of(file)):
        assert not name.startswith("."), f"{mine} imports {name}, which is relative"
        other = part_of(name.replace(".", "/"))
        if other in FLOOR and other not in (mine, FREE):
            assert FLOOR[other] < FLOOR[mine], f"{mine} imports {other}"


@pytest.mark.parametrize("file", LIGHT)
def test_what_runs_before_the_libraries_are_loaded_imports_none_of_them(file):
    assert not LIBRARIES & set(imports_at_load(tree_of(file)))


@pytest.mark.parametrize("file", FILES)
def test_a_module_opens_with_a_sentence_on_what_it_is_for(file):
    sentence = (ast.get_docstring(tree_of(file)) or "").split("\n\n")[0]
    assert len(sentence) > 20 and sentence.endswith((".", ":"))
