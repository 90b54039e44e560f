"""The benchmark for GPUs, rehearsed on the CPU: every part runs, the deadline is kept, and what fails is said."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

CPU = torch.device("cpu")
ABSENT = ("psutil", "scipy", "click", "onnx", "onnx2torch", "safetensors", "matplotlib", "lpips", "pytest")
"""Packages that a machine with torch, torchvision and numpy does not have."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("gpu")
    monkeypatch.setattr(importlib.import_module("networks"), "DATA", tmp_path)
    return module


def measured(gpu: ModuleType, plan: Any, minutes: float = 20.0, parts: tuple[str, ...] = ()) -> Any:
    """The results of a run that begins now."""
    parts = parts or gpu.PARTS
    results = gpu.Results.none(plan, CPU)
    gpu.run(results, gpu.deadlines(plan, time.monotonic(), minutes, parts), lambda part: None)
    return results


def test_the_rehearsal_measures_every_part(gpu: ModuleType) -> None:
    found = measured(gpu, gpu.SMALL)
    assert not found.steps.lacking
    assert tuple(found.steps.rows) == gpu.SMALL.grid
    for row in found.steps.rows.values():
        assert all(row[mode].ms > 0 and not row[mode].note for mode in ("eager", "traced"))
        assert row["traced"].eager == pytest.approx(row["eager"].ms / row["traced"].ms, rel=0.9)
        assert row["traced"].setup > 0
    assert not found.precisions.lacking
    for name in gpu.SMALL.precise:
        exact, rough = (found.precisions.rows[name, precision] for precision in ("float32", "bf16"))
        assert exact.residual < 1e-6 < 1e-4 < rough.residual < 0.1
        assert exact.match < rough.match
        assert min(exact.ms, rough.ms) > 0
        assert exact.faster == 1 != rough.faster
    assert not found.attacked.lacking
    for run in found.attacked.runs:
        assert [point.steps for point in run.points] == sorted({point.steps for point in run.points})
        assert run.points[-1].psnr > run.points[0].psnr
        assert -1 <= run.points[-1].ssim <= 1
    text = gpu.page(found, gpu.PARTS, 9.0)
    assert all(f"| {name} | {batch} | {restarts} |" in text for name, batch, restarts in gpu.SMALL.grid)
    assert "| all | TF32 | not there on a CPU |" in text
    assert "Whether the match allows bf16: LeNet (small), " in text
    assert "`pytest -m gpu`" in text
    assert "Left out" not in text


def test_without_time_nothing_is_measured_and_all_of_it_is_named(gpu: ModuleType) -> None:
    started = time.monotonic()
    found = measured(gpu, gpu.REAL, minutes=0.0)
    assert time.monotonic() - started < 5
    assert [found.steps.rows, found.precisions.rows, found.attacked.runs] == [{}, {}, []]
    assert len(found.steps.lacking) == 40, "twenty cells, traced and compiled"
    text = gpu.page(found, gpu.PARTS, 0.0)
    assert "ViT-B/16, 224 px, batch 8, 16 restarts, compiled (no time)" in text
    assert "Left out: LeNet (no time); ResNet-18, 224 px (no time); ViT-B/16, 224 px (no time)." in text
    assert "Left out: standard (no time); paper (no time)." in text


def test_what_runs_at_the_deadline_is_interrupted(gpu: ModuleType) -> None:
    plan = importlib.import_module("gpu_plan")

    def endless() -> None:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # as a library does that tries again
                continue

    started = time.monotonic()
    with pytest.raises(plan.OutOfTime), plan.Deadline(started + 0.2).kept():
        endless()
    assert 0.2 <= time.monotonic() - started < 2


def test_the_parts_end_one_after_the_other_within_the_minutes(gpu: ModuleType) -> None:
    ends = gpu.deadlines(gpu.REAL, 0.0, 8.0, gpu.PARTS)
    assert list(ends) == ["steps", "precision", "attack"]
    steps, precision, attack = (deadline.at for deadline in ends.values())
    assert 120 < steps < precision < attack < 480
    assert attack - precision == pytest.approx(0.62 * 480)
    assert gpu.deadlines(gpu.REAL, 0.0, 30.0, gpu.PARTS)["precision"].at == pytest.approx(0.98 * 1800 - 300)
    assert gpu.deadlines(gpu.REAL, 0.0, 8.0, ["steps"])["steps"].at == pytest.approx(0.98 * 480)


