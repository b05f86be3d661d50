"""Pickles by hand: the parts of genuine ones, with what a stranger may put in their place, and attacks."""

import codecs
import collections
import copyreg
import functools
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dreambooth.files import weight_files

GENUINE = Path(__file__).parents[1] / "files/genuine"  # made by make.py there
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) / 4
PICTURES = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)


def plain(path):
    """The content of a file by Python's own unpickler."""
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")


def assert_equal(one, other, place=""):
    """Two values are equal, and their arrays of the same kinds."""
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for name in one:
            assert_equal(one[name], other[name], f"{place}/{name}")
    elif isinstance(one, (list, tuple)):
        assert type(one) is type(other) and len(one) == len(other), place
        for number, (mine, theirs) in enumerate(zip(one, other)):
            assert_equal(mine, theirs, f"{place}/{number}")
    else:
        assert type(one) is type(other), place
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype and one.shape == other.shape, place
        assert np.array_equal(one, other), place


def refused(path):
    """A file is refused in one line that begins with its name, by each of the readers; returns the line."""
    lines = set()
    for read in (weight_files.check, weight_files.load_pickle, weight_files.read):
        with pytest.raises(weight_files.RefusedPickle) as caught:
            read(path)
        lines.add(str(caught.value))
    [line] = lines
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 400
    return line


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"


def array(
    kind=b"f4",
    order=b"<",
    shape=b"(K\x02t",
    data=b"C\x0812345678",
    version=b"K\x01",
    fortran=b"\x89",
    rest=b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00",
):
    """The pickle of an array of two numbers."""
    dtype = b"cnumpy\ndtype\n(" + text(kind) + b"\x89\x88tR(K\x03" + text(order) + rest + b"tb"
    return b"\x80\x04}" + text(b"w") + ARRAY + b"(" + version + shape + dtype + fortran + data + b"tbs."  # fmt: skip


def torch_file(path, pickled, storages=(b"\0" * 48,), method=zipfile.ZIP_STORED, root="archive", **more):
    """An archive as torch.save writes it, with a pickle of one's own."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        for key, storage in enumerate(storages):
            archive.writestr(f"{root}/data/{key}", storage)
        for name, content in more.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(number(each) for each in values) + b"t"


def torch_tensor(kind=b"FloatStorage", key=b"0", count=12, offset=0, shape=(3, 4), strides=(4, 1), more=b"", id=None):
    """The pickle of a dictionary with one tensor, "w"."""
    reference = (
        id or b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu") + number(count) + b"t"
    )
    arguments = reference + b"Q" + number(offset) + numbers(shape) + numbers(strides) + b"\x89N" + more
    return b"\x80\x02}" + text(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


def torch_weights(path, tensors):
    """Write arrays of float32 as torch.save writes tensors that lie in memory as they do, in channels_last perhaps."""
    pickled, storages = b"\x80\x02}", []
    for key, (name, value) in enumerate(tensors.items()):
        order = sorted(range(value.ndim), key=lambda axis: -value.strides[axis])
        storages.append(np.ascontiguousarray(value.transpose(order)).tobytes())
        reference = (
            text(b"storage") + b"ctorch\nFloatStorage\n" + text(str(key).encode()) + text(b"cpu") + number(value.size)
        )
        arguments = b"(" + reference + b"tQ" + number(0) + numbers(value.shape)
        arguments += numbers(each // 4 for each in value.strides) + b"\x89ccollections\nOrderedDict\n)R"
        pickled += text(name.encode()) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs"
    return torch_file(path, pickled + b".", storages)


class Ask:
    """Is pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def system(marker, protocol=4, beside=None):
    """A pickle that leaves a mark in the plainest way, perhaps beside genuine weights."""
    return pickle.dumps({"x": Ask(os.system, f"touch {marker}"), **(beside or {})}, protocol)


def short(name):
    return b"\x8c" + bytes([len(name)]) + name


def stacked(module, name):
    """A name as protocol 4 asks for it."""
    return b"\x80\x04" + short(module) + short(name) + b"\x93"


def called(name, *arguments):
    """A call of a name, in the older way."""
    return b"\x80\x02c" + name + b"\n(" + b"".join(map(text, arguments)) + b"tR."


