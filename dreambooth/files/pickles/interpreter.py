"""A pickle machine that can build nothing but weights.

Python's own unpickler, restricted by `find_class`, still calls real classes with the arguments of the file, and trusts
the lengths and memo indices in it. This one runs the few opcodes that Paddle's and torch's files consist of. It imports
nothing: it compares each name with a table of exact pairs, whose functions are this project's. Long byte strings stay
in the file until an array needs them.
"""

from __future__ import annotations

import collections
import contextlib
import io
import pickletools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ClassVar, TypeAlias

from dreambooth.files.safetensors import shown

# A genuine file needs about 40 for each tensor. A machine that takes more can be made to fill the memory
_MOST_OPCODES = 1_000_000
_LONGEST_NAME = 1000
_LONGEST_TEXT = 1 << 20  # a longer one is the data of an array, as protocol 2 writes it
_LONGEST_INTEGER = 16
_ALWAYS_COPIED = 64 << 20  # bytes, beside twice the file's: its texts may all become arrays

_OPCODES = {each.code.encode("latin-1"): each.name for each in pickletools.opcodes}


class Malformed(ValueError):
    """A fault of a pickle, without the file's name."""


class Forbidden(Malformed):
    """A name that weights never need."""


@dataclass(frozen=True)
class Name:
    """A name that a file refers to and may refer to."""

    module: str
    name: str


@dataclass(frozen=True)
class Span:
    """Bytes that are still in the file; those of a text are to be encoded as Latin-1."""

    offset: int
    length: int
    is_text: bool = False


class Buildable(ABC):
    """A value that the file completes after it has made it."""

    @abstractmethod
    def build(self, state: object) -> None:
        """Take the state."""


Functions: TypeAlias = Mapping[tuple[str, str], "Callable[..., object] | None"]


