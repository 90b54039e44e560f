"""SECURITY.md: every sentence of its tables names a test that is there, and nothing connects to a network."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

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


def test_onnxruntime_is_told_to_send_nothing(tmp_path: Path) -> None:
    """It writes a session file into the temporary folder where it reports to its maker."""
    pytest.importorskip("onnxruntime")
    script = (
        "from leakaudit.target.onnx.selfcheck import load_runtime; load_runtime().SessionOptions(); "
        "import os, tempfile; print(os.listdir(tempfile.gettempdir()))"
    )
    settings = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**settings, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ".ses" not in done.stdout


def test_onnxruntime_is_loaded_in_one_place() -> None:
    package = Path(leakaudit.__file__).parent
    importing = [
        str(f.relative_to(package)) for f in package.rglob("*.py") if "import onnxruntime" in f.read_text("utf-8")
    ]
    assert importing == ["target/onnx/selfcheck.py"]
