"""
The header of a GGUF file: what a model is, without its weights.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A header can lie about every
count and length in it, so all are bounded, and nothing is kept of arrays, which hold the
vocabulary. PyPI's ``gguf`` reads whole files and needs numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Union

from attrs import define, field, frozen

Value = Union[str, int, float, bool, None]
"""A value of the header; None stands for an array and for what is too long."""

MAX_HEADER = 64 * 1024 * 1024
"""Bytes of a header that are read at most; the largest vocabularies take some 20 MB."""
MAX_KEYS = 10_000
MAX_TENSORS = 1_000_000
MAX_ELEMENTS = 4_000_000
"""Strings of all arrays together, each of which is skipped by itself."""
MAX_TEXT = 1024 * 1024
"""Bytes of all texts and keys that are kept; chat templates reach some ten thousand."""
MAX_KEY = 65535
MAX_DIMENSIONS = 8
WINDOW = 256 * 1024
"""Bytes that are read at a time."""

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""The types of values, as `struct` has them."""

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""Names of ``general.file_type``, llama.cpp's ``llama_ftype``."""


class InvalidGguf(ValueError):
    """Bytes that are no GGUF header, or one beyond the bounds; the text says why."""


@frozen
class GgufHeader:
    """The contents of a header: its values by key, and the weights of all tensors together."""

    values: dict[str, Value]
    parameters: int

    @property
    def architecture(self) -> str:
        """The architecture, such as ``llama``; "" if the header has none."""
        return self._text("general.architecture")

    @property
    def quantisation(self) -> str:
        """The quantisation, such as ``Q4_K_M``; "" if the header has none that is known."""
        found = self.values.get("general.file_type")
        return FILE_TYPES.get(found, "") if isinstance(found, int) else ""

    def of_architecture(self, key: str) -> Value:
        """A value such as ``context_length``, whose key begins with the architecture's name."""
        return self.values.get(f"{self.architecture}.{key}")

    def _text(self, key: str) -> str:
        found = self.values.get(key)
        return found if isinstance(found, str) else ""


def read_header(read: Callable[[int, int], bytes]) -> GgufHeader:
    """
    Read a header by ``read(start, end)``, which returns the file's bytes in that range.

    It may return fewer at the file's end. Blocks as ``read`` does. `InvalidGguf`.
    """
    return _Reader(read).header()


@define(eq=False, repr=False)
class _Reader:
    _read: Callable[[int, int], bytes]
    _at: int = 0
    """The file's position of the next value."""
    _window: bytes = b""
    _window_at: int = 0
    _order: str = "<"
    _elements: int = field(default=0, init=False)
    _kept: int = field(default=0, init=False)

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise InvalidGguf("not a GGUF file")
        version = self._number("I")
        if version > 0xFFFF:  # A file of a big-endian machine.
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise InvalidGguf(f"GGUF version {version}: expected 2 or 3")
        tensors, keys = self._count(MAX_TENSORS, "tensors"), self._count(MAX_KEYS, "keys")
        values: dict[str, Value] = {}
        for _ in range(keys):
            key = self._text(MAX_KEY)
            found = self._value(self._number("I"))
            if self._kept + len(key) <= MAX_TEXT:
                self._kept += len(key)
                values[key] = found
        return GgufHeader(values, sum(self._tensor() for _ in range(tensors)))

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            length = self._number("Q")
            if self._kept + length > MAX_TEXT:
                self._skip(length)
                return None
            self._kept += length
            return self._take(length).decode("utf-8", "replace")
        if kind == _ARRAY:
            self._skip_array()
            return None
        found: Value = self._number(_scalar(kind))
        # JSON has no word for these.
        return None if isinstance(found, float) and not -1e308 < found < 1e308 else found

    def _skip_array(self) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind != _STRING:
            self._skip(count * struct.calcsize("<" + _scalar(kind)))
            return
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            raise InvalidGguf(
                f"arrays of {self._elements} strings: expected at most {MAX_ELEMENTS}"
            )
        for _ in range(count):
            self._skip(self._number("Q"))

    def _tensor(self) -> int:
        """Return how many weights a tensor has."""
        self._skip(min(self._number("Q"), MAX_HEADER))
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise InvalidGguf(f"a tensor of {dimensions} dimensions")
        weights = 1
        for _ in range(dimensions):
            weights *= self._number("Q")
        if weights >= 2**63:
            raise InvalidGguf("a tensor of more than 2^63 weights")
        self._skip(4 + 8)
        return weights

    def _count(self, limit: int, what: str) -> int:
        found: int = self._number("Q")
        if found > limit:
            raise InvalidGguf(f"{found} {what}: expected at most {limit}")
        return found

    def _text(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise InvalidGguf(f"a name of {length} bytes: expected at most {limit}")
        return self._take(length).decode("utf-8", "replace")

    def _number(self, kind: str) -> Any:
        size = struct.calcsize("<" + kind)
        start = self._at - self._window_at
        if not 0 <= start <= len(self._window) - size:
            return struct.unpack(self._order + kind, self._take(size))[0]
        self._at += size
        return struct.unpack_from(self._order + kind, self._window, start)[0]

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > MAX_HEADER:
            raise InvalidGguf(f"a header of more than {MAX_HEADER} bytes")

    def _take(self, count: int) -> bytes:
        start = self._at - self._window_at
        if not 0 <= start <= len(self._window) - count:
            self._window_at, start = self._at, 0
            self._window = self._read(self._at, self._at + max(count, WINDOW))
            if len(self._window) < count:
                raise InvalidGguf("the file ends within its header")
        self._skip(count)
        return self._window[start : start + count]


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise InvalidGguf(f"a value of the type {kind}")
    return _SCALARS[kind]
