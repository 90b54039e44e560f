"""Rounds that frameworks recorded themselves, where the shared cases are at hand: each gives what its README says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leakaudit.client.rounds.files import load_update
from leakaudit.client.rounds.statistics import counted_steps, recorded_statistics, sent_statistics
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target import Target, load
from tests.cli.build import leakaudit

NORMAL = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616", "--input-shape", "3,32,32")
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])


@pytest.fixture
def cases(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the recorded rounds, which is the current one, so that their networks can be imported."""
    rounds = (data.parent / "cases" / "rounds").resolve()
    if not rounds.is_dir():
        pytest.skip(f"no recorded rounds at {rounds}")
    monkeypatch.chdir(rounds)
    return rounds


def model(path: Path, factory: str) -> Target:
    return load(path, factory=f"nets:{factory}", image_shape=(3, 32, 32), mode="train")


def scan(*words: object, out: Path) -> tuple[int, str, Any]:
    common = ("--format", "json", "-q", "--fail-on", "never", "--controls", "none", "--out", out)
    code, text, err = leakaudit("scan", *words, *NORMAL, *common)
    report = out / "report.json"
    return code, text + err, json.loads(report.read_text()) if report.exists() else None


def test_flower_sent_weights_whose_change_is_the_gradient(cases: Path) -> None:
    """By name or as a list; up to the rounding of the weights divided by the rate."""
    folder = cases / "flower_fedsgd"
    target = model(folder / "global.pt", "net")
    protocol = FedAvg(1, "train", learning_rate=0.05)
    found = [load_update(folder / name, target) for name in ("client0.pt", "client0_list.npz")]
    assert [update.kind for update in found] == ["weights", "weights"]
    named, listed = (protocol.from_shared(update.tensors, target.parameters) for update in found)
    assert all(torch.equal(named[name], listed[name]) for name in target.parameters)
    change = load_update(cases / "nvflare_diff" / "site-1_sent.npz", target, local=True)
    assert change.kind == "delta"


def test_nvflare_sent_the_same_as_arrays_and_as_fobs(cases: Path) -> None:
    pytest.importorskip("msgpack", reason="msgpack is not installed (pip install leakaudit[nvflare])")
    folder = cases / "nvflare_diff"
    target = model(folder / "global.npz", "net")
    arrays, fobs = (load_update(folder / f"site-1_sent.{kind}", target, local=True) for kind in ("npz", "fobs"))
    assert fobs.kind == "delta"
    assert all(torch.equal(arrays.tensors[name], fobs.tensors[name]) for name in target.parameters)


@pytest.mark.parametrize("sent", ["site-1_sent.npz", "site-1_sent.fobs"])
def test_a_difference_is_never_taken_for_a_gradient(sent: str, cases: Path, tmp_path: Path) -> None:
    if sent.endswith("fobs"):
        pytest.importorskip("msgpack", reason="msgpack is not installed (pip install leakaudit[nvflare])")
    folder = cases / "nvflare_diff"
    words = (folder / "global.npz", "--factory", "nets:net", "--mode", "train", "--update", folder / sent)
    code, text, report = scan(*words, "--batch", folder / "batch0.npz", "--attack", "linear", out=tmp_path)
    assert (code, report) == (3, None)
    assert "a difference of weights" in " ".join(text.split())


