"""GGUF headers, whole, damaged and hostile."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.library.models.gguf import (
    MAX_HEADER,
    MAX_TEXT,
    WINDOW,
    GgufHeader,
    InvalidGguf,
    read_header,
)

KINDS = {"B": 0, "H": 2, "i": 5, "f": 6, "?": 7, "Q": 10, "d": 12}


def text(value: str, order: str = "<") -> bytes:
    return struct.pack(order + "Q", len(value.encode())) + value.encode()


def value(found: Any, order: str = "<") -> bytes:
    """A value with its type before it; a list is an array of texts or of u32."""
    if isinstance(found, bool):
        return struct.pack(order + "I?", 7, found)
    if isinstance(found, str):
        return struct.pack(order + "I", 8) + text(found, order)
    if isinstance(found, int):
        return struct.pack(order + "IQ", 10, found)
    if isinstance(found, float):
        return struct.pack(order + "Id", 12, found)
    if found and isinstance(found[0], str):
        head = struct.pack(order + "IIQ", 9, 8, len(found))
        return head + b"".join(text(each, order) for each in found)
    return struct.pack(order + f"IIQ{len(found)}I", 9, 4, len(found), *found)


def gguf(values: dict[str, Any], tensors: Any = (), order: str = "<", version: int = 3) -> bytes:
    """A GGUF file's header; a tensor is a name and its dimensions."""
    made = b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(values))
    for key, found in values.items():
        made += text(key, order) + value(found, order)
    for name, dimensions in tensors:
        made += text(name, order) + struct.pack(order + "I", len(dimensions))
        made += struct.pack(order + f"{len(dimensions)}QIQ", *dimensions, 0, 0)
    return made


def parsed(body: bytes) -> GgufHeader:
    return read_header(lambda start, end: body[start:end])


LLAMA = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 131072,
    "tokenizer.ggml.tokens": ["a", "bc", ""],
    "tokenizer.ggml.scores": [1, 2, 3],
    "llama.rope.freq_base": 500000.0,
    "tokenizer.ggml.add_bos_token": True,
}

numbers = st.integers(0, 2**63 - 1)
anything = st.one_of(
    st.text(max_size=20),
    numbers,
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.lists(st.text(max_size=5), min_size=1, max_size=5),
    st.lists(st.integers(0, 2**32 - 1), max_size=5),
)
headers = st.dictionaries(st.text(max_size=10), anything, max_size=8)


class HeaderTests(SynchronousTestCase):
    def test_values_and_parameters_are_read(self) -> None:
        found = parsed(gguf(LLAMA, [("token_embd", (4096, 100)), ("norm", (7,))]))
        self.assertEqual(found.architecture, "llama")
        self.assertEqual(found.quantisation, "Q4_K_M")
        self.assertEqual(found.of_architecture("context_length"), 131072)
        self.assertEqual(found.parameters, 409607)
        self.assertIsNone(found.values["tokenizer.ggml.tokens"])

    def test_files_of_big_endian_machines_are_read(self) -> None:
        found = parsed(gguf(LLAMA, [("a", (2, 3))], order=">"))
        self.assertEqual((found.architecture, found.parameters), ("llama", 6))

    def test_vocabulary_larger_than_the_window_is_skipped(self) -> None:
        tokens = [f"token{each:020}" for each in range(20_000)]
        self.assertGreater(sum(map(len, tokens)), WINDOW)
        body = gguf({"tokens": tokens, "general.architecture": "gemma3"}, [("a", (5,))])
        reads: list[int] = []

        def read(start: int, end: int) -> bytes:
            reads.append(end - start)
            return body[start:end]

        found = read_header(read)
        self.assertEqual((found.architecture, found.parameters), ("gemma3", 5))
        self.assertLess(len(reads), 6)
        self.assertLessEqual(max(reads), WINDOW)

    def test_header_says_nothing_of_infinity(self) -> None:
        self.assertEqual(parsed(gguf({"a": float("inf")})).values, {"a": None})

    @given(
        headers, st.lists(st.tuples(st.text(max_size=4), st.lists(st.integers(0, 99), max_size=4)))
    )
    def test_what_is_written_is_read(self, values: dict[str, Any], tensors: Any) -> None:
        found = parsed(gguf(values, tensors))
        expected = {key: None if isinstance(each, list) else each for key, each in values.items()}
        self.assertEqual(found.values, expected)

    @given(headers, st.data())
    def test_damaged_header_is_read_or_refused(self, values: dict[str, Any], data: Any) -> None:
        # Catches an exception of another kind, and a loop that a count or length keeps going.
        body = bytearray(gguf({**LLAMA, **values}, [("a", (2, 3))]))
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        del body[data.draw(st.integers(0, len(body))) :]
        try:
            parsed(bytes(body))
        except InvalidGguf:
            pass

    def test_lying_counts_are_refused_without_being_read(self) -> None:
        many = 2**63
        for body in (
            b"GGUF" + struct.pack("<IQQ", 3, many, 0),
            b"GGUF" + struct.pack("<IQQ", 3, 0, many),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, many),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, many),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IQ", 8, many),
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", many),
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", many),
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<I", many >> 32),
            b"GGUF"
            + struct.pack("<IQQ", 3, 1, 0)
            + text("a")
            + struct.pack("<I3Q", 3, *[2**40] * 3),
            b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
            b"GGML" + bytes(100),
            b"",
        ):
            self.assertRaises(InvalidGguf, parsed, body)

    def test_keys_take_no_more_memory_than_texts_may(self) -> None:
        """Ten thousand keys may have 64 KiB each."""
        found = parsed(gguf({f"{at:065000}": at for at in range(20)}))
        self.assertLessEqual(sum(map(len, found.values)), MAX_TEXT)
        self.assertEqual(found.values[f"{0:065000}"], 0)

    def test_header_without_end_is_given_up(self) -> None:
        # Every text says that it is long; the file is as long as one asks it to be.
        start = b"GGUF" + struct.pack("<IQQ", 3, 0, 10_000)
        one = struct.pack("<Q", 0) + struct.pack("<IQ", 8, 1024 * 1024) + bytes(1024 * 1024)
        read: list[int] = []

        def endless(begin: int, end: int) -> bytes:
            read.append(end - begin)
            if begin == 0:
                return (start + one)[:end]
            at = (begin - len(start)) % len(one)
            return (one * (2 + (end - begin) // len(one)))[at : at + end - begin]

        self.assertRaises(InvalidGguf, read_header, endless)
        self.assertLessEqual(sum(read), 2 * MAX_HEADER)
