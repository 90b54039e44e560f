"""A pipe or a device in the place of a file is one clear line, and never waited for."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from leakaudit.errors import UsageError
from leakaudit.safety.files import ordinary
from tests.cli.build import leakaudit
from tests.conftest import smooth_images
from tests.report.builder import build

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


class _WaitedError(BaseException):
    """A command waits for a pipe; no handler of errors catches it."""


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    def late(*_: object) -> None:
        raise _WaitedError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)  # far more than a refusal takes on a busy machine
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Path:
    """A folder with a model, a batch, a report and a pipe that nobody writes to."""
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())
    np.savez(tmp_path / "batch.npz", x=smooth_images(20), y=np.arange(20) % 5)
    (tmp_path / "report.json").write_text(build(victims=1, runs=1).to_json())
    (tmp_path / "pictures" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pictures" / "0" / "a.png")
    return tmp_path


SCAN = ("scan", "model.onnx", "-b")
COMMANDS = {
    "batch": (*SCAN, "{}"),
    "picture": (*SCAN, "pictures"),
    "policy": (*SCAN, "batch.npz", "--policy", "{}"),
    "baseline": (*SCAN, "batch.npz", "--baseline", "{}"),
    "weights": (*SCAN, "batch.npz", "--lpips-weights", "{}"),
    "distractors": (*SCAN, "batch.npz", "--distractors", "{}"),
    "auxiliary": (*SCAN, "batch.npz", "--auxiliary", "{}"),
    "update": (*SCAN, "batch.npz", "--update", "{}"),
    "train-config": (*SCAN, "batch.npz", "--train-config", "{}"),
    "model": ("scan", "{}", "-b", "batch.npz"),
    "render": ("render", "{}"),
    "compare": ("compare", "{}", "report.json"),
    "verify": ("verify", "{}"),
    "verify a model": ("verify", "report.json", "--model", "{}"),
    "verify a batch": ("verify", "report.json", "--batch", "{}"),
    "verify an update": ("verify", "report.json", "--update", "{}"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("what", ["pipe", "/dev/zero"])
def test_every_command_refuses_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], what: str
) -> None:
    monkeypatch.chdir(place)
    code, _, err = leakaudit(*(word.format(what) for word in words))
    errors = [line for line in err.splitlines() if line.startswith("Error:")]
    assert (code, len(errors)) == (2, 1), err
    assert "expected a file" in errors[0] or "not a file" in errors[0] or "no such update file" in errors[0]
    assert "Traceback" not in err


def test_what_ends_is_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "none", Path(os.devnull)):
        assert ordinary(path) == path
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        bound.bind("s")
        with pytest.raises(UsageError, match="s is a socket, expected a file"):
            ordinary(Path("s"))
