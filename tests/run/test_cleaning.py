"""What is taken out of texts, and found in files."""

import json
from pathlib import Path

import pytest

from dreambooth.run.sharing import cleaning


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home/bob"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(folder / "none"))
    return folder


@pytest.mark.parametrize(
    ("name", "value", "clean"),
    [
        ("instance_data_dir", "/home/bob/my dog", "my dog"),
        ("instance_data_dir", "./pictures/my dog/", "my dog"),
        ("instance_data_dir", "../dog", "dog"),
        ("class_data_dir", "C:\\Users\\bob\\dogs", "dogs"),
        ("clip_model_path", "~/models/clip", "clip"),
        ("clip_model_path", "openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("pretrained_model_name_or_path", "CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4"),
        ("instance_prompt", "a photo of sks dog / cat", "a photo of sks dog / cat"),
        ("anything", "/opt/models/sd", "sd"),
        ("instance_prompt", "/", "/"),
        ("lora_targets", "attention", "attention"),
        ("_name_or_path", "https://bob:secret@hub/model", "model"),
        ("text", "https://bob:secret@hub/model", "https://***@hub/model"),
    ],
)
def test_a_place_becomes_its_last_part_and_texts_stay(name, value, clean):
    assert cleaning.cleaned({name: value}) == {name: clean}
    assert cleaning.cleaned({"deep": [{name: [value]}]}) == {"deep": [{name: [clean]}]}


def test_the_home_folder_is_taken_out_of_the_middle_of_a_text(home):
    assert cleaning.cleaned(f"see {home}/notes") == "see …/notes"


def test_numbers_and_nothing_stay():
    assert cleaning.cleaned({"a": 1, "b": None, "c": [True, 0.5]}) == {"a": 1, "b": None, "c": [True, 0.5]}


def test_a_local_base_loses_its_folder_and_a_name_stays():
    record = {"base_model": "../sd", "base_folder": "/home/bob/sd", "flags": {"pretrained_model_name_or_path": "../sd"}}
    clean = cleaning.without_places(record)
    assert clean["base_model"] == clean["flags"]["pretrained_model_name_or_path"] == "sd"
    assert clean["base_folder"] is None
    named = {"base_model": "a/b", "base_folder": None, "flags": {"pretrained_model_name_or_path": "a/b"}}
    assert cleaning.without_places(named) == named


def test_a_token_is_found_wherever_it_lies_between_two_chunks(monkeypatch):
    token = "hf_" + "x" * 34
    data = b"." * 1000 + token.encode() + b"." * 1000
    for cut in range(995, 1045):
        assert cleaning.found_in([data[:cut], data[cut:]]) == "a token"
    monkeypatch.setenv("HF_TOKEN", "my own secret")
    assert cleaning.found_in([b"with my own ", b"secret in it"]) == "a token"
    assert cleaning.found_in([b"hf_short and hf_other"]) == ""


def test_a_path_is_found_also_as_json_writes_it(home, tmp_path):
    assert cleaning.found_in([f"{home}/x".encode()]) == f"the path {home}"
    odd = tmp_path / 'a "b" é'
    assert cleaning.found_in([json.dumps(str(odd)).encode()], [str(odd)]) == f"the path {odd}"
    assert cleaning.found_in([b"nothing"], [str(odd)]) == ""


def test_a_short_home_is_no_needle(monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.chdir("/")
    assert cleaning.places() == []
    assert cleaning.found_in([b"the root of all"]) == ""


def test_a_file_is_read_in_parts(tmp_path):
    (tmp_path / "file").write_bytes(b"ab" * 5_000_000)
    assert b"".join(cleaning.chunks_of(tmp_path / "file")) == b"ab" * 5_000_000
    assert len(list(cleaning.chunks_of(Path(tmp_path / "file")))) > 1