class Machine:
    """One run over the bytes [begin, end) of a file.

    `functions` has the names that a file may refer to, with the functions that take their place. `stored` resolves the
    references of a torch archive to its other files.
    """

    def __init__(
        self,
        file: BinaryIO,
        begin: int,
        end: int,
        functions: Functions,
        stored: Callable[[object], object] | None = None,
    ) -> None:
        self.file, self.left, self.functions, self.stored = file, end - begin, functions, stored
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.opcodes, self.copies = 0, 2 * self.left + _ALWAYS_COPIED
        file.seek(begin)

    def run(self) -> object:
        """Return the value of the pickle; Malformed for all faults."""
        while (opcode := self._read(1)) != b".":
            self.opcodes += 1
            if self.opcodes > _MOST_OPCODES:
                raise Malformed(f"it has more than {_MOST_OPCODES} opcodes")
            act, argument = self._ACTIONS.get(opcode, (Machine._refuse, opcode))
            try:
                act(self, argument)
            except (IndexError, KeyError, TypeError) as error:
                raise Malformed(f"its opcode {self.opcodes} makes no sense") from error
        if len(self.stack) != 1 or self.marks:
            raise Malformed("it ends too early")
        return self.stack[0]

    # reading

    def _read(self, length: int, most: int = 8) -> bytes:
        """Return the next bytes; there must be enough, and few."""
        if not 0 <= length <= most:
            raise Malformed(f"it has a length of {length}")
        if length > self.left:
            raise Malformed("it is cut short")
        self.left -= length
        found = self.file.read(length)
        if len(found) != length:
            raise Malformed("it has become shorter")
        return found

    def _skip(self, length: int) -> Span:
        """Return the span of the next bytes, which stay in the file."""
        if not 0 <= length <= self.left:
            raise Malformed("it is cut short")
        self.left -= length
        span = Span(self.file.tell(), length)
        self.file.seek(length, io.SEEK_CUR)
        return span

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._read(struct.calcsize(form)))[0])

    def _line(self) -> str:
        line = self.file.readline(min(_LONGEST_NAME, self.left))
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise Malformed("it has a name without an end")
        return line[:-1].decode("utf-8", "replace")

    # single values

    def _push(self, value: object) -> None:
        self.stack.append(value)

    def _push_new(self, kind: Callable[[], object]) -> None:
        self.stack.append(kind())

    def _push_integer(self, form: str) -> None:
        self.stack.append(self._number(form))

    def _push_long(self, form: str) -> None:
        self.stack.append(int.from_bytes(self._read(self._number(form), _LONGEST_INTEGER), "little", signed=True))

    def _push_float(self, form: str) -> None:
        self.stack.append(struct.unpack(form, self._read(8))[0])

    def _push_text(self, form: str) -> None:
        length = self._number(form)
        if length > _LONGEST_TEXT:
            return self.stack.append(replace(self._skip(length), is_text=True))
        try:
            self.stack.append(self._read(length, _LONGEST_TEXT).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise Malformed("it has an invalid text") from None

    def _push_old_text(self, form: str) -> None:
        """Push a text of Python 2, which Paddle reads as Latin-1."""
        length = self._number(form)
        long = length > _LONGEST_TEXT
        self.stack.append(self._skip(length) if long else self._read(length, _LONGEST_TEXT).decode("latin-1"))

    def _push_bytes(self, form: str) -> None:
        self.stack.append(self._skip(self._number(form)))

    def _memoize(self, form: str | None) -> None:
        self.memo[len(self.memo) if form is None else self._number(form)] = self.stack[-1]

    def _recall(self, form: str) -> None:
        self.stack.append(self.memo[self._number(form)])

    def _ignore(self, length: int) -> None:
        self._read(length)

    # values of values

    def _mark(self, nothing: None) -> None:
        self.marks.append(len(self.stack))

    def _pop(self, count: int) -> list[object]:
        """Take the last values from the stack, but none below the last mark."""
        if not 0 <= count <= len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise Malformed("it takes values that are not there")
        first = len(self.stack) - count
        taken = self.stack[first:]
        del self.stack[first:]
        return taken

    def _pop_marked(self, count: int | None) -> list[object]:
        return self._pop(len(self.stack) - self.marks.pop() if count is None else count)

    def _make_tuple(self, count: int | None) -> None:
        self.stack.append(tuple(self._pop_marked(count)))

    def _extend_list(self, count: int | None) -> None:
        values, target = self._pop_marked(count), self.stack[-1]
        if not isinstance(target, list):
            raise Malformed("it puts values into what takes none")
        target.extend(values)

    def _set_items(self, count: int | None) -> None:
        values, target = self._pop_marked(count), self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise Malformed("it puts values into what takes none")
        for key, value in zip(values[::2], values[1::2]):
            # of larger integers one can make many that collide
            if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
                raise Malformed("it has a key that is neither text nor a small integer")
            target[key] = value

    # names and calls

    def _push_name_of_lines(self, nothing: None) -> None:
        self._push_name(self._line(), self._line())

    def _push_name_of_values(self, nothing: None) -> None:
        self._push_name(*self._pop(2))

    def _push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Malformed("it has a name that is no text")
        if (module, name) not in self.functions:
            raise Forbidden(shown(f"{module}.{name}"))
        self.stack.append(Name(module, name))

    def _call(self, nothing: None) -> None:
        name, arguments = self._pop(2)
        function = self.functions[name.module, name.name] if isinstance(name, Name) else None
        if function is None or not isinstance(arguments, tuple):
            raise Malformed("it calls what is no function")
        made = function(*arguments)
        if isinstance(made, (bytes, tuple)):  # copies, of which a few bytes of a file can ask for many
            self.copies -= len(made) * (1 if isinstance(made, bytes) else 8)
            if self.copies < 0:
                raise Malformed("its copies would take far more memory than weights need")
        self.stack.append(made)

    def _build(self, nothing: None) -> None:
        [state], target = self._pop(1), self.stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        elif not isinstance(target, collections.OrderedDict) or not isinstance(state, dict):
            # torch hangs the versions of its layers on a state_dict; nothing here reads them
            raise Malformed("it gives a state to what has none")

    def _push_stored(self, opcode: bytes) -> None:
        if self.stored is None:
            self._refuse(opcode)
        else:
            self.stack.append(self.stored(*self._pop(1)))

    def _refuse(self, opcode: bytes) -> None:
        """Refuse an opcode; where it leads to a name, that name tells more than the opcode."""
        for name in _names(opcode + self.file.read(1 << 16)):
            if name not in self.functions:
                raise Forbidden(shown(".".join(name)))
        known = _OPCODES.get(opcode)
        raise Malformed(f"it uses {known}, which weights never need" if known else "it is no pickle")

    _ACTIONS: ClassVar[dict[bytes, tuple[Callable[[Machine, Any], None], object]]] = {
        b"N": (_push, None), b"\x88": (_push, True), b"\x89": (_push, False),
        b"]": (_push_new, list), b"}": (_push_new, dict), b")": (_push_new, tuple),
        b"J": (_push_integer, "<i"), b"K": (_push_integer, "<B"), b"M": (_push_integer, "<H"),
        b"\x8a": (_push_long, "<B"), b"\x8b": (_push_long, "<i"), b"G": (_push_float, ">d"),
        b"\x8c": (_push_text, "<B"), b"X": (_push_text, "<I"), b"\x8d": (_push_text, "<Q"),
        b"U": (_push_old_text, "<B"), b"T": (_push_old_text, "<i"),
        b"C": (_push_bytes, "<B"), b"B": (_push_bytes, "<I"), b"\x8e": (_push_bytes, "<Q"),
        b"\x94": (_memoize, None), b"q": (_memoize, "<B"), b"r": (_memoize, "<I"),
        b"h": (_recall, "<B"), b"j": (_recall, "<I"), b"(": (_mark, None),
        b"t": (_make_tuple, None), b"\x85": (_make_tuple, 1), b"\x86": (_make_tuple, 2), b"\x87": (_make_tuple, 3),
        b"e": (_extend_list, None), b"a": (_extend_list, 1), b"u": (_set_items, None), b"s": (_set_items, 2),
        b"c": (_push_name_of_lines, None), b"\x93": (_push_name_of_values, None),  # GLOBAL, STACK_GLOBAL
        b"R": (_call, None), b"b": (_build, None), b"Q": (_push_stored, b"Q"),  # REDUCE, BUILD, BINPERSID
        b"\x80": (_ignore, 1), b"\x95": (_ignore, 8),  # PROTO, FRAME
    }  # fmt: skip


def _names(rest: bytes) -> list[tuple[str, str]]:
    """Return the names that the rest of a pickle refers to by GLOBAL and INST."""
    names = []
    with contextlib.suppress(Exception):  # the rest may be anything
        for known, argument, _ in pickletools.genops(io.BytesIO(rest)):
            if known.name in ("GLOBAL", "INST"):
                module, name = str(argument).split(" ", 1)
                names.append((module, name))
    return names