class Attacks:
    """Pickles, given the path of a marker that they leave if they run. The docstring is what the error has to name."""

    def inst(marker):
        "os.system"
        return b"(S'touch " + marker + b"'\nios\nsystem\n."

    def obj(marker):
        "os.system"
        return b"(cos\nsystem\n" + text(b"touch " + marker) + b"o."

    def newobj(marker):
        "subprocess.Popen"
        return b"\x80\x02csubprocess\nPopen\n((" + text(b"touch") + text(marker) + b"t\x85\x81."

    def newobj_with_keywords(marker):
        "os.system"
        return b"\x80\x04cos\nsystem\n(" + text(b"touch " + marker) + b"t}\x92."

    def evaluated(marker):
        "builtins.eval"
        return called(b"builtins\neval", b"open('" + marker + b"', 'w')")

    def as_paddle_pickles_a_dense_tensor(marker):
        "__builtin__.eval"
        return called(b"__builtin__\neval", b"open('" + marker + b"', 'w')")

    def got_by_getattr(marker):
        "builtins.getattr"
        return b"\x80\x04cbuiltins\ngetattr\n(cnumpy\nndarray\n" + text(b"tofile") + b"tR."

    def dotted_name(marker):
        "shutil.os.system"
        return stacked(b"shutil", b"os.system") + text(b"touch " + marker) + b"\x85R."

    def dotted_name_under_one_that_is_allowed(marker):
        "numpy.ndarray.tofile"
        return stacked(b"numpy", b"ndarray.tofile") + b"."

    def allowed_name_of_another_module(marker):
        "numpy.core.multiarray._reconstruct"
        return stacked(b"numpy.core", b"multiarray._reconstruct") + b"."

    def name_of_two_lines(marker):
        r"os\nos.system"
        return stacked(b"os\nos", b"system") + b"."

    def name_of_bytes(marker):
        "a name that is no text"
        return b"\x80\x04C\x02osC\x06system\x93" + text(b"touch " + marker) + b"\x85R."

    def load_of_numpy(marker):
        "numpy.load"
        return called(b"numpy\nload", marker)

    def load_of_torch(marker):
        "torch.storage._load_from_bytes"
        return called(b"torch.storage\n_load_from_bytes", b"")

    def pickle_in_a_pickle(marker):
        "_pickle.loads"
        return pickle.dumps(Ask(pickle.loads, system(marker.decode())))

    def partial(marker):
        "functools.partial"
        return pickle.dumps(functools.partial(os.system, f"touch {marker.decode()}"))

    def subclass_of_a_dictionary(marker):
        "collections.Counter"
        return pickle.dumps(collections.Counter("a"))

    def reconstructor(marker):
        "copyreg._reconstructor"
        return pickle.dumps(Ask(copyreg._reconstructor, collections.Counter, dict, None))

    def codec_other_than_latin1(marker):
        "encodes a text in an unknown way"
        return pickle.dumps(Ask(codecs.encode, "abc", "rot13"))

    def codec_with_a_handler(marker):
        "makes no sense"
        return pickle.dumps(Ask(codecs.encode, "abc", "latin1", "strict"))

    def attributes_of_a_class(marker):
        "gives a state"
        return b"\x80\x04cnumpy\nndarray\n}" + text(b"tofile") + b"Nsb."

    def state_of_a_dictionary_that_is_none(marker):
        "gives a state"
        return b"\x80\x04ccollections\nOrderedDict\n)RNb."

    def slots_of_a_dictionary(marker):
        "gives a state"
        return b"\x80\x04ccollections\nOrderedDict\n)RN}" + text(b"keys") + b"Ns\x86b."

    def state_of_a_list(marker):
        "gives a state"
        return b"\x80\x04]}b."

    def call_of_a_class(marker):
        "calls what is no function"
        return b"\x80\x04cnumpy\nndarray\n(K\x01tR."

    def call_of_a_value(marker):
        "calls what is no function"
        return b"\x80\x04K\x01)R."

    def arguments_in_a_list(marker):
        "calls what is no function"
        return b"\x80\x04cbuiltins\ntuple\n]R."

    def appending_to_an_array(marker):
        "puts values into"
        return b"\x80\x04" + ARRAY + b"K\x01a."

    def setting_an_item_of_an_array(marker):
        "puts values into"
        return b"\x80\x04" + ARRAY + b"K\x01K\x02s."

    def array_of_another_class(marker):
        "an unknown class"
        return b"\x80\x04" + ARRAY.replace(b"ndarray", b"dtype") + b"."

    def array_of_a_subclass(marker):
        "numpy.memmap"
        return b"\x80\x04" + ARRAY.replace(b"ndarray", b"memmap") + b"."

    def set_of_values(marker):
        "EMPTY_SET"
        return b"\x80\x04\x8f(K\x01\x90."

    def extension(marker):
        "EXT1"
        return b"\x80\x02\x82\x01."

    def long_extension(marker):
        "EXT4"
        return b"\x80\x02\x84\x01\x00\x00\x00."

    def persistent_name(marker):
        "PERSID"
        return b"\x80\x02Pos.system\n."

    def persistent_value(marker):
        "BINPERSID"
        return b"\x80\x02K\x01Q."

    def buffer_outside(marker):
        "NEXT_BUFFER"
        return b"\x80\x05\x97."

    def key_that_is_a_list(marker):
        "a key that is neither"
        return b"\x80\x04}]K\x01s."

    def function_as_a_weight(marker):
        "neither array nor number"
        return b"\x80\x04}" + text(b"w") + b"cnumpy\ndtype\ns."

    def values_below_the_mark(marker):
        "not there"
        return b"\x80\x04K\x01(K\x02\x86."

    def mark_that_is_not_there(marker):
        "makes no sense"
        return b"\x80\x04t."

    def memo_that_is_not_there(marker):
        "makes no sense"
        return b"\x80\x04h\x05."

    def nothing(marker):
        "cut short"
        return b""

    def picture(marker):
        "no pickle"
        return b"\xff\xd8\xff\xe0"

    def two_values(marker):
        "ends too early"
        return b"\x80\x04K\x01K\x02."

    def integer_of_two_gigabytes(marker):
        "length of 2147483647"
        return b"\x80\x04\x8b\xff\xff\xff\x7f."

    def text_of_negative_length(marker):
        "length of -1"
        return b"\x80\x04T\xff\xff\xff\xff."


# name: (the pickle, given a marker; what the error has to name)
ATTACKS = {
    **{f"protocol_{each}": (functools.partial(system, protocol=each), "posix.system") for each in range(6)},
    **{
        name: (lambda marker, craft=craft: craft(bytes(marker)), craft.__doc__)
        for name, craft in vars(Attacks).items()
        if not name.startswith("_")
    },
}
