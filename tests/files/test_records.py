"""The records of a run: the base model that a LoRA or a checkpoint names, and the faults of an edited one."""

import json

import pytest

from dreambooth.files import lora, records
from dreambooth.system.errors import BadInput

FLAGS = {"revision": None, "tokenizer_name": None, "lora_rank": None, "lora_alpha": None}


def write_checkpoint(folder, **changes):
    state = {
        "step": 7,
        "written_ns": 1,
        "course": {"seed": 0},
        "optimizer": {},
        "arguments": {"base_model": "./base", "flags": FLAGS, "concepts": [], "steps": 20, "versions": {}},
        "files": {},
    }
    state.update(changes)
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(json.dumps(state))
    return state


def test_the_base_of_a_run_is_read_from_its_folder(tmp_path):
    assert records.find_base(tmp_path) is None
    (tmp_path / lora.NAMES["paddle"]).write_bytes(b"")
    with pytest.raises(BadInput, match="--model_path .*: it holds a LoRA, but no training_args.json that names"):
        records.find_base(tmp_path)
    record = {"base_model": "./base", "flags": {"revision": None, "tokenizer_name": "./words"}}
    (tmp_path / "training_args.json").write_text(json.dumps(record))
    base = records.find_base(tmp_path)
    assert base.is_lora and base == records.Base("./base", None, "./words")
    for odd in ({"base_model": ["./base"]}, {"flags": {"revision": 1, "tokenizer_name": None}}, {"flags": "none"}):
        (tmp_path / "training_args.json").write_text(json.dumps({**record, **odd}))
        with pytest.raises(BadInput, match="no training_args.json that names the base model"):
            records.find_base(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    assert records.find_base(tmp_path) is None


def test_a_checkpoint_names_its_base_and_the_scale_of_its_lora(tmp_path):
    folder = tmp_path / "checkpoint-7"
    arguments = write_checkpoint(folder)["arguments"]
    base = records.find_base(folder)
    assert base == records.Base("./base", None, None, is_checkpoint=True, has_lora=False) and not base.is_lora
    for rank, alpha, scale in ((4, None, 1.0), (4, 8, 2.0), (4, 0, 0.0)):
        flags = {**arguments["flags"], "lora_rank": rank, "lora_alpha": alpha}
        write_checkpoint(folder, arguments={**arguments, "flags": flags})
        assert records.find_base(folder).lora_scale == scale and records.find_base(folder).is_lora


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"arguments": {}}, "this checkpoint does not name its base model"),
        ({"arguments": None}, "this checkpoint does not name its base model"),
        ({"arguments": {"base_model": "", "flags": {}}}, "does not name its base model"),
        ({"arguments": {"base_model": "a\0b", "flags": {"revision": None, "tokenizer_name": None}}}, "does not name"),
        *(
            ({"arguments": {"base_model": "./base", "flags": {**FLAGS, **odd}}}, "does not name its base model")
            for odd in ({"lora_rank": 4, "lora_alpha": float("nan")}, {"lora_rank": 10**400}, {"lora_rank": "4x"})
        ),
        ({"files": {"x" * 300: 1}}, "this checkpoint is not whole"),
        ({"arguments": {"base_model": "./base", "flags": {"revision": 1}}}, "does not name its base model"),
        (
            {"files": {"unet/a.safetensors": 12}},
            "this checkpoint is not whole: unet/a.safetensors is missing",
        ),
        ({"step": 0}, "this checkpoint is not whole"),
    ],
)
def test_an_edited_checkpoint_is_refused(tmp_path, changes, complaint):
    write_checkpoint(tmp_path, **changes)
    with pytest.raises(BadInput, match=complaint):
        records.find_base(tmp_path, "--model_path")


def test_the_record_of_a_checkpoint_has_the_number_of_its_own_updates(tmp_path):
    assert records.read(tmp_path) == records.read(tmp_path / "nowhere") == {}
    write_checkpoint(tmp_path)
    assert records.read(tmp_path)["steps"] == 7 and records.read(tmp_path)["base_model"] == "./base"
    write_checkpoint(tmp_path, arguments=None)
    assert records.read(tmp_path) == {}


@pytest.fixture
def sealed(tmp_path):
    """A checkpoint with a file, and checksums of all."""
    folder = tmp_path / "checkpoint-7"
    state = write_checkpoint(folder, files={"a/b.bin": 3000})
    (folder / "a").mkdir()
    (folder / "a/b.bin").write_bytes(bytes(range(250)) * 12)
    state["checksums"] = {"a/b.bin": records.checksum(folder / "a/b.bin")}
    (folder / "state.json").write_text(json.dumps(records.sealed(state)))
    return folder


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_byte_that_changed_is_found(sealed):
    records.check_sums(sealed, records.read_state(sealed))
    for place in (0, 1500, 2999):
        flip(sealed / "a/b.bin", place)
        state = records.read_state(sealed)
        with pytest.raises(ValueError, match="^a/b.bin is damaged: its bytes are not those that were written"):
            records.check_sums(sealed, state)
        records.check_sums(sealed, state, only=[sealed / "a/c.bin"])
        flip(sealed / "a/b.bin", place)


def test_a_byte_that_changed_in_the_state_itself_is_found(sealed):
    path = sealed / "state.json"
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    with pytest.raises(ValueError, match="its state.json can't be read .it is damaged: its checksum is another"):
        records.read_state(sealed)


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(sealed):
    state = {key: value for key, value in records.read_state(sealed).items() if key != "checksums"}
    (sealed / "state.json").write_text(json.dumps(state))
    flip(sealed / "a/b.bin", 0)
    records.check_sums(sealed, records.read_state(sealed))


@pytest.mark.parametrize("checksums", [5, [1], {"../secret": "0"}, None])
def test_checksums_of_a_strangers_checkpoint_name_its_own_files(sealed, checksums):
    state = {**records.read_state(sealed), "checksums": checksums}
    (sealed / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="its state.json can't be read"):
        records.read_state(sealed)


def test_a_damaged_file_of_weights_is_not_read(tmp_path):
    import numpy as np

    from dreambooth.files import safetensors

    folder = tmp_path / "checkpoint-7"
    (folder / "unet").mkdir(parents=True)
    path = folder / "unet/model.safetensors"
    safetensors.write(path, {"a": np.ones(9, np.float32)})
    name = "unet/model.safetensors"
    write_checkpoint(folder, files={name: path.stat().st_size}, checksums={name: records.checksum(path)})
    assert records.weights_of_part(folder, "unet", "--model_path")["a"].sum() == 9
    flip(path, path.stat().st_size - 1)
    with pytest.raises(BadInput, match=f"--model_path {folder}: it can't be read .{name} is damaged"):
        records.weights_of_part(folder, "unet", "--model_path")
