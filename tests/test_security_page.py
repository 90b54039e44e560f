"""SECURITY.md: every sentence of its tables names a test that is there, and nothing connects to a network."""

from __future__ import annotations

import re
import socket

import numpy as np
import pytest

import leakaudit
from tests.conftest import ROOT, small_mlp, smooth_images

ROWS = [
    line for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines() if re.match(r"\| (?!sentence |---)", line)
]


def test_there_are_rows() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_every_sentence_names_a_test(row: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
    assert named
    for file, function in named:
        assert f"def {function or 'test_'}" in (ROOT / file).read_text("utf-8")


def test_an_audit_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    report = leakaudit.scan(
        *(small_mlp(), (smooth_images(6), np.arange(6) % 5)),
        attacks=["ig"], settings={"ig": {"iterations": "5"}}, victims=1, controls="none",
        mean=[0.5], std=[0.25], input_shape=(3, 12, 12),
    )  # fmt: skip
    assert report.verdict.status
