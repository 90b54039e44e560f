"""What other libraries' errors say in one line: some say nothing at all."""

from pathlib import Path

import pytest
import torch

from leakaudit.errors import ModelError, first_line
from leakaudit.target.archives import _script


def test_the_first_line_of_a_message_or_the_kind_of_error() -> None:
    assert first_line(RuntimeError("one\ntwo")) == "one"
    assert first_line(RuntimeError("\n one\n")) == "one"
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(RuntimeError("x" * 20), 5) == "xxxxx"


def test_an_archive_that_fails_without_a_word_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(torch.jit, "load", silent)
    with pytest.raises(ModelError, match="cannot be loaded: RuntimeError"):
        _script(tmp_path / "model.pt")
