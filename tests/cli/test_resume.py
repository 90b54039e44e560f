"""A killed scan goes on where it was, and its report is that of an uninterrupted one but for times."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.cli.build import CLASSES, export, leakaudit
from tests.conftest import smooth_images

OPTIONS = (
    "--mean", "0.5", "--std", "0.25", "--attack", "linear", "--attack", "ig", "--set", "ig.iterations=60", "--victims",
    "2", "-f", "json", "--fail-on", "never", "--cache",
)  # fmt: skip
TIMES = {"seconds", "created", "self_sha256", "command"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(864, CLASSES))
    np.savez(folder / "batch.npz", x=smooth_images(20), y=np.arange(20) % CLASSES)
    return export(net, folder / "net.onnx"), folder / "batch.npz"


def start(files: tuple[Path, Path], out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        "from leakaudit.cli import main; main()",
        "scan",
        str(files[0]),
        "-b",
        str(files[1]),
    ]
    environment = {**os.environ, "LEAKAUDIT_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [*command, "-o", str(out), *OPTIONS, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 5), out + err
    return err


def content(out: Path) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in TIMES}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(json.loads((out / "report.json").read_text()))


def entries(cache: Path) -> set[Path]:
    return set(cache.glob("leakaudit-cache/*.entry"))


def kill_after(process: subprocess.Popen[str], cache: Path, stored: int, delay: float) -> None:
    """SIGKILL a moment after so many results are in the cache (or it ended)."""
    while process.poll() is None and len(entries(cache)) < stored + 1:  # one entry is the check at the start
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def check_resume(files: tuple[Path, Path], folder: Path, plain: Any, points: list[tuple[int, float]]) -> None:
    cache, out = folder / "cache", folder / "out"
    for stored, delay in points:
        kill_after(start(files, out, cache), cache, stored, delay)
        if out.exists():
            assert {p.name for p in out.iterdir() if not p.name.startswith(".")} <= {"report.json"}
            if (out / "report.json").exists():
                assert content(out) == plain, "a file under its final name is whole"
    kept = {path: path.stat().st_ino for path in entries(cache) if path != probe(cache)}
    finish(start(files, out, cache))
    assert content(out) == plain
    assert {path: path.stat().st_ino for path in kept} == kept, "remembered, not made again"


def probe(cache: Path) -> Path:
    """What is written at every start to see whether anything can be."""
    return cache / "leakaudit-cache" / f"{'0' * 64}.entry"


@pytest.fixture(scope="module")
def plain(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAKAUDIT_CACHE_DIR", str(folder / "cache"))
        code, _, err = leakaudit("scan", files[0], "-b", files[1], "-o", folder / "out", *OPTIONS)
    assert code in (0, 5), err
    return content(folder / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_scan_resumes(files: tuple[Path, Path], plain: Any, tmp_path: Path) -> None:
    check_resume(files, tmp_path, plain, [(1, 0.0)])
    found = entries(tmp_path / "cache")
    assert len(found) > 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("seed", range(20))
def test_twenty_scans_killed_at_random_points(files: tuple[Path, Path], plain: Any, tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    points = [(source.randint(0, 4), source.uniform(0, 1.5)) for _ in range(source.randint(1, 2))]
    check_resume(files, tmp_path, plain, points)
