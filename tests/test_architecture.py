"""Who may import whom, what may import Paddle when it loads, and how large rooms and modules may grow."""

import ast
import resource

import pytest
from support.commands import ROOT, new_python

# the rooms of dreambooth/ from the ground up; a module may import lower floors and its own room
FLOORS = (
    {"system"},
    {"files", "config"},
    {"data"},
    {"models"},
    {"training", "drawing"},
    {"run"},
    {"commands"},
    {"miniworld"},
    {"benchmarks"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LIBRARIES = {"paddle", "ppdiffusers", "paddlenlp"}
# these may import the libraries when they load
HEAVY = ("dreambooth/training/", "dreambooth/models/families/", "dreambooth/models/family/", "miniworld/")
LIGHT_IN_MINIWORLD = [
    "things",
    "scenes",
    "draw",
    "world",
    "photograph",
    "networks",
    "stages",
    "dataset",
    "paths",
    "packing",
    "pretrain",
    "study",
    "evaluator",
    "second_stage",
    "upscaling",
    "tables",
]
MOST_MODULES, MOST_LINES = 8, 300

PACKAGES = ("dreambooth", "miniworld", "benchmarks")
FILES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")))
)
MODULES = [file for file in FILES if file.name != "__init__.py"]
ROOMS = sorted(
    path
    for path in (ROOT / "dreambooth").rglob("*")
    if path.is_dir() and path.name not in ("__pycache__", "presets", "templates")
)


def room_of(dotted):
    """The room of a module: dreambooth.files.lora is in files, dreambooth.export and infer are commands."""
    parts = dotted.split(".")
    if parts[0] in ("miniworld", "benchmarks"):
        return parts[0]
    if parts[0] == "dreambooth":
        return parts[1] if parts[1:] and (ROOT / "dreambooth" / parts[1]).is_dir() else "commands"
    return "commands" if (ROOT / f"{parts[0]}.py").is_file() else None


def dotted_name(file):
    return ".".join(file.with_suffix("").parts)


def tree_of(file):
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imports(tree):
    """The dotted names that a syntax tree imports, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + f"{node.module}.{each.name}" for each in node.names)


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_at_load(node):
    """The packages that are imported when a module is: by all imports but those inside functions or for types."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (name.split(".")[0] for name in imports(node))
    elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_type_checking(node):
        for child in ast.iter_child_nodes(node):
            yield from imports_at_load(child)


def is_light(file):
    name = file.as_posix()
    return not name.startswith(HEAVY) or (name.startswith("miniworld/") and file.stem in LIGHT_IN_MINIWORLD)


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_imports_go_down_only(file):
    mine = room_of(dotted_name(file))
    for name in imports(tree_of(file)):
        assert not name.startswith("."), f"{file} imports {name}, which is relative"
        other = room_of(name)
        if other is not None and other != mine:
            assert FLOOR[other] < FLOOR[mine], f"{file} is in {mine} and imports {name}"


@pytest.mark.parametrize("file", [file for file in MODULES if is_light(file)], ids=str)
def test_what_runs_before_the_libraries_are_loaded_imports_none_of_them(file):
    assert not LIBRARIES & set(imports_at_load(tree_of(file)))


def test_the_rooms_are_those_of_the_plan():
    assert {room.name for room in ROOMS} == {
        *FLOOR,
        "families",
        "family",
        "patches",
        "devices",
        "pickles",
        "trials",
        "memory",
        "sources",
        "lora",
        "objective",
        "optimizers",
        "instruments",
        "inputs",
        "choosing",
        "checks",
        "report",
        "drawings",
        "sharing",
    } - {
        "commands",
        "miniworld",
        "benchmarks",
    }


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_has_at_most_eight_modules(room):
    assert len([path for path in room.glob("*.py") if path.name != "__init__.py"]) <= MOST_MODULES


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_a_module_has_at_most_three_hundred_lines(file):
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("folder", [ROOT / "dreambooth", *ROOMS], ids=lambda folder: folder.name)
def test_packages_are_empty(folder):
    assert (folder / "__init__.py").read_text(encoding="utf-8") == ""


def test_only_commands_stand_at_the_top_of_the_package():
    for path in (ROOT / "dreambooth").glob("*.py"):
        if path.name != "__init__.py":
            assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_a_module_opens_with_a_sentence_on_what_it_is_for(file):
    sentence = (ast.get_docstring(tree_of(file)) or "").split("\n\n")[0]
    assert len(sentence) > 20 and sentence.endswith((".", ":"))


def test_the_help_takes_little_more_than_numpy_and_pillow(tmp_path):
    """Half a second on a usual machine; the processor's time, and the best of some, as the first run compiles."""

    def seconds(*line):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert new_python(*line, PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=str(tmp_path)).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(seconds("train_dreambooth.py", "--help"), seconds("-c", "import numpy, PIL.Image")) for _ in range(6)]
    assert min(ours for ours, _ in pairs) < 2.5 * min(theirs for _, theirs in pairs), pairs


