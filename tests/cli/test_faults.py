"""Faults of the machine: a full disk, closed streams, killed writers, odd names; a sentence, and no report harmed."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from leakaudit.audit.cache import Cache, cache_directory, digest
from leakaudit.cli.init import TEMPLATE
from leakaudit.errors import UsageError
from leakaudit.report.files import replace_files
from leakaudit.report.saving import Report
from tests.cli.build import leakaudit
from tests.report.builder import build

TURNS = 20
FAST = ("--attack", "linear", "--victims", "1", "--controls", "none", "-f", "json", "-f", "markdown")
START = "import sys; sys.argv[0] = 'leakaudit'; from leakaudit.cli import main; main()"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report.json."""
    folder = tmp_path_factory.mktemp("document")
    build(victims=1, runs=1).save(folder, ("json",))
    return folder / "report.json"


def command(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, with text in and out unless `options` say otherwise."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([sys.executable, "-c", START, *map(str, words)], text=True, timeout=300, **streams)


# ------------------------------------------------------------------------------------------------------------ streams


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    words = [sys.executable, "-u", "-c", START, "explain"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("LA")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 0


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams_harm_nothing(closed: tuple[int, ...], tmp_path: Path) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    ended = command("init", "--out", tmp_path / "policy.toml", preexec_fn=close)
    assert ended.returncode == 0
    assert (tmp_path / "policy.toml").read_text() == TEMPLATE, "nothing that was printed went into the file"


def test_a_full_disk_behind_standard_output(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = command("init", "--out", tmp_path / "policy.toml", stdout=full)
        assert ended.returncode == 0, "the file is there"
        assert "not all lines could be written to standard output: No space left" in ended.stderr
        assert command("explain", "LA201", stdout=full).returncode == 2, "what the command is for is lost"
        assert command("init", "--out", tmp_path / "more.toml", stderr=full, stdout=full).returncode == 0


def test_a_full_disk_behind_standard_error_stops_no_audit(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leakaudit.cli import output

    honest = output.Steady._tried

    def full(self: output.Steady, name: str, *given: str) -> None:
        if name == "write" and self.failure is None:
            self.failure = OSError(errno.ENOSPC, "No space left on device")
        honest(self, name, *given)

    monkeypatch.setattr(output.Steady, "_tried", full)
    code, out, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path, "--no-cache", *FAST)
    assert code in (0, 1, 5)
    assert (out, err) == ("", "")
    Report.load(tmp_path / "report.json")


# -------------------------------------------------------------------------------------------------------------- files


GENERATIONS = [{f"report.{kind}": (f"{kind} {number} " * 20_000).encode() for kind in ("md", "html", "json")}
               for number in range(2)]  # fmt: skip


def whole(folder: Path) -> list[int]:
    """The generation of each file; every one is whole."""
    found = [next(g for g, files in enumerate(GENERATIONS) if (folder / name).read_bytes() == files[name])
             for name in GENERATIONS[0]]  # fmt: skip
    return found


def forked(work: Callable[[], object]) -> int:
    """A process that does this and ends."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_writers_leave_whole_files(tmp_path: Path) -> None:
    def write_for_ever() -> None:
        while True:
            for files in GENERATIONS:
                replace_files(tmp_path, files)

    replace_files(tmp_path, GENERATIONS[0])
    draw = random.Random(0)
    for _ in range(TURNS):
        child = forked(write_for_ever)
        time.sleep(draw.uniform(0.005, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        generations = whole(tmp_path)
        assert generations == sorted(generations) or generations == sorted(generations, reverse=True), "json is last"
    replace_files(tmp_path, GENERATIONS[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(GENERATIONS[0]), "nothing of theirs is left"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_writers_into_one_folder(tmp_path: Path) -> None:
    def write(files: dict[str, bytes]) -> None:
        for _ in range(TURNS):
            replace_files(tmp_path, files)

    for child in [forked(lambda f=files: write(f)) for files in GENERATIONS]:
        _, status = os.waitpid(child, 0)
        assert status == 0
    assert len(set(whole(tmp_path))) == 1, "files of two writers are mixed"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(GENERATIONS[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_writers_and_a_reader_of_one_cache(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), digest("a value")
    values = [{"n": number, "x": torch.full((1000,), float(number))} for number in range(2)]

    def write(value: Any) -> None:
        for _ in range(10 * TURNS):
            cache.put(key, value)

    cache.put(key, values[0])
    children = [forked(lambda v=value: write(v)) for value in values]
    for _ in range(10 * TURNS):
        found = cache.get(key)
        assert found is not None
        assert bool((found["x"] == found["n"]).all())
    for child in children:
        os.waitpid(child, 0)
    assert [path.name for path in cache.folder.iterdir()] == [f"{key}.entry"]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_a_report_that_cannot_be_written_leaves_the_old_one(
    reason: int, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(victims=1, runs=1).save(tmp_path, ("json", "markdown"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(descriptor: int) -> None:
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        code, _, err = leakaudit(
            "render", document, "-o", tmp_path, "-f", "json", "-f", "markdown", "--evidence", "none"
        )
    assert code == 2, err
    assert os.strerror(reason) in err
    assert "internal error" not in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_cannot_be_replaced_leaves_all_as_they_were(tmp_path: Path) -> None:
    replace_files(tmp_path, {name: GENERATIONS[0][name] for name in ("report.md", "report.html")})
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UsageError, match="cannot write the report"):
        replace_files(tmp_path, GENERATIONS[1])
    assert (tmp_path / "report.md").read_bytes() == GENERATIONS[0]["report.md"]
    assert (tmp_path / "report.html").read_bytes() == GENERATIONS[0]["report.html"]
    assert {path.name for path in tmp_path.iterdir()} == set(GENERATIONS[0])
    (tmp_path / "report.html").unlink()
    with pytest.raises(UsageError):
        replace_files(tmp_path, GENERATIONS[1])
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json"}, "what was new is gone again"


def test_a_home_that_is_not_there_costs_the_cache_only(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAKAUDIT_CACHE_DIR", "XDG_CACHE_HOME", "LEAKAUDIT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null/home")
    code, _, err = leakaudit("scan", model, "--batch", batch, "--out", tmp_path, *FAST)
    assert code in (0, 1, 5), err
    assert "Warning: nothing is cached" in err

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "expanduser", homeless)
        patch.setattr(Path, "home", classmethod(lambda cls: homeless(cls())))
        assert not cache_directory().exists()
        code, _, err = leakaudit("render", tmp_path / "report.json", "-o", tmp_path / "again", "-f", "json")
    assert code in (0, 1), err


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("words", [
    ("render", "{}"), ("verify", "{}"), ("compare", "{}", "{}"), ("inspect", "{}"), ("rank", "{}"),
    ("scan", "{}", "--batch", "b.npz"), ("scan", __file__, "--batch", "{}"), ("render", "{d}", "--baseline", "{}"),
    ("render", "{d}", "--policy", "{}"), ("init", "--out", "{}"), ("render", "{d}", "--out", "{}"),
    ("inspect", __file__, "--train-config", "{}"), ("verify", "{d}", "--model", "{}"),
        ("verify", "{d}", "--batch", "{}"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["n" * 300, "a/" * 3000, "x\udcff.onnx"])
def test_names_that_no_file_can_have(words: tuple[str, ...], name: str, document: Path, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = leakaudit(*(word.format(name, d=document) for word in words))
    assert "internal error" not in err
    assert code in (0, 1, 2, 3), err
    if "udcff" not in name.encode("unicode_escape").decode():
        assert code == 2, err


@pytest.mark.parametrize("epoch", ["abc", "1e400", "9" * 40, "-9" * 20, "²"])
def test_a_clock_that_was_set_to_nonsense(
    epoch: str, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    code, _, err = leakaudit("render", document, "-o", tmp_path, "-f", "json")
    assert code == 2
    assert "SOURCE_DATE_EPOCH" in err


def test_names_in_no_encoding_lose_no_scan(model: Path, batch: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"m\xff\xfe")
    odd.mkdir()
    (odd / os.fsdecode(b"n\xff.onnx")).write_bytes(model.read_bytes())
    (odd / os.fsdecode(b"b\xff.npz")).write_bytes(batch.read_bytes())
    files = (odd / os.fsdecode(b"n\xff.onnx"), "--batch", odd / os.fsdecode(b"b\xff.npz"))
    code, _, err = leakaudit("scan", *files, "--out", odd / "out", "--paths", "full", "--no-cache", *FAST)
    assert code in (0, 1, 5), err
    assert "internal error" not in err
    report = json.loads((odd / "out" / "report.json").read_text(encoding="utf-8"))
    assert "n\\udcff" in report["target"]["path"]
    Report.load(odd / "out" / "report.json")


# ----------------------------------------------------------------------------------------------------- the user's code


BROKEN = {
    "raises": "def apply(update, generator):\n    return 1 / 0\n",
    "while it is imported": "raise SystemExit(3)\n",
    "in its counterpart": "def apply(update, generator):\n    return update\n\n\n"
    "def adapt(gradients):\n    return gradients['no such tensor']\n\n\napply.adapt = adapt\n",
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_users_bug_is_called_the_users(
    way: str, model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"filters_{list(BROKEN).index(way)}"
    (tmp_path / f"{name}.py").write_text(BROKEN[way])
    monkeypatch.chdir(tmp_path)
    files = (model, "--batch", batch, "--out", tmp_path / "out", "--no-cache")
    code, _, err = leakaudit("scan", *files, "--defence", f"{name}:apply", "--attack", "ig", "--preset", "quick",
                             "--victims", "1", "--controls", "none", "-f", "json",
                             "--set", "ig.iterations=3")  # fmt: skip
    assert code == 2, err
    assert f"--defence {name}:apply" in err
    assert "internal error" not in err
