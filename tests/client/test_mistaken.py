"""Updates that are something else than their protocol shares."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.client.batch import Batch
from leakaudit.client.rounds.mistaken import even, refuse_mistaken
from leakaudit.defences.quantisation import SignQuantisation
from leakaudit.errors import UpdateError
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target import load
from tests.conftest import small_mlp, smooth_images

SHAPE = (3, 12, 12)
NOBODY = Batch.unknown(SHAPE, range(2))


def trained(kind: type[torch.optim.Optimizer], steps: int = 1, **settings: Any) -> dict[str, Tensor]:
    """Weights after some steps on two samples."""
    module = small_mlp()
    inputs = (torch.from_numpy(smooth_images(2)).float() - 0.5) / 0.25
    optimizer = kind(module.parameters(), **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), torch.tensor([1, 3])).backward()
        optimizer.step()
    return copy.deepcopy(dict(module.named_parameters()))


def change(after: dict[str, Tensor]) -> dict[str, Tensor]:
    before = dict(small_mlp().named_parameters())
    return {name: (tensor - before[name]).detach() for name, tensor in after.items()}


def test_the_first_step_of_adam_is_signs_and_none_of_sgd_is() -> None:
    assert even(change(trained(torch.optim.Adam, lr=1e-3)))
    assert even(change(trained(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)))
    assert not even(change(trained(torch.optim.SGD, lr=0.1)))
    assert not even(change(trained(torch.optim.SGD, lr=0.1, steps=2, momentum=0.9)))
    assert not even({"few": torch.ones(5)})


@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_a_step_of_adam_is_not_taken_for_one_of_sgd(kind: Any) -> None:
    target = load(small_mlp(), image_shape=SHAPE)
    after = trained(torch.optim.Adam, lr=1e-3)
    shared = after if kind == "weights" else change(after)
    common = (shared, kind, target, NOBODY)
    with pytest.raises(UpdateError, match="as after the first step of Adam") as caught:
        refuse_mistaken(*common, FedAvg(2, learning_rate=1e-3), "file")
    assert "--optimizer adam" in caught.value.hint
    refuse_mistaken(*common, FedAvg(2, learning_rate=1e-3, optimizer="adam"), "file")
    refuse_mistaken(*common, FedAvg(2, learning_rate=1e-3), "file", signs=True)


def test_a_scan_says_so_and_takes_it_with_its_optimizer() -> None:
    before, after = dict(small_mlp().named_parameters()), trained(torch.optim.Adam, lr=1e-3)
    common: dict[str, Any] = {"samples": 2, "learning_rate": 1e-3, "attacks": ["linear"], "controls": "none"}
    common |= {"mean": 0.5, "std": 0.25, "input_shape": SHAPE}
    with pytest.raises(UpdateError, match="signs alone"):
        leakaudit.scan(small_mlp(), update=(before, after), **common)
    report = leakaudit.scan(small_mlp(), update=(before, after), optimizer="adam", **common)
    assert any("1 step of Adam" in line for line in report.verdict.assumed)
    assert report.protocol.update_path == "the update in memory"
    assert report.protocol.update_sha256


@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_weights_and_differences_are_no_gradient(kind: Any) -> None:
    target = load(small_mlp(), image_shape=SHAPE)
    with pytest.raises(UpdateError, match="after local training, not a gradient"):
        refuse_mistaken(trained(torch.optim.SGD, lr=0.1), kind, target, NOBODY, FedSGD(2), "file")


def test_a_gradient_is_no_local_training() -> None:
    target = load(small_mlp(), image_shape=SHAPE)
    shared = {name: torch.randn_like(tensor) for name, tensor in target.parameters.items()}
    with pytest.raises(UpdateError, match="file is a gradient, and clients are said to train locally"):
        refuse_mistaken(shared, "gradient", target, NOBODY, FedAvg(2, learning_rate=0.1), "file")
    refuse_mistaken(shared, "gradient", target, NOBODY, FedSGD(2), "file")


def test_signs_that_were_read_from_rounded_weights_are_signs() -> None:
    """A step of ±1e-3 of weights of 0.1 comes back with a rounding; other magnitudes are still told."""
    before = small_mlp().state_dict()
    generator = torch.Generator().manual_seed(0)
    moved = {n: t + 1e-3 * torch.randn(t.shape, generator=generator).sign() for n, t in before.items()}
    shared = {name: (before[name] - tensor) / 0.1 for name, tensor in moved.items()}
    assert max(len(torch.unique(tensor.abs())) for tensor in shared.values()) > 1
    (check,) = SignQuantisation().check({}, shared)
    assert (check.holds, check.measured) == (True, "1")
    (check,) = SignQuantisation().check({}, {"w": torch.tensor([1.0, -1.0, 1.05])})
    assert (check.holds, check.measured) == (False, "2")