def test_a_cell_that_has_no_memory_says_so_and_the_others_go_on(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = importlib.import_module("gpu_steps")
    make, tried = steps.ours, []

    def ours(net: Any, seen: Any, start: Any, mode: str, *more: Any) -> Any:
        tried.append((len(start), mode))
        if mode == "traced" and (len(start) == 2 or tried.count((1, "traced")) == 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(net, seen, start, mode, *more)

    monkeypatch.setattr(steps, "ours", ours)
    only = replace(gpu.SMALL.only(["LeNet (small)"]), grid=(("LeNet (small)", 1, 1), ("LeNet (small)", 1, 2)))
    found = measured(gpu, only, parts=("steps",))
    first, second = found.steps.rows.values()
    assert first["traced"].note == "measured alone", "there was room when the others had gone"
    assert first["traced"].ms > 0
    assert first["traced"].eager is None, "no rounds in common"
    assert (second["traced"].ms, second["traced"].note) == (None, "out of memory")
    assert second["eager"].ms > 0
    assert "| out of memory |" in steps.table(found.steps)


def test_a_part_that_fails_does_not_end_the_others(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(importlib.import_module("gpu_precision"), "at_the_truth", broken)
    monkeypatch.setattr(importlib.import_module("gpu_attack"), "affordable", broken)
    found = measured(gpu, gpu.SMALL.only(["LeNet (small)"]), parts=("precision", "attack"))
    assert found.precisions.lacking == {"LeNet (small)": "failed: no kernel image"}
    assert found.attacked.lacking == {"paper": "failed: no kernel image"}
    assert [run.preset for run in found.attacked.runs] == ["standard"]


def test_residuals_stay_where_there_is_no_time_for_steps(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*arguments: Any) -> Any:
        raise importlib.import_module("gpu_plan").OutOfTime

    monkeypatch.setattr(importlib.import_module("gpu_precision"), "ours", late)
    found = measured(gpu, gpu.SMALL.only(["LeNet (small)"]), parts=("precision",))
    assert found.precisions.lacking == {"LeNet (small), time of a step": "no time"}
    row = found.precisions.rows["LeNet (small)", "bf16"]
    assert (row.ms, row.faster) == (None, None)
    assert row.residual > 1e-4


def test_a_precision_is_allowed_only_below_what_an_attack_reaches(gpu: ModuleType) -> None:
    precision = importlib.import_module("gpu_precision")
    known = precision.Precise(4e-3, 7e-6, 5e-1, 4e-2, 3.0, 2.0)
    found = gpu.Precisions({("LeNet", "bf16"): known})
    assert "LeNet, yes" in precision.sentence(found, "bf16")
    found.reached("LeNet", 1e-1, 5e-2)
    assert found.rows["LeNet", "bf16"] is known, "a worse attack says nothing"
    found.reached("LeNet", 1e-3, 5e-7)
    assert "LeNet, no: at the truth it is 4.0e-03 off" in precision.sentence(found, "bf16")


def test_a_gpu_is_refused_where_there_is_none(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--device cpu --small is the rehearsal" in capsys.readouterr().err


def test_precision_is_set_and_set_back(gpu: ModuleType) -> None:
    precision = importlib.import_module("gpu_precision")
    flags: Callable[[], tuple[bool, bool]] = lambda: (  # noqa: E731
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    before = flags()
    wanted = {"float32": (False, False), "TF32 in convolutions": (False, True), "TF32": (True, True)}
    for name, expected in wanted.items():
        with precision.computing(name, CPU):
            assert flags() == expected
    with precision.computing("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert flags() == before


@pytest.mark.slow
def test_a_bare_machine_can_run_it(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}]; "
        f"sys.argv = ['gpu.py', '--device', 'cpu', '--small', '--minutes', '20', '--out', 'page.md']; "
        f"runpy.run_path({str(ROOT / 'benchmarks' / 'gpu.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Left out" not in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_compiled_step_stands_beside_the_others(gpu: ModuleType) -> None:
    plan = replace(gpu.SMALL.only(["LeNet (small)"]), grid=(("LeNet (small)", 1, 1),), compiled=1)
    found = measured(gpu, plan, parts=("steps",))
    (row,) = found.steps.rows.values()
    assert row["compiled"].ms > 0
    assert row["compiled"].setup > 0
    assert row["traced"].ms > 0
