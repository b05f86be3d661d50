"""Attacks: a pickle that refers to anything but weights runs nothing, takes little memory and is refused in a line."""

import io
import pickle
import random
import resource
import struct

import numpy as np
import pytest
from support.crafted_pickles import ARRAY, ATTACKS, GENUINE, refused, text, torch_file

from dreambooth.files import weight_files


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_runs_nothing_and_its_error_says_what_it_asked_for(attack, tmp_path):
    craft, named = ATTACKS[attack]
    marker = tmp_path / "marker"
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(craft(marker))
    assert named in refused(path)
    torch_file(path, craft(marker))  # the same inside an archive of torch, whose list of names is another one
    refused(path)
    with pytest.raises(weight_files.RefusedPickle):
        weight_files.load_pickle(io.BytesIO(craft(marker)))
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path):
    """Python's own unpickler runs them."""
    for attack in ("protocol_0", "protocol_4", "inst", "obj", "evaluated", "dotted_name", "pickle_in_a_pickle"):
        marker = tmp_path / attack
        pickle.loads(ATTACKS[attack][0](marker))
        assert marker.exists(), attack


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def doubled(times):
    """A list of two lists of two lists …, each of them the same."""
    return b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(times))


@pytest.mark.parametrize(
    "bomb",
    {
        "opcodes": b"\x80\x04](" + b"K\x01\x94" * 1_000_000 + b"e.",
        "nested lists": b"\x80\x04" + b"]" * 900_000 + b"a" * 99_999 + b".",
        "deep lists": b"\x80\x04" + b"]" * 400_000 + b"a" * 399_999 + b".",
        "a list in itself": b"\x80\x04]\x94h\x00a.",
        "a text encoded often": b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x10\x00"
        + b"a" * (1 << 20)
        + text(b"latin1")
        + b"\x86q\x01("
        + b"h\x00h\x01R" * 20_000
        + b"l.",
        "a list made a tuple often": b"\x80\x02cbuiltins\ntuple\nq\x00]q\x01("
        + b"K\x01" * 400_000
        + b"eh\x01\x85q\x02("
        + b"h\x00h\x02R" * 100_000
        + b"l.",
        "lists that double": b"\x80\x04(]\x94" + doubled(25) + b"t.",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_bomb_does_not_go_off(bomb, tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(bomb[1])
    before = memory()
    refused(path)
    assert memory() - before < 500 << 20


def test_a_memo_index_takes_no_memory(tmp_path):
    """Python's own unpickler would set up a table of that length: 64 gigabytes."""
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x04}r\xff\xff\xff\xff.")
    before = memory()
    assert weight_files.load_pickle(tmp_path / "a.pdparams") == {}
    assert memory() - before < 100 << 20


def shared(copies):
    """A pickle in which many arrays are made of the same 32 megabytes."""
    dtype = b"cnumpy\ndtype\n(" + text(b"f4") + b"\x89\x88tRq\x01"
    numbers = b"B" + struct.pack("<I", 32 << 20) + b"\0" * (32 << 20) + b"q\x00"
    start = ARRAY + b"(K\x01J" + struct.pack("<i", 8 << 20) + b"\x85"
    return (
        b"\x80\x04(" + start + dtype + b"\x89" + numbers + b"tb" + (start + b"h\x01\x89h\x00tb") * (copies - 1) + b"t."
    )


def test_many_arrays_of_the_same_numbers_are_refused(tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(shared(2))
    assert len(weight_files.load_pickle(path)) == 2
    path.write_bytes(shared(40))
    with pytest.raises(weight_files.RefusedPickle, match="far more memory than the file has bytes"):
        weight_files.check(path)
    with pytest.raises(weight_files.RefusedPickle, match="far more memory than the file has bytes"):
        weight_files.load_pickle(path)


def test_an_array_that_stands_in_many_places_is_refused(tmp_path):
    path, array = tmp_path / "a.pdparams", np.zeros(1 << 18, np.float32)
    for places, fits in ((8, True), (100, False)):
        path.write_bytes(pickle.dumps({str(number): array for number in range(places)}, 4))
        if fits:
            assert len(weight_files.read(path)[0]) == places
        else:
            assert "far more memory" in refused(path)


def test_random_damage_is_refused_or_read(tmp_path):
    files, chance = sorted(GENUINE.glob("*-*")), random.Random(0)
    path, refusals = tmp_path / "damaged.pdparams", 0
    for _ in range(1500):
        damaged = bytearray(chance.choice(files).read_bytes())
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice([*b"]}()(RbsuQcq\x93\x94", chance.randrange(256)])
        path.write_bytes(damaged)
        for read in (weight_files.check, weight_files.read):
            try:
                read(path)
            except weight_files.RefusedPickle as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                refusals += 1
    assert 1000 < refusals < 3000
