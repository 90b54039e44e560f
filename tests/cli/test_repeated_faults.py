"""Faults of the machine, twenty times each at random moments: a sentence, the old report or the new one, never half."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from leakaudit.cli.progress import TerminalObserver
from leakaudit.report.saving import Report
from tests.cli.build import leakaudit
from tests.report.builder import build

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TURNS = 20
FAST = ("--attack", "linear", "--victims", "1", "--controls", "none", "-f", "json", "-f", "markdown")
START = "import sys; sys.argv[0] = 'leakaudit'; from leakaudit.cli import main; main()"
FORMATS = ("json", "markdown", "csv", "sarif")
WANTED = tuple(word for name in FORMATS for word in ("-f", name))
SLOW = (
    "--attack", "ig", "--preset", "quick", "--set", "ig.iterations=1000000", "--set", "ig.execution=eager", "--victims",
    "1", "--controls", "none", "-f", "json", "--no-cache", "--set", "ig.search=false", "--set", "ig.tolerance=0",
)  # fmt: skip
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts file systems and changes owners, as root can"
)


@pytest.fixture
def documents(tmp_path: Path) -> list[Path]:
    """Two reports that differ."""
    for number in range(2):
        build(victims=1, runs=1, seed=number).save(tmp_path / f"document{number}", ("json",))
    return [tmp_path / f"document{number}" / "report.json" for number in range(2)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def rendered(documents: list[Path], folder: Path) -> list[dict[str, bytes]]:
    """What each becomes where nothing disturbs."""
    found = []
    for number, document in enumerate(documents):
        leakaudit("render", document, "-o", folder / f"undisturbed{number}", *WANTED)
        found.append(content(folder / f"undisturbed{number}"))
    assert found[0] != found[1]
    return found


def forked(words: tuple[object, ...]) -> int:
    """A process that runs a command and ends with its code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = leakaudit(*words)[0]
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_kills_while_a_report_is_written(documents: list[Path], tmp_path: Path) -> None:
    kinds, out, draw = rendered(documents, tmp_path), tmp_path / "out", random.Random(1)
    leakaudit("render", documents[0], "-o", out, *WANTED)
    moments = 0
    for turn in range(TURNS):
        child = forked(("render", documents[(turn + 1) % 2], "-o", out, *WANTED))
        while not any(name.startswith(".leakaudit-") for name in os.listdir(out)) and _runs(child):
            pass
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        moments += ended(child) == -signal.SIGKILL
        found = content(out)
        assert found.keys() == kinds[0].keys()
        assert all(text in (kinds[0][name], kinds[1][name]) for name, text in found.items()), "a file is half written"
        Report.load(out / "report.json")
    assert moments > TURNS // 2, "it was too late for most"
    leakaudit("render", documents[0], "-o", out, *WANTED)
    assert content(out) == kinds[0]
    assert not [name for name in os.listdir(out) if name.startswith(".leakaudit-")]


def _runs(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def test_two_commands_into_one_folder(documents: list[Path], tmp_path: Path) -> None:
    kinds, out = rendered(documents, tmp_path), tmp_path / "out"
    for _ in range(TURNS):
        children = [forked(("render", document, "-o", out, *WANTED)) for document in documents]
        assert {ended(child) for child in children} <= {0, 1}
        assert content(out) in kinds, "files of two reports are mixed"


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@as_root
def test_a_disk_that_fills_while_a_report_is_written(documents: list[Path], tmp_path: Path) -> None:
    kinds, draw = rendered(documents, tmp_path), random.Random(2)
    size = sum(map(len, kinds[0].values()))
    with mounted(tmp_path / "disk", f"size={4 * size}") as disk:
        leakaudit("render", documents[0], "-o", disk / "out", *WANTED)
        for _ in range(TURNS):
            with suppress(OSError), open(disk / "filler", "wb") as filler:
                filler.write(bytes(8 * size))
            os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - draw.randrange(size)))
            code, _, err = leakaudit("render", documents[1], "-o", disk / "out", *WANTED)
            assert code == 2, err
            assert "No space left on device" in err
            assert "internal error" not in err
            assert content(disk / "out") == kinds[0]
            (disk / "filler").unlink()
        leakaudit("render", documents[1], "-o", disk / "out", *WANTED)
        assert content(disk / "out") == kinds[1]