# of the modules in a room within another
ROOM_OF_TESTS = {
    "dreambooth": "commands",
    "families": "models",
    "family": "models",
    "patches": "system",
    "devices": "system",
    "pickles": "files",
    "trials": "run",
    "memory": "run",
    "sources": "config",
    "lora": "training",
    "objective": "training",
    "optimizers": "training",
    "instruments": "drawing",
    "inputs": "drawing",
    "choosing": "run",
    "checks": "config",
    "report": "run",
    "drawings": "run",
    "sharing": "run",
}


def path_of_tests(file):
    """The test file of a module."""
    room = ROOM_OF_TESTS.get(file.parent.name, file.parent.name) or "commands"
    return ROOT / "tests" / room / f"test_{'benchmarks_' if room == 'benchmarks' else ''}{file.name}"


def test_no_two_files_of_tests_have_one_name():
    """Which pytest would take for one module."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


# definitions alone, the story that tests/runs/ tells, and the class that test_family_contract.py is about
WITHOUT_TESTS = {
    "dreambooth/system/errors.py",
    "dreambooth/system/types.py",
    "dreambooth/models/family/base.py",
    "train_dreambooth.py",
}


@pytest.mark.parametrize("file", [file for file in MODULES if file.as_posix() not in WITHOUT_TESTS], ids=str)
def test_a_module_has_a_test_file(file):
    assert path_of_tests(file).is_file(), f"{path_of_tests(file)} is missing"


# these describe the run as a whole, or hand each room its own sections
TAKE_ALL_SETTINGS = {
    "dreambooth/config/checks/doubts.py",
    "dreambooth/run/choosing/judges.py",
    "dreambooth/config/config.py",
    "dreambooth/config/parser.py",
    "dreambooth/run/description.py",
    "dreambooth/run/disk_needs.py",
    "dreambooth/run/memory/advice.py",
    "dreambooth/run/memory/budget.py",
    "dreambooth/run/memory/estimate.py",
    "dreambooth/run/model_card.py",
    "dreambooth/run/planning.py",
    "dreambooth/run/report/contents.py",
    "dreambooth/run/sharing/bundle.py",
    "train_dreambooth.py",
}


def takes_all_settings(tree):
    """Whether a module names the class Config, or has a parameter or an attribute for a whole one."""
    names = {name.rpartition(".")[2] for name in imports(tree) if name.startswith("dreambooth.config.config")}
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    written = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return "Config" in names | classes or "config" in parameters | written


def test_only_who_describes_a_run_takes_all_of_its_settings():
    """Every other module takes the sections that it needs. Of revision e2f879b, this lists 15 modules."""
    found = {file.as_posix() for file in MODULES if room_of(dotted_name(file)) != "benchmarks"}
    assert {name for name in found if takes_all_settings(tree_of(name))} == TAKE_ALL_SETTINGS
