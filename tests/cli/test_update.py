"""``leakaudit scan --update``: an update that a real client recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import nn

from tests.cli.build import CLASSES, leakaudit
from tests.conftest import smooth_images


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, np.ndarray[Any, Any]], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """What a plain PyTorch client computes with the model's own module, and its sample."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, CLASSES)).eval()
    x, y = smooth_images(3)[2:], np.array([2])
    pixels = torch.from_numpy(x).float() / (255 if x.dtype == np.uint8 else 1)
    loss = F.cross_entropy(net((pixels - 0.5) / 0.25), torch.from_numpy(y))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return {n: g.numpy() for (n, _), g in zip(net.named_parameters(), gradients, strict=True)}, (x, y)


def scan(model: Path, folder: Path, *more: object) -> tuple[int, str, str]:
    words = ("scan", model, "--batch", folder / "batch.npz", "--out", folder / "out", "--format", "json", "-q")
    return leakaudit(*words, "--mean", 0.5, "--std", 0.25, "--attack", "ig", "--set", "ig.iterations=200", *more)


def report_of(folder: Path) -> Any:
    return json.loads((folder / "out" / "report.json").read_text())


def test_the_update_of_a_client_of_its_own_is_attacked_and_agrees(model: Path, recorded: Any, tmp_path: Path) -> None:
    update, (x, y) = recorded
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    save_file(update, tmp_path / "update.safetensors")
    code, _, err = scan(model, tmp_path, "--update", tmp_path / "update.safetensors", "--controls", "none")
    assert code == 1, err
    report = report_of(tmp_path)
    (claim,) = report["claims"]
    assert claim["text"] == "no defence"
    assert all(check["holds"] for check in claim["checks"])
    assert report["protocol"]["update_path"].endswith("update.safetensors")
    assert any("as a client recorded it" in line for line in report["verdict"]["assumed"])
    (victim,) = report["attacks"][0]["results"]
    assert victim["samples"][0]["leaked"]
    assert "LA501" not in [f["id"] for f in report["findings"]]


def test_controls_use_computed_updates(model: Path, recorded: Any, tmp_path: Path) -> None:
    update, (x, y) = recorded
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    np.savez(tmp_path / "update.npz", **update)
    scan(model, tmp_path, "--update", tmp_path / "update.npz")
    negative = next(c for c in report_of(tmp_path)["controls"] if c["kind"] == "negative")
    assert negative["passed"], negative


def test_a_deployed_filter_is_held_against_what_it_should_do(model: Path, recorded: Any, tmp_path: Path) -> None:
    update, (x, y) = recorded
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    bounds = {n: np.quantile(np.abs(g), 0.9) for n, g in update.items()}
    np.savez(tmp_path / "pruned.npz", **{n: np.where(np.abs(g) >= bounds[n], g, 0) for n, g in update.items()})
    np.savez(tmp_path / "scaled.npz", **{n: np.float32(0.1) * g for n, g in update.items()})
    common = ("--controls", "none", "--set", "ig.iterations=5", "--fail-on", "never")
    scan(model, tmp_path, "--update", tmp_path / "pruned.npz", "--defence", "prune=0.9", *common)
    assert all(check["holds"] for check in report_of(tmp_path)["defences"][0]["checks"])
    scan(model, tmp_path, "--update", tmp_path / "pruned.npz", "--defence", "sign", *common)
    assert not all(check["holds"] for check in report_of(tmp_path)["defences"][0]["checks"])
    scan(model, tmp_path, "--update", tmp_path / "scaled.npz", *common)
    failed = {c["what"] for c in report_of(tmp_path)["claims"][0]["checks"] if not c["holds"]}
    assert failed == {"norm over that of the computed update"}


def test_weights_and_differences_are_told_from_a_gradient(model: Path, recorded: Any, tmp_path: Path) -> None:
    """What Flower and NVFlare send after one step leaks as its gradient does; without a learning rate it is refused."""
    update, (x, y) = recorded
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, CLASSES))
    before = {name: tensor.detach().numpy() for name, tensor in net.named_parameters()}
    rate = np.float32(0.05)
    weights = {name: before[name] - rate * gradient for name, gradient in update.items()}
    np.savez(tmp_path / "list.npz", *weights.values())
    torch.save({name: torch.from_numpy(tensor) for name, tensor in weights.items()}, tmp_path / "weights.pt")
    np.savez(tmp_path / "delta.npz", **{f"module.{name}": tensor - before[name] for name, tensor in weights.items()})
    np.savez(tmp_path / "gradient.npz", **update)
    psnr = {}
    for name in ("list.npz", "weights.pt", "delta.npz"):
        file = ("--update", tmp_path / name, "--controls", "none")
        code, _, err = scan(model, tmp_path, *file, "--learning-rate", rate)
        assert code == 1, err
        report = report_of(tmp_path)
        assert all(check["holds"] for check in report["claims"][0]["checks"]), report["claims"]
        shared = "the difference of its weights" if name == "delta.npz" else "its weights after 1 step"
        assert any(shared in line for line in report["verdict"]["assumed"])
        psnr[name] = report["attacks"][0]["results"][0]["samples"][0]["metrics"]["psnr"]
        code, _, err = scan(model, tmp_path, *file)
        assert code == 3
        kind = "a difference of weights" if name == "delta.npz" else "holds weights after local training"
        assert kind in " ".join(err.split())
        assert "--learning-rate" in err
    scan(model, tmp_path, "--update", tmp_path / "gradient.npz", "--controls", "none")
    plain = report_of(tmp_path)["attacks"][0]["results"][0]["samples"][0]["metrics"]["psnr"]
    assert all(value == pytest.approx(plain, abs=1.0) for value in psnr.values()), (psnr, plain)
    code, _, err = scan(model, tmp_path, "--update", tmp_path / "gradient.npz", "--learning-rate", rate)
    assert code == 3
    assert "no difference of weights" in " ".join(err.split())


def test_updates_that_do_not_fit_are_refused_in_one_line(model: Path, recorded: Any, tmp_path: Path) -> None:
    update, (x, y) = recorded
    name, first = next(iter(update.items()))
    np.savez(tmp_path / "batch.npz", x=np.repeat(x, 2, 0), y=np.repeat(y, 2))
    cases = {
        "names": {**update, "head.weight": first},
        "shape": {**update, name: first[:1]},
        "values": {**update, name: np.full_like(first, np.nan)},
        "integers": {**update, name: first.astype(np.int64)},
        "zero": {n: np.zeros_like(g) for n, g in update.items()},
        "empty": {},
    }
    for case, arrays in cases.items():
        np.savez(tmp_path / f"{case}.npz", **arrays)
        code, out, err = scan(model, tmp_path, "--update", tmp_path / f"{case}.npz")
        assert (code, "Traceback" in out + err) == (3, False), case
        assert f"{case}.npz" in err.replace("\n", ""), err
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    np.savez(tmp_path / "update.npz", **update)
    for words, code in (
        (("--update", tmp_path / "damaged.npz"), 3),
        (("--update", tmp_path / "damaged.safetensors"), 3),
        (("--update", tmp_path / "none.npz"), 2),
        (("--update", tmp_path / "batch.txt"), 2),
        (("--update", tmp_path / "update.npz", "--batch-size", 3), 2),
        (("--update", tmp_path / "update.npz", "--victims", 2), 2),
        (("--update", tmp_path / "update.npz", "--mode", "both"), 2),
    ):
        found, out, err = scan(model, tmp_path, *words)
        assert (found, "Traceback" in out + err) == (code, False), (words, err)
    assert not (tmp_path / "out" / "report.html").exists()
