"""Plain values: what is written comes back with its types, and bytes of anybody name nothing that could run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leakaudit.safety.plain import NotPlain, packed, unpacked

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equal, with the same types at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_written_comes_back(value: Any) -> None:
    assert same(unpacked(packed(value)), value)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool", "complex64"])
def test_tensors_keep_type_and_shape(kind: str) -> None:
    for shape in ((), (0, 3), (2, 3)):
        tensor = torch.ones(shape).to(getattr(torch, kind))
        found = unpacked(packed(tensor))
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        assert torch.equal(found, tensor)
    assert torch.equal(unpacked(packed(torch.arange(6.0).reshape(2, 3).t())), torch.arange(6.0).reshape(2, 3).t())


def test_arrays_keep_type_and_shape() -> None:
    for array in (np.arange(6).reshape(2, 3), np.array(["a", "bc"]), np.zeros((2, 0)), np.array(7, np.uint8)):
        found = unpacked(packed(array))
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert (found == array).all()
    assert unpacked(packed(np.float64(2.5))) == 2.5


@pytest.mark.parametrize("value", [object(), np.array([object()]), {"a": Path("x")}, torch.zeros(2, 2).to_sparse()])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(NotPlain):
        packed(value)


def written(structure: Any, rest: bytes = b"") -> bytes:
    text = json.dumps(structure).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff" * 8, written({"tensor": [1 << 40], "type": "float32"}), written({"bytes": -1}),
        written({"tensor": [-1], "type": "uint8"}), written({"tensor": [1 << 47, 1 << 47], "type": "uint8"}),
        written({"array": [1], "type": "O"}, b"12345678"), written({"array": [1], "type": "|V8"}, b"12345678"),
        written({"array": [], "type": "float32,(2,)"}), written({"tensor": [1], "type": "no"}, b"1"),
        written({"other": 1}), written({"dict": [[[], 1]]}), written({"dict": 3}), written(1, b"more"),
        written({"tensor": [True], "type": "uint8"}, b"1"), (9).to_bytes(8, "little") + b"[" * 9,
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)  # fmt: skip
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpacked(content)


def test_changed_bytes_give_a_value_or_are_refused() -> None:
    whole = packed({"a": torch.arange(4.0), "b": [1, "x", (2, None)], "c": np.arange(3), "d": b"raw"})
    draw = random.Random(0)
    refused = 0
    for _ in range(2000):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            unpacked(bytes(changed))
        except ValueError:
            refused += 1
    assert 1000 < refused < 2000
