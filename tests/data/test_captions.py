"""Captions: from text files and from metadata.jsonl, when they are used, and what is wrong with them."""

import json

import pytest
from support.pictures import draw_pictures

from dreambooth.data import captions
from dreambooth.data.captions import Captions
from dreambooth.system.errors import BadInput

TEXTS = ["a sks dog in the snow", "a sks dog\n  at night\n", "\ufeff一只狗"]
READ = ("a sks dog in the snow", "a sks dog at night", "一只狗")
FLAG = "--instance_data_dir"


@pytest.fixture
def pictures(tmp_path):
    return sorted(draw_pictures(tmp_path / "dog", 3).iterdir())


def write_texts(pictures, texts=TEXTS):
    for path, text in zip(pictures, texts):
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def write_metadata(pictures, texts=TEXTS, **more):
    rows = [{"file_name": path.name, "text": text, "other": 1} for path, text in zip(pictures, texts)]
    rows += [{"file_name": name, "text": text} for name, text in more.items()]
    lines = "\n".join(json.dumps(row) for row in rows)
    (pictures[0].parent / captions.METADATA).write_text(lines + "\n\n", encoding="utf-8-sig")


@pytest.mark.parametrize("write, name", [(write_texts, "txt"), (write_metadata, "jsonl")])
@pytest.mark.parametrize("is_asked_for", [True, False])
def test_every_picture_has_its_caption(pictures, write, name, is_asked_for):
    write(pictures)
    found = captions.find(pictures[0].parent, pictures, name if is_asked_for else None, FLAG)
    assert found.texts == (READ if name == "txt" else (*READ[:2], "\ufeff一只狗"))
    assert found.source == captions._SOURCES[name] and not found.problems


def test_without_captions_there_are_none(pictures):
    assert captions.find(pictures[0].parent, pictures, None, FLAG) == Captions()
    write_texts(pictures)
    assert captions.find(pictures[0].parent, pictures, "off", FLAG) == Captions()


@pytest.mark.parametrize("write, name", [(write_texts, "txt"), (write_metadata, "jsonl")])
@pytest.mark.parametrize("texts", [["a", "b"], ["a", "b", " \n"]])
def test_a_missing_or_empty_caption_is_named(pictures, write, name, texts):
    write(pictures, texts)
    found = captions.find(pictures[0].parent, pictures, None, FLAG)
    [problem] = found.problems
    assert not found.texts and "1 of 3 pictures have no caption" in problem and pictures[2].name in problem
    with pytest.raises(BadInput, match=f"--captions {name}: 1 of 3 .*{pictures[2].name}"):
        captions.find(pictures[0].parent, pictures, name, FLAG)


@pytest.mark.parametrize("name", ["txt", "jsonl"])
def test_asked_for_and_absent_is_refused(pictures, name):
    with pytest.raises(BadInput, match=f"--captions {name}: 3 of 3 pictures"):
        captions.find(pictures[0].parent, pictures, name, FLAG)


def test_two_kinds_are_no_choice_of_ours(pictures):
    write_texts(pictures)
    write_metadata(pictures, ["x", "y", "z"])
    with pytest.raises(BadInput, match="choose with --captions"):
        captions.find(pictures[0].parent, pictures, None, FLAG)
    assert captions.find(pictures[0].parent, pictures, "jsonl", FLAG).texts == ("x", "y", "z")
    assert captions.find(pictures[0].parent, pictures, "txt", FLAG).texts == READ


def test_captions_of_what_is_not_there_are_named(pictures):
    write_metadata(pictures, **{"gone.png": "a dog", "sub/1.png": "a dog"})
    [problem] = captions.find(pictures[0].parent, pictures, None, FLAG).problems
    assert "captions of 2 files that are no pictures here (gone.png)" in problem


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '"text"', '{"text": "a"}', '{"file_name": 1, "text": "a"}', '{"file_name": "a", "text": ["a"]}',
     '{"file_name": "0.png", "text": "again"}', "[" * 50_000],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_number(pictures, line):
    write_metadata(pictures)
    with (pictures[0].parent / captions.METADATA).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"file_name": "0.png", "text": "first"}) + "\n" if "again" in line else "")
        file.write(line)
    with pytest.raises(BadInput, match=f"line [5-6] of {captions.METADATA}"):
        captions.find(pictures[0].parent, pictures, None, FLAG)


@pytest.mark.parametrize("name", ["0.txt", captions.METADATA])
def test_what_is_no_utf8_is_named(pictures, name):
    path = pictures[0].with_suffix(".txt") if name.endswith(".txt") else pictures[0].parent / name
    path.write_bytes("ein Hündchen".encode("latin-1"))
    with pytest.raises(BadInput, match=f"{path.name} can't be read"):
        captions.find(pictures[0].parent, pictures, None, FLAG)


def test_a_folder_in_the_place_of_a_file_is_no_caption(pictures):
    pictures[0].with_suffix(".txt").mkdir()
    (pictures[0].parent / captions.METADATA).mkdir()
    assert captions.find(pictures[0].parent, pictures, None, FLAG) == Captions()
