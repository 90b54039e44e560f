"""``leakaudit scan --local-epochs …``: clients that train locally and share weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leakaudit.capture import pytorch_hook
from tests.cli.build import CLASSES, leakaudit
from tests.conftest import smooth_images

QUICK = ("--controls", "none", "--format", "json", "-q", "--mean", 0.5, "--std", 0.25, "--fail-on", "never")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    np.savez(folder / "local.npz", x=smooth_images(4), y=np.arange(4))
    return folder / "local.npz"


def report_of(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def test_the_report_says_how_clients_train(model: Path, samples: Path, tmp_path: Path) -> None:
    local = ("--local-epochs", 2, "--local-batch-size", 2, "--learning-rate", 0.05, "--momentum", 0.9)
    attacks = ("--attack", "sme", "--set", "sme.iterations=20", "--attack", "linear", "--weight-decay", 5e-4)
    code, _, err = leakaudit("scan", model, "--batch", samples, "--out", tmp_path, *QUICK, *local, *attacks)
    assert code in (0, 5), err
    report = report_of(tmp_path)
    protocol = report["protocol"]
    assert (protocol["algorithm"], protocol["steps"], protocol["batch_size"]) == ("fedavg", 4, 4)
    told = {
        "local_epochs": 2,
        "local_batch_size": 2,
        "local_steps": 4,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "optimizer": "sgd",
        "samples": 4,
    }
    assert protocol["settings"].items() >= told.items()
    assert any("FedAvg: the client shares its weights after 4 steps" in line for line in report["verdict"]["assumed"])
    assert not any("FedSGD" in line for line in report["verdict"]["assumed"])
    rows = {row["name"]: row for row in report["attacks"]}
    assert rows["sme"]["status"] == "run"
    assert rows["linear"]["status"] == "not_applicable"
    assert "--local-epochs" in report["command"]


def test_one_step_is_read_as_the_gradient_that_it_is(model: Path, samples: Path, tmp_path: Path) -> None:
    """FedSGD in disguise: the settings of the local training change no result beyond the rounding of the weights."""
    common = ("--attack", "ig", "--set", "ig.iterations=40", "--samples", 1, "--victims", 1)
    code, _, err = leakaudit(
        "scan", model, "--batch", samples, "--out", tmp_path / "a", *QUICK, *common, "--learning-rate", 0.5
    )
    assert code in (0, 1, 5), err
    plain = ("--attack", "ig", "--set", "ig.iterations=40", "--victims", 1)
    leakaudit("scan", model, "--batch", samples, "--out", tmp_path / "b", *QUICK, *plain)
    local, gradient = (report_of(tmp_path / name)["attacks"][0]["results"][0] for name in "ab")
    a, b = (result["samples"][0]["metrics"]["psnr"] for result in (local, gradient))
    assert a == pytest.approx(b, abs=1.0)


def test_a_recorded_round_says_how_its_client_trained(model: Path, samples: Path, tmp_path: Path) -> None:
    """One command audits what `leakaudit.capture` wrote; options win over the record."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, CLASSES))
    with np.load(samples) as arrays:
        inputs, labels = torch.from_numpy((arrays["x"] - 0.5) / 0.25), torch.from_numpy(arrays["y"])
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.5)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=2)
    with pytorch_hook(net, tmp_path / "round", optimizer=optimizer, loader=loader):
        for _ in range(2):
            for some, classes in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(some), classes).backward()
                optimizer.step()
    words = ("scan", model, "--batch", samples, *QUICK, "--attack", "sme", "--set", "sme.iterations=20")
    code, _, err = leakaudit(*words, "--out", tmp_path / "a", "--round", tmp_path / "round")
    assert code in (0, 5), err
    protocol = report_of(tmp_path / "a")["protocol"]
    told = {"learning_rate": 0.05, "momentum": 0.5, "local_epochs": 2, "local_batch_size": 2, "local_steps": 4}
    assert protocol["settings"].items() >= told.items()
    assert protocol["update_path"].endswith("after.safetensors")
    assert protocol["mode"] == "train"
    code, _, err = leakaudit(*words, "--out", tmp_path / "b", "--round", tmp_path / "round", "--learning-rate", 0.1)
    assert code in (0, 5), err
    assert report_of(tmp_path / "b")["protocol"]["settings"]["learning_rate"] == 0.1
    (tmp_path / "empty").mkdir()
    code, _, err = leakaudit(*words, "--out", tmp_path / "c", "--round", tmp_path / "empty")
    assert code == 2
    assert "no before.safetensors" in err
    document = tmp_path / "round" / "round.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "momentum": "much"}))
    code, _, err = leakaudit(*words, "--out", tmp_path / "d", "--round", tmp_path / "round")
    assert code == 3
    assert "round.json: momentum is 'much'" in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--local-epochs", 2), "without a learning rate"),
        (("--learning-rate", 0.1, "--batch-size", 2), "beside local training"),
        (("--learning-rate", 0.1, "--samples", 9), "9"),
        (("--learning-rate", 0.1, "--optimizer", "adam", "--momentum", 0.9), "none with adam"),
        (("--learning-rate", -1), "more than 0"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[Any, ...], expected: str, model: Path, samples: Path, tmp_path: Path
) -> None:
    code, _, err = leakaudit("scan", model, "--batch", samples, "--out", tmp_path / "out", *QUICK, *words)
    assert code in (2, 3)
    assert expected in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_a_round_that_flower_recorded_is_attacked_for_what_it_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout masks that nobody knows are no broken claim; the weights are no gradient."""
    rounds = data.parent / "cases" / "rounds"
    if not rounds.is_dir():
        pytest.skip(f"no recorded rounds at {rounds}")
    rounds = rounds.resolve()
    folder = rounds / "flower_fedsgd"
    model = ("scan", folder / "global.pt", "--factory", "nets:net", "--input-shape", "3,32,32", "--mode", "train")
    normal = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2470,0.2435,0.2616", "--batch", folder / "batch0.npz")
    rest = ("--update", folder / "client0.pt", "--learning-rate", 0.05, "--attack", "dia", "--preset", "quick")
    out = ("--out", tmp_path, "--format", "json", "-q", "--controls", "none", "--fail-on", "never")
    monkeypatch.chdir(rounds)
    code, _, err = leakaudit(*model, *normal, *rest, *out)
    assert code in (0, 5), err
    report = report_of(tmp_path)
    assert "LA501" not in [finding["id"] for finding in report["findings"]]
    checks = {check["what"]: check for check in report["claims"][0]["checks"]}
    assert "not judged" in checks["cosine with the computed update"]["expected"]
    assert report["attacks"][0]["results"][0]["samples"][0]["metrics"]["psnr"] > 18
