"""``--unknown`` and ``--before``: what is not known of a client's training, and weights that are not the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.cli.build import CLASSES, leakaudit
from tests.conftest import smooth_images

NOTHING_KNOWN = ("--unknown", "learning-rate", "--unknown", "local-epochs", "--unknown", "local-batch-size")
QUICK = ("--controls", "none", "--format", "json", "-q", "--mean", 0.5, "--std", 0.25, "--fail-on", "never")
ATTACKS = ("--attack", "ig", "--attack", "dlfa", "--attack", "linear", "--attack", "sme")
FEW = ("--set", "sme.iterations=30", "--set", "ig.iterations=30")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, CLASSES))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    np.savez(folder / "local.npz", x=smooth_images(2), y=np.arange(2))
    return folder / "local.npz"


def trained(net: nn.Module, samples: Path, steps: int = 4, rate: float = 0.05) -> dict[str, Tensor]:
    with np.load(samples) as arrays:
        inputs, labels = torch.from_numpy((arrays["x"] - 0.5) / 0.25), torch.from_numpy(arrays["y"])
    optimizer = torch.optim.SGD(net.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


@pytest.fixture
def global_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file with its factory beside it."""
    (tmp_path / "unknown_nets.py").write_text(
        "from torch import nn\n\n\ndef net():\n"
        "    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, 5)]\n"
        "    return nn.Sequential(*layers)\n"
    )
    monkeypatch.chdir(tmp_path)
    save_file(network().state_dict(), str(tmp_path / "global.safetensors"))
    return tmp_path / "global.safetensors"


def scan(model: Path, *words: object) -> tuple[int, Any, str]:
    factory = ("--factory", "unknown_nets:net", "--input-shape", "3,12,12")
    code, _, err = leakaudit("scan", model, *factory, "--out", "out", *QUICK, *ATTACKS, *FEW, *words)
    report = Path("out") / "report.json"
    return code, json.loads(report.read_text()) if report.exists() else None, " ".join(err.split())


def test_of_an_unknown_training_only_what_needs_none_of_it_runs(global_model: Path, samples: Path) -> None:
    save_file(trained(network(), samples), "after.safetensors")
    code, report, err = scan(global_model, "--batch", samples, "--update", "after.safetensors", *NOTHING_KNOWN)
    assert code in (0, 5), err
    rows = {row["name"]: row for row in report["attacks"]}
    assert rows["sme"]["status"] == "run"
    assert {rows[name]["status"] for name in ("ig", "dlfa", "linear")} == {"not_applicable"}
    all_of_it = "learning rate, local epochs and local batch size of the client are not known"
    assert all_of_it in rows["ig"]["reason"]
    assert all_of_it in rows["dlfa"]["reason"]
    assert "local epochs and local batch size of the client are not known" in rows["linear"]["reason"]
    settings = report["protocol"]["settings"]
    assert {settings[name] for name in ("learning_rate", "local_epochs", "local_batch_size", "local_steps")} == {None}
    assert all_of_it in " ".join(report["verdict"]["assumed"])
    assert "--unknown" in report["command"]
    result = rows["sme"]["results"][0]
    assert result["residual"] is None, "it cannot be regenerated"
    checks = [check for check in report["claims"][0]["checks"] if "computed update" in check["what"]]
    assert len(checks) == 2
    assert all("not judged" in check["expected"] for check in checks)


def test_a_round_that_tells_nothing_is_of_an_unknown_training(global_model: Path, samples: Path) -> None:
    Path("round").mkdir()
    save_file(network().state_dict(), "round/before.safetensors")
    save_file(trained(network(), samples), "round/after.safetensors")
    code, report, err = scan(global_model, "--batch", samples, "--round", "round")
    assert code in (0, 5), err
    assert report["protocol"]["settings"]["learning_rate"] is None
    assert {row["name"] for row in report["attacks"] if row["status"] == "run"} == {"sme"}
    code, report, err = scan(global_model, "--batch", samples, "--round", "round", "--learning-rate", 0.05)
    assert code in (0, 1, 5), err
    assert report["protocol"]["settings"]["learning_rate"] == 0.05


def test_weights_before_that_are_not_the_models(global_model: Path, samples: Path) -> None:
    other = network(1)
    save_file(other.state_dict(), "before.safetensors")
    save_file(trained(other, samples), "after.safetensors")
    words = ("--batch", samples, "--update", "after.safetensors", "--learning-rate", 0.05, "--local-epochs", 4)
    code, report, err = scan(global_model, *words, "--before", "before.safetensors")
    assert code in (0, 1, 5), err
    assert any("started from other weights" in note for note in report["protocol"]["update_notes"])
    (check,) = [c for c in report["claims"][0]["checks"] if c["what"] == "cosine with the computed update"]
    assert check["holds"]


def test_a_difference_with_the_weights_before(global_model: Path, samples: Path) -> None:
    other = network(1)
    begun = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    save_file(begun, "before.safetensors")
    after = trained(other, samples)
    save_file({name: tensor - begun[name] for name, tensor in after.items()}, "delta.safetensors")
    words = ("--batch", samples, "--update", "delta.safetensors", "--before", "before.safetensors")
    code, report, err = scan(global_model, *words, "--learning-rate", 0.05, "--local-epochs", 4)
    assert code in (0, 1, 5), err
    (check,) = [c for c in report["claims"][0]["checks"] if c["what"] == "cosine with the computed update"]
    assert check["holds"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--unknown", "weight-decay"), "expected some of learning_rate, local_epochs, local_batch_size"),
        (("--unknown", "learning-rate", "--learning-rate", 0.1), "said to be unknown"),
        (("--unknown", "local-epochs"), "unknown was given without a learning rate"),
        ((*NOTHING_KNOWN, "--weight-decay", 0.01), "what it took off the weights follows from the learning rate"),
        (("--before", "global.safetensors", "--learning-rate", 0.1), "there is none"),
        (("--update", "global.safetensors", "--before", "no.npz", "--learning-rate", 0.1), "no such update file"),
        (("--update", "global.safetensors", "--before", "part.npz", "--learning-rate", 0.1), "does not hold 0.bias"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[object, ...], expected: str, global_model: Path, samples: Path
) -> None:
    np.savez("part.npz", **{"0.weight": np.zeros((8, 3, 3, 3), np.float32)})
    code, report, err = scan(global_model, "--batch", samples, *words)
    assert code in (2, 3)
    assert expected in err, err
    assert "Traceback" not in err
    assert report is None