def test_batchnorm_buffers_of_a_flower_round_are_routed_and_told(cases: Path, tmp_path: Path) -> None:
    folder = cases / "flower_fedavg_bn"
    target = model(folder / "global.pt", "bnnet")
    found = load_update(folder / "client0.pt", target)
    assert sent_statistics(target, found.buffers) == ("bn1", "bn2")
    assert counted_steps(target, found.buffers) == 4
    assert not any("running" in name for name in found.tensors)
    local = ("--learning-rate", 0.01, "--momentum", 0.9, "--weight-decay", 5e-4, "--local-batch-size", 8)
    words = (folder / "global.pt", "--factory", "nets:bnnet", "--mode", "train", "--update", folder / "client0.pt")
    attack = ("--attack", "sme", "--set", "sme.iterations=5")
    code, text, report = scan(*words, "--batch", folder / "batch0.npz", *local, *attack, out=tmp_path)
    assert code == 5, text
    protocol = report["protocol"]
    assert (protocol["steps"], protocol["statistics_sent"]) == (4, ["bn1", "bn2"])
    assert protocol["shared_statistics"] == "running"
    assert not any("counters say" in note for note in protocol["update_notes"])
    finding = next(f for f in report["findings"] if f["id"] == "LA402")
    assert finding["confidence"] == "certified"
    assert "weighted mean over the batches of 4 local steps" in finding["message"]
    assert not any("FedSGD" in line for line in report["verdict"]["assumed"])
    assert "LA501" not in [f["id"] for f in report["findings"]], "its order and masks are unknown: not judged"
    words = (*words, "--batch", folder / "batch0.npz", *local[:-1], 16)
    _, _, report = scan(*words, *attack, out=tmp_path / "sixteen")
    assert "BatchNorm's own counters say 4 steps, the settings make 2" in report["protocol"]["update_notes"]


def test_the_weighted_mean_of_four_steps_is_what_the_batches_make(cases: Path) -> None:
    """With K steps the buffers mix: read as if there had been one, they are the statistics of no batch."""
    folder = cases / "flower_fedavg_bn"
    target = model(folder / "global.pt", "bnnet")
    buffers = load_update(folder / "client0.pt", target).buffers
    several = FedAvg(32, "train", "running", local_batch_size=8, learning_rate=0.01)
    assert recorded_statistics(target, buffers, several) == {}
    mean, variance = recorded_statistics(target, buffers, FedAvg(32, "train", "running", learning_rate=0.01))["bn1"]
    with np.load(folder / "batch0.npz") as batch:
        images = torch.from_numpy(batch["x"]).float() / 255
    inputs = (images - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    maps = target.module.conv1(inputs)
    true = maps.mean((0, 2, 3))
    kept = 0.9**4
    assert torch.allclose(mean * 0.1 / (1 - kept), true, atol=0.05), "its weighted mean is near that of all samples"
    assert not torch.allclose(mean, true, atol=0.3)
    assert variance.shape == true.shape


def test_opacus_names_are_taken(cases: Path) -> None:
    folder = cases / "opacus_step"
    target = model(folder / "global.pt", "lenet")
    plain, wrapped = (load_update(folder / f"{name}.npz", target) for name in ("grad", "grad_opacus_names"))
    assert all(torch.equal(plain.tensors[name], wrapped.tensors[name]) for name in target.parameters)
    assert "prefix _module. taken off the names" in wrapped.notes


def test_a_recorded_update_without_its_samples(cases: Path, tmp_path: Path) -> None:
    """What a server has: no batch, weights, and what is known of the training."""
    folder = cases / "flower_fedsgd"
    words = (folder / "global.pt", "--factory", "nets:net", "--mode", "train", "--update", folder / "client0.pt")
    attack = ("--attack", "ig", "--set", "ig.iterations=3", "--samples", 1, "--learning-rate", 0.05)
    code, text, report = scan(*words, *attack, out=tmp_path)
    assert code == 5, text
    assert report["verdict"]["code"] == "INCONCLUSIVE"
    labels = next(a for a in report["attacks"] if a["name"] == "ig")["results"][0]["labels"]
    with np.load(folder / "batch0.npz") as batch:
        assert labels["inferred"] == batch["y"].tolist(), "the label is in the update all the same"
    assert labels["known"] is False
    code, text, _ = scan(*words, *attack[:-4], "--learning-rate", 0.05, out=tmp_path / "unknown")
    assert (code, "add --samples N" in " ".join(text.split())) == (2, True)
