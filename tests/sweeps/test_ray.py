"""Ray: the same results as in this process, files put once, and workers that die.

Skipped where Ray is not installed: ``pip install leakaudit[ray]``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from leakaudit.errors import ModelError, UsageError
from leakaudit.observer import SilentObserver
from leakaudit.sweeps.runners.on_ray import Elsewhere, Parcel, _remove_abandoned, unpacked
from tests.conftest import ROOT
from tests.sweeps.build import audit, requests


def test_without_ray_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.sweeps.runners.on_ray import OnRay

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="--runner ray needs Ray") as caught:
        OnRay(audit)
    assert caught.value.hint == "pip install leakaudit[ray]"


def test_a_parcel_is_unpacked_under_its_own_name(tmp_path: Path) -> None:
    model = unpacked(Parcel("zoo/net.onnx", ("net.onnx", "net.data"), (b"graph", b"weights")), tmp_path / "0")
    folder = unpacked(Parcel("images", ("images/a/1.png", "images/b/2.png"), (b"1", b"2")), tmp_path / "1")
    assert (model.read_bytes(), (model.parent / "net.data").read_bytes()) == (b"graph", b"weights")
    assert (folder.name, (folder / "b" / "2.png").read_bytes()) == ("images", b"2")
    assert (tmp_path / "0").stat().st_mode & 0o777 == 0o700


def test_a_report_names_files_as_the_sweep_does(tmp_path: Path) -> None:
    for name in ("asked", "there"):
        (tmp_path / name).mkdir()
    asked, broken = requests(tmp_path / "asked", ["net", "broken"])
    requests(tmp_path / "there", ["net", "broken"])
    places = {tmp_path / "asked" / n: tmp_path / "there" / n for n in ("net.onnx", "broken.onnx", "batch.npz")}
    report = Elsewhere(audit, places)(asked, SilentObserver())
    assert report.target.path == str(asked.model)
    assert "there" not in report.model_dump_json()
    assert (tmp_path / "there" / "ran").is_dir()
    with pytest.raises(ModelError):
        Elsewhere(audit, places)(broken, SilentObserver())


def test_what_killed_workers_left_is_removed(tmp_path: Path) -> None:
    dead = int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)
    for number in (dead, os.getpid()):
        (tmp_path / f"leakaudit-ray-{number}-x").mkdir()
        (tmp_path / f"leakaudit-ray-{number}-x" / "batch.npz").write_bytes(b"private")
    (tmp_path / "leakaudit-ray-notes").mkdir()
    _remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"leakaudit-ray-{os.getpid()}-x", "leakaudit-ray-notes"]
    )


PROGRAM = """
import os
import sys
from pathlib import Path
from leakaudit.observer import SilentObserver
from leakaudit.sweeps.engine import drive
from leakaudit.sweeps.places import place_of
from leakaudit.sweeps.runners.base import Here, Limits
from leakaudit.sweeps.runners.on_ray import OnRay
from leakaudit.sweeps.store import Store
from tests.sweeps.build import audit, jobs

folder = Path(sys.argv[1])
work = jobs(folder, ["slow", "a", "broken", "piped", "killer", "tight"])
(folder / "piped.onnx").unlink()
os.mkfifo(folder / "piped.onnx")
found = []
for name, make in (("ray", lambda: OnRay(audit, 2, 1, Limits(seconds=40, retries=1))),
                   ("here", lambda: Here(audit, SilentObserver(), Limits()))):
    ends = ("killer.onnx", "slow.onnx", "piped.onnx")
    mine = [job for job in work if name == "ray" or job.cell.labels["model"] not in ends]
    store, runner = Store(place_of(folder / name)), make()
    results = drive(mine, store, runner)
    runner.close()
    whole = [store.get(result.key) or result for result in results]
    found.append({r.key: (str(r.status), r.reason, r.facts, dict(r.files)) for r in whole})
    store.close()
ray, here = found
assert {key: ray[key] for key in here} == here, "the same documents"
print(*sorted(value[0] for value in ray.values()), sep=",")
print([value[1] for value in ray.values() if value[0] == "lost"][0])
print([value[1] for value in ray.values() if "pipe" in value[1]][0])
"""


@pytest.mark.slow
def test_cells_on_ray_end_as_they_do_here(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    temporary = Path(tempfile.mkdtemp(prefix="lr", dir="/tmp"))  # Ray's sockets need a short path
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_TMPDIR": str(temporary),
        "TMPDIR": str(temporary),
    }
    run = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=500, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    statuses, reason, refused = run.stdout.splitlines()[-3:]
    assert statuses == "done,done,failed,failed,lost,over its time"
    assert refused == "piped.onnx is a named pipe, expected a file"
    assert reason == "its worker was lost, 2 times (WorkerCrashedError)"
    logs = [
        path.read_text(errors="replace") for path in temporary.rglob("*") if path.suffix in (".log", ".out", ".err")
    ]
    assert len(logs) > 5
    for word in ("a.onnx", "batch.npz", str(tmp_path / "ran")):
        assert not [text for text in (run.stderr, *logs) if word in text]
    assert not list(temporary.glob("leakaudit-ray-*")), "no sample stays behind"
    shutil.rmtree(temporary)