@as_root
@pytest.mark.parametrize("home", ["read-only", "none"])
def test_homes_that_hold_no_cache(
    home: str, model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAKAUDIT_CACHE_DIR", "XDG_CACHE_HOME", "LEAKAUDIT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with mounted(tmp_path / "home", "ro") as place:
        monkeypatch.setenv("HOME", str(place if home == "read-only" else "/dev/null/home"))
        for turn in range(TURNS):
            out = tmp_path / f"out{turn}"
            code, _, err = leakaudit("scan", model, "--batch", batch, "--out", out, *FAST)
            assert code in (0, 1, 5), err
            assert "Warning: nothing is cached" in err
            Report.load(out / "report.json")


@as_root
def test_the_cache_of_another_user(model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAKAUDIT_CACHE", raising=False)
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path / "cache"))
    leakaudit("scan", model, "--batch", batch, "--out", tmp_path / "first", *FAST)
    folder = tmp_path / "cache" / "leakaudit-cache"
    assert list(folder.iterdir())
    os.chown(folder, 65534, 65534)
    before = content(folder)
    for turn in range(TURNS):
        out = tmp_path / f"out{turn}"
        code, _, err = leakaudit("scan", model, "--batch", batch, "--out", out, "--seed", turn, *FAST)
        assert code in (0, 1, 5), err
        assert "belongs to another user" in err
        assert content(folder) == before, "it was written to"
        Report.load(out / "report.json")


def test_names_in_no_encoding(model: Path, batch: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    for turn in range(TURNS):
        odd = os.fsdecode(bytes(draw.choice((0x80, 0xC3, 0xED, 0xA0, 0xFE, 0xFF, 0x1B, 0x0A, 0x61)) for _ in range(9)))
        place = tmp_path / f"{turn}{odd}"
        place.mkdir()
        (place / f"{odd}.onnx").write_bytes(model.read_bytes())
        (place / f"{odd}.npz").write_bytes(batch.read_bytes())
        files = (place / f"{odd}.onnx", "--batch", place / f"{odd}.npz")
        code, _, err = leakaudit("scan", *files, "--out", place / f"out{odd}", "--paths", "full", "--no-cache", *FAST)
        assert code in (0, 1, 5), err
        assert "internal error" not in err
        Report.load(place / f"out{odd}" / "report.json")


def closed(*numbers: int) -> Callable[[], None]:
    """Run in a new process: it begins without these streams."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


STREAMS = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


def test_closed_streams_and_readers_that_leave(documents: list[Path], tmp_path: Path) -> None:
    kinds = rendered(documents, tmp_path)
    for turn in range(TURNS):
        out, numbers = tmp_path / f"out{turn}", STREAMS[turn % len(STREAMS)]
        words = [sys.executable, "-c", START, "render", str(documents[0]), "-o", str(out), *WANTED]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        with subprocess.Popen(words, preexec_fn=closed(*numbers), **streams) as process:
            assert process.stdout is not None
            process.stdout.close()  # as `| head -0`
            assert process.stderr is not None
            err = process.stderr.read().decode()
        assert process.returncode in (0, 1), err
        assert "Traceback" not in err
        assert "internal error" not in err
        assert content(out) == kinds[0]


def test_terminations_at_any_moment(model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(victims=1, runs=1).save(tmp_path / "out", ("json",))
    before, draw = content(tmp_path / "out"), random.Random(4)
    honest, delays = TerminalObserver.stage, [draw.uniform(0, 2) for _ in range(TURNS)]

    def stage(self: TerminalObserver, message: str) -> None:
        honest(self, message)
        if "loading the model" in message:
            number = draw.choice((signal.SIGTERM, signal.SIGINT))
            threading.Timer(delays.pop(), lambda: os.kill(os.getpid(), number)).start()

    monkeypatch.setattr(TerminalObserver, "stage", stage)
    for _ in range(TURNS):
        code, out, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path / "out", *SLOW)
        assert code == 130, out + err
        assert "internal error" not in err
        assert content(tmp_path / "out") == before
        partial = tmp_path / "out" / "partial" / "report.json"
        assert not partial.exists() or json.loads(partial.read_text())["partial"]
