"""Nothing that a model file says is run: 2,000 ONNX files and 300 ``.pt2`` files whose every free string is Python.

Beside the marker that such a string would create, an audit hook sees every piece of source that Python compiles while
a file is opened, described, ranked and scanned: no string of the file may be part of one, escaped or not.
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leakaudit.cli import cli
from leakaudit.errors import LeakauditError
from leakaudit.target import load
from tests.target import hostile
from tests.target.watch import compiled

SHARDS = 20
ONNX, PT2 = 2000, 300


def test_the_watch_sees_what_is_compiled(tmp_path: Path) -> None:
    sentinel = uuid.uuid4().hex
    with compiled(sentinel) as found:
        eval(f"1 #{sentinel}")
        assert found == [f"1 #{sentinel}"]


def through(path: Path, folder: Path, shape: tuple[int, ...], trust: bool, number: int, scanned: bool) -> bool:
    """Open, inspect, rank and scan a file; whether it was accepted. Anything but a clear refusal is an error."""
    sizes = (1, 3, 4) if path.suffix == ".pt2" else None
    try:
        load(path, trust=trust, image_shape=sizes)
    except LeakauditError:
        accepted = False
    else:
        accepted = True
    batch = folder / "batch.npz"
    np.savez(batch, inputs=np.random.default_rng(0).random((2, *shape), dtype=np.float32), labels=np.array([0, 1]))
    flags = ["--trust"] if trust else []
    flags += ["--input-shape", "1,3,4"] if sizes else []
    formats = ("json", "html", "markdown", "csv", "sarif", "junit") if number % 10 == 0 else ("json",)
    scan = ["scan", str(path), "-b", str(batch), "-o", str(folder / "out"), "--no-cache", "--controls", "none"]
    scan += ["--preset", "quick", "--victims", "1", "--batch-size", "2" if sizes else "1"]
    scan += ["--attack", ("linear", "ig")[number % 2], *(part for form in formats for part in ("-f", form))]
    if number % 2:
        scan += ["--set", "ig.iterations=3"]
    jacobian = ["--jacobian"] if number % 10 == 1 else []
    commands = [["inspect", str(path)], ["rank", str(path), *jacobian], *([scan] if scanned else [])]
    for arguments in commands:
        result = CliRunner().invoke(cli, [*arguments, *flags])
        assert "internal error" not in result.output, (arguments, result.output)
        if not accepted:
            assert result.exit_code in (2, 3), (arguments, result.output)
    return accepted


def onnx(folder: Path, numbers: range, scans: int = 1) -> Counter[str]:
    """What became of the ONNX files of these seeds; each ``scans``-th is scanned too."""
    counts: Counter[str] = Counter()
    for number in numbers:
        marker, sentinel = folder / "marker", uuid.uuid4().hex
        path = hostile.onnx_file(folder / "model.onnx", number, marker, sentinel)
        with compiled(sentinel) as found:
            shape = (1, 3, 4) if number % 8 in (5, 6) else (12,)
            accepted = through(path, folder, shape, bool(number // 2 % 2), number, number % scans == 0)
        assert not marker.exists(), f"seed {number} ran code"
        assert not found, f"seed {number} reached source: {found[0][:500]}"
        counts["accepted" if accepted else "refused"] += 1
    return counts


def pt2(folder: Path, numbers: range, scans: int = 1) -> Counter[str]:
    """What became of the ``.pt2`` files of these seeds, opened with trust and, each fifth, without."""
    bases = hostile.bases(folder)
    counts: Counter[str] = Counter()
    for number in numbers:
        marker, sentinel = folder / "marker", uuid.uuid4().hex
        path = hostile.pt2_file(folder / "model.pt2", bases[number % len(bases)], number, marker, sentinel)
        with compiled(sentinel) as found:
            accepted = through(path, folder, (1, 3, 4), number % 5 > 0, number, number % scans == 0)
        assert not marker.exists(), f"seed {number} ran code"
        assert not found, f"seed {number} reached source: {found[0][:500]}"
        counts["accepted" if accepted else "refused"] += 1
    return counts


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_onnx_strings_are_never_run(tmp_path: Path) -> None:
    counts = onnx(tmp_path, range(60), scans=7)
    assert counts["accepted"] > 10
    assert counts["refused"] > 3


def test_pt2_strings_are_never_run(tmp_path: Path) -> None:
    counts = pt2(tmp_path, range(20), scans=7)
    assert counts["accepted"] > 3
    assert counts["refused"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_two_thousand_onnx_files(tmp_path: Path, shard: int) -> None:
    size = ONNX // SHARDS
    counts = onnx(tmp_path, range(shard * size, (shard + 1) * size))
    sys.stdout.write(f"{dict(counts)}\n")
    assert counts["accepted"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(3))
def test_three_hundred_pt2_files(tmp_path: Path, shard: int) -> None:
    size = PT2 // 3
    counts = pt2(tmp_path, range(shard * size, (shard + 1) * size))
    sys.stdout.write(f"{dict(counts)}\n")
    assert counts["accepted"] > 10
