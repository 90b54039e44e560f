"""What the user named as a function, and the files by which another version of it is told."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from leakaudit.safety.importing import user_function, user_source

HERE = Path(__file__).read_bytes()


def plain() -> None:
    """A function."""


class Called:
    """An object that is called."""

    def __call__(self) -> None:
        """Nothing."""


CALLED = Called()
PART = functools.partial(plain)
KEPT = functools.lru_cache(plain)
BROUGHT = Path.read_bytes


def source_of(name: str) -> bytes:
    path = f"{__name__}:{name}"
    return user_source(path, user_function("--loss", path, ""))


@pytest.mark.parametrize("name", ["plain", "Called", "CALLED", "PART", "KEPT"])
def test_a_function_is_told_by_its_file(name: str) -> None:
    assert source_of(name) == HERE


def test_one_that_is_brought_from_another_file_is_told_by_both() -> None:
    found = source_of("BROUGHT")
    assert found.startswith(HERE)
    assert b"def read_bytes" in found[len(HERE) :]


def test_what_stands_in_no_file_has_none() -> None:
    typed: dict[str, Any] = {}
    exec("def function(): pass", typed)
    assert user_source("nowhere:function", typed["function"]) == b""
    assert user_source("builtins:len", len) == b""
