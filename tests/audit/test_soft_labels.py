"""Soft labels from the file to the report: the client's loss has them, and attackers find or miss them by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.audit.victim import ONE_CLASS
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.document.redact import redact
from leakaudit.document.schema import Report
from leakaudit.protocols.fedsgd import FedSGD
from tests.conftest import make_target, small_mlp, smooth_images

SHARES = (np.full((6, 5), 0.1) + 0.5 * np.eye(5)[np.arange(6) % 5]).astype(np.float32)


def relu_mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 5))


def scan(labels: np.ndarray, attacks: list[str], batch_size: int = 1, module: nn.Module | None = None) -> Report:
    return leakaudit.scan(
        module or relu_mlp(), (smooth_images(6), labels), attacks=attacks, batch_size=batch_size, victims=1,
        controls="none", input_shape=(3, 12, 12), preset="quick",
    )  # fmt: skip


def results(report: Report) -> dict[str, Any]:
    return {attack.name: attack.results[0] for attack in report.attacks if attack.status == "run"}


@pytest.mark.parametrize("double", [False, True])
def test_the_clients_update_is_that_of_its_soft_labels(double: bool) -> None:
    module = small_mlp().double() if double else small_mlp()
    target = make_target(module, (3, 12, 12), 5)
    images = torch.from_numpy(smooth_images(6)).to(next(module.parameters()))
    batch = Batch(images, torch.from_numpy(SHARES), tuple(range(6)))
    update = observe(target, batch, FedSGD(6), target.domain).update
    loss = -(torch.from_numpy(SHARES) * module(images).log_softmax(1)).sum(1).mean()
    expected = torch.autograd.grad(loss, list(module.parameters()))
    for found, wanted in zip(update.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_soft_label_of_one_sample_is_inferred_and_every_attack_uses_it() -> None:
    found = results(scan(SHARES, ["linear", "rgap", "ig"]))
    for name in ("linear", "rgap"):
        assert found[name].certified, (name, found[name].certified_reason)
    for result in found.values():
        (true,) = result.labels.true_soft
        assert result.labels.soft == pytest.approx(true, abs=1e-5)
        assert result.labels.correct == 1
        assert ONE_CLASS not in result.notes
    hard = results(scan(SHARES.argmax(1), ["ig"]))["ig"]
    assert found["ig"].residual == pytest.approx(hard.residual, abs=0.2), "as good as with a class"


def test_attacks_on_a_mixed_batch_say_that_they_assumed_classes() -> None:
    found = results(scan(SHARES, ["linear", "ig"], batch_size=2))
    assert all(ONE_CLASS in result.notes for result in found.values())
    assert not any(ONE_CLASS in result.notes for result in results(scan(SHARES.argmax(1), ["linear"], 2)).values())


def test_two_classes_by_one_logit() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 1))
    shares = np.stack([np.linspace(0.2, 0.8, 6), np.linspace(0.8, 0.2, 6)], 1)
    result = results(scan(shares, ["linear"], module=module))["linear"]
    assert result.certified
    assert result.labels.soft == pytest.approx(result.labels.true_soft[0], abs=1e-5)


def test_soft_labels_are_private() -> None:
    hidden = redact(scan(SHARES, ["linear"]), "blurred")
    labels = results(hidden)["linear"].labels
    assert (labels.soft, labels.true_soft) == (None, None)
