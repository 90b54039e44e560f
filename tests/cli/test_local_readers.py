"""``--round`` and ``--update`` of clients that trained locally, read exactly from the command line."""

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
from tests.cli.build import CLASSES, export, leakaudit

QUICK = ("--controls", "none", "--format", "json", "-q", "--mean", 0.5, "--std", 0.25, "--fail-on", "never")
DECAY = 5e-3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 160), nn.ReLU(), nn.Linear(160, CLASSES))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, four records, what a client recorded of its training on them, and what it sent."""
    folder = tmp_path_factory.mktemp("case")
    net = network()
    export(net, folder / "model.onnx")
    images = np.random.default_rng(0).random((4, 3, 12, 12), dtype=np.float32)
    np.savez(folder / "local.npz", x=images, y=np.arange(4))
    inputs, labels = torch.from_numpy((images - 0.5) / 0.25), torch.arange(4)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9, weight_decay=DECAY)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=2, shuffle=True)
    net.train()
    with pytorch_hook(net, folder / "round", optimizer=optimizer, loader=loader):
        for _ in range(3):
            for some, classes in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(some), classes).backward()
                optimizer.step()
    torch.save(net.state_dict(), folder / "after.pt")
    return folder


def report_of(case: Path, out: Path, *words: object) -> Any:
    attacks = ("--attack", "spear", "--attack", "rgap")
    common = ("scan", case / "model.onnx", "--batch", case / "local.npz", *QUICK, *attacks)
    code, _, err = leakaudit(*common, "--out", out, *words)
    assert code in (0, 1, 5), err
    return json.loads((out / "report.json").read_text())


TRAINING = ("--learning-rate", 0.02, "--momentum", 0.9, "--local-batch-size", 2, "--local-epochs", 3)


@pytest.mark.parametrize("source", ["round", "update", "update, decay not told"])
def test_every_record_is_read_from_what_a_client_sent(source: str, case: Path, tmp_path: Path) -> None:
    words: tuple[object, ...] = ("--round", case / "round")
    if source != "round":
        told = ("--weight-decay", DECAY) if source == "update" else ()
        words = ("--update", case / "after.pt", *TRAINING, *told)
    report = report_of(case, tmp_path, *words)
    assert report["protocol"]["settings"]["weight_decay"] == pytest.approx(DECAY, rel=1e-2)
    assert report["batch"]["distinct_records"] == [4]
    rows = {row["name"]: row for row in report["attacks"]}
    (result,) = rows["spear"]["results"]
    assert all(sample["leaked"] for sample in result["samples"])
    assert min(sample["metrics"]["psnr"] or 999 for sample in result["samples"]) > 80
    assert result["certified"] is None
    assert "order in which the client visited its samples is unknown" in result["certified_reason"]
    assert result["residual"] is None
    assert "order" in result["residual_reason"]
    assert rows["rgap"]["status"] == "not_applicable"
    assert "between them the weights move" in rows["rgap"]["reason"]
    assert report["verdict"]["code"] == "LEAKS (measured)"
    finding = next(found for found in report["findings"] if found["id"] == "LA303")
    assert finding["evidence"]["records"] == [4]


def test_a_client_whose_steps_take_all_records_is_certified(case: Path, tmp_path: Path) -> None:
    words = ("--learning-rate", 0.02, "--local-epochs", 3, "--mode", "eval")
    report = report_of(case, tmp_path, *words)
    (result,) = next(row for row in report["attacks"] if row["name"] == "spear")["results"]
    assert result["certified"] is True
    assert report["verdict"]["code"] == "LEAKS (certified)"
