"""The archive of the source holds everything, and so does the wheel made of it: installed elsewhere, it renders."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

RENDER = """
import sys
from pathlib import Path
import leakaudit
from leakaudit import Report
assert Path(leakaudit.__file__).is_relative_to(sys.argv[1]), leakaudit.__file__
written = Report.load(sys.argv[2]).save(sys.argv[3])
print([p.name for p in written])
"""


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel, which is made of the archive of the source, and that archive."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def tracked() -> set[str]:
    """The files of the repository; none where the tests run from the archive itself."""
    if not (ROOT / ".git").exists():
        return set()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_wheel_renders_a_report(tmp_path: Path) -> None:
    wheel, source = built(tmp_path / "dist")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() <= packed, "files that the repository has and the archive of the source has not"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(n.startswith("leakaudit/report_templates/") for n in names)
    assert not any(n.startswith(("tests/", "benchmarks/")) for n in names)
    document = tmp_path / "report.json"
    document.write_text(example_report().to_json())
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    run = subprocess.run(
        [sys.executable, "-c", RENDER, str(tmp_path / "site"), str(document), str(tmp_path / "out")],
        capture_output=True, text=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "report.html").stat().st_size > 5_000


def example_report():  # type: ignore[no-untyped-def]
    """A report of a real small audit."""
    import numpy as np

    import leakaudit
    from tests.conftest import small_mlp, smooth_images

    return leakaudit.scan(
        small_mlp(), (smooth_images(6), np.arange(6) % 5), attacks=["ig"], settings={"ig": {"iterations": "20"}},
        victims=1, mean=[0.5], std=[0.25], input_shape=(3, 12, 12),
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="the example's commands are for a POSIX shell")
def test_the_quickstart_example_leaks(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "quickstart"
    folder.mkdir()
    source = (ROOT / "examples" / "quickstart" / "make_example.py").read_text()
    (folder / "make_example.py").write_text(source)
    subprocess.run([sys.executable, str(folder / "make_example.py")], check=True, capture_output=True)
    command = [
        sys.executable, "-c", "from leakaudit.cli import main; main()", "scan", str(folder / "model.onnx"),
        "--batch", str(folder / "batch.npz"), "--mean", "0.5", "--std", "0.25", "--preset", "quick", "--attack", "ig",
        "--victims", "1", "--controls", "none", "--fail-on", "never", "--format", "json",
        "--out", str(folder / "report"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    document = json.loads((folder / "report" / "report.json").read_text())
    assert max(s["margin"] for r in document["attacks"][0]["results"] for s in r["samples"]) >= 20


def test_the_noise_example_has_slope_one_until_the_cliff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of its levels, in this process."""
    import csv
    import runpy

    import numpy as np
    from click.testing import CliRunner

    names = runpy.run_path(str(ROOT / "examples" / "rgap_noise" / "measure.py"))
    shared = names["measure"].__globals__
    monkeypatch.setitem(shared, "LEVELS", (1e-7, 1e-6, 1e-5, 1e-1))
    monkeypatch.setitem(shared, "HERE", tmp_path)
    done = CliRunner().invoke(names["main"], [])
    assert done.exit_code == 0, done.output
    with (tmp_path / "noise.csv").open() as stream:
        rows = [(float(r["noise"]), float(r["rmse"])) for r in csv.DictReader(stream)]
    noise, error = np.log(np.array(rows)).T
    assert np.polyfit(noise[:3], error[:3], 1)[0] == pytest.approx(1.0, abs=0.05)
    assert rows[-1][1] > 0.05
    assert (tmp_path / "noise.svg").stat().st_size > 5_000
