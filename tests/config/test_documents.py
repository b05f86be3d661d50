"""Documents in three formats: the same content, values as they stand, and one line for what can't be read."""

import pytest

from dreambooth.config.sources import documents
from dreambooth.system.errors import BadInput


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text", ["a: 5e-6\nb: no\nc: 0123\nd: 2024-01-01\n", '\ufeffa: "5e-6"\nb: no\nc: 0123\nd: 2024-01-01']
)
def test_yaml_has_the_texts_that_stand_there(tmp_path, text):
    path = written(tmp_path, "a.yaml", text)
    assert documents.read(path, "--config") == {"a": "5e-6", "b": "no", "c": "0123", "d": "2024-01-01"}


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.yml", "optimizer:\n  learning_rate: 2\nprompts: [a, b]\n"),
        ("a.toml", 'prompts = ["a", "b"]\n[optimizer]\nlearning_rate = 2\n'),
        ("a.JSON", '{"optimizer": {"learning_rate": 2}, "prompts": ["a", "b"]}'),
    ],
)
def test_the_formats_have_one_content(tmp_path, name, text):
    document = documents.read(written(tmp_path, name, text), "--config")
    assert {str(name): str(value) for name, value in document["optimizer"].items()} == {"learning_rate": "2"}
    assert document["prompts"] == ["a", "b"]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.yaml", "seed: 1\nseed: 2\n", '"seed" stands there twice'),
        ("a.json", '{"seed": 1, "seed": 2}', '"seed" stands there twice'),
        ("a.toml", "seed = 1\nseed = 2\n", "can't be read"),
        ("a.yaml", "a: [1, 2\n", "line 2"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]\n? [1]\n: 2\n", "can't be read"),
        ("a.json", '{"learning_rate": NaN}', "NaN is no number of JSON"),
        ("a.json", "[" * 100_000, "can't be read"),
        ("a.yaml", "[" * 100_000, "can't be read"),
        ("a.toml", "a = ", "can't be read"),
        ("a.yaml", b"\xff\xfe\x00\xd8", "can't be read"),
        ("a.txt", "a: 1", "must end in .yaml, .yml, .toml, .json"),
        ("a.yaml", "a" * 5_000_000, "more than 4 MB"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, text, said):
    path = written(tmp_path, name, text)
    with pytest.raises(BadInput) as error:
        documents.read(path, "--config")
    assert str(error.value).startswith(f"--config {path}: ") and said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_tag_of_python_makes_nothing(tmp_path):
    path = written(tmp_path, "a.yaml", "a: !!python/object/apply:os.mkdir [made]\n")
    assert documents.read(path, "--config") == {"a": ["made"]}


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    for name in ("missing.yaml", "folder.yaml"):
        with pytest.raises(BadInput, match=f"{name}: there is no such file"):
            documents.read(tmp_path / name, "--config")
