"""Weight decay of local training, told from rows that nothing else touched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from leakaudit.audit.round_settings import told_beside
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.client.rounds.kinds import Kind
from leakaudit.client.rounds.local import local_decay
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target.target import Target
from tests.conftest import make_target

BATCH = Batch(torch.rand((4, 3, 12, 12), generator=torch.Generator().manual_seed(0)), torch.arange(4), tuple(range(4)))
RATE = 5e-4


def network() -> Target:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 5))
    target = make_target(net, (3, 12, 12), 5)
    with torch.no_grad():
        target.parameters["1.bias"][:6] = -100.0  # these units never fire
    return target


def sent(target: Target, protocol: FedAvg, kind: Kind) -> RecordedUpdate:
    """What such a client sends."""
    update = observe(target, BATCH, protocol, target.domain).update
    moved = protocol.moved(update, target.parameters)
    tensors = {name: way.detach() for name, way in moved.items()}
    if kind == "weights":
        tensors = {name: (target.parameters[name] + way).detach() for name, way in moved.items()}
    return RecordedUpdate(tensors, "client.npz", "", kind)


TRAINING: list[dict[str, Any]] = [
    {"local_epochs": 5, "local_batch_size": 2},
    {"local_epochs": 5, "local_batch_size": 2, "momentum": 0.9, "nesterov": True},
    {"local_epochs": 1},
]


@pytest.mark.parametrize("kind", ["weights", "delta"])
@pytest.mark.parametrize("local", TRAINING, ids=["plain", "nesterov", "one step"])
def test_it_is_found_to_a_thousandth(local: dict[str, Any], kind: Kind) -> None:
    target, protocol = network(), FedAvg(4, learning_rate=0.05, weight_decay=RATE, **local)
    told = replace(protocol, weight_decay=0.0, shares=kind)
    found = local_decay(sent(target, protocol, kind), target.parameters, told)
    assert found.decay is not None
    assert found.decay.rate == pytest.approx(RATE, rel=2e-3)
    assert found.decay.rows >= 6
    assert "rows that nothing else touched" in found.decay.told()
    update = replace(told, weight_decay=found.decay.rate).from_shared(found.tensors, target.parameters)
    assert not bool(update["1.weight"][:6].any()), "untouched rows are zero again"
    true = observe(target, BATCH, protocol, target.domain).update
    torch.testing.assert_close(update["1.weight"], true["1.weight"], rtol=1e-3, atol=1e-5)


def test_nothing_is_found_where_nothing_decays_or_every_row_is_touched() -> None:
    target, protocol = network(), FedAvg(4, local_epochs=2, learning_rate=0.05)
    assert local_decay(sent(target, protocol, "weights"), target.parameters, protocol).decay is None
    with torch.no_grad():
        target.parameters["1.bias"][:] = 100.0
    decayed = replace(protocol, weight_decay=RATE)
    assert local_decay(sent(target, decayed, "weights"), target.parameters, protocol).decay is None


def test_biases_that_do_not_decay_are_told_apart() -> None:
    target, protocol = network(), FedAvg(4, local_epochs=3, learning_rate=0.05, weight_decay=RATE)
    update = sent(target, protocol, "weights")
    kept = sent(target, replace(protocol, weight_decay=0.0), "weights").tensors
    mixed: dict[str, Tensor] = {n: kept[n] if t.dim() < 2 else t for n, t in update.tensors.items()}
    found = local_decay(replace(update, tensors=mixed), target.parameters, replace(protocol, weight_decay=0.0))
    assert found.decay is not None
    assert not found.decay.one_axis
    told = replace(protocol, weight_decay=found.decay.rate).from_shared(found.tensors, target.parameters)
    true = observe(target, BATCH, protocol, target.domain).update
    torch.testing.assert_close(told["1.bias"], true["1.bias"], rtol=5e-3, atol=1e-4)


def test_weights_that_no_decay_shrinks_so_are_left_as_they_are() -> None:
    """Rows that lost nine tenths of themselves in two steps, as after a filter that scales: no λ does that."""
    target, protocol = network(), FedAvg(4, learning_rate=0.05, local_epochs=2)
    tensors = {name: (-0.9 * tensor).detach() for name, tensor in target.parameters.items()}
    update = RecordedUpdate(tensors, "client.npz", "", "delta")
    assert local_decay(update, target.parameters, replace(protocol, shares="delta")) is update


def test_of_an_unknown_learning_rate_the_share_that_decay_took_is_told() -> None:
    target, protocol = network(), FedAvg(4, learning_rate=0.05, weight_decay=RATE, **TRAINING[0])
    told = FedAvg(4, weight_decay=0.0, shares="weights", untold=("learning_rate",), **TRAINING[0])
    found = local_decay(sent(target, protocol, "weights"), target.parameters, told)
    assert found.decay is not None
    assert found.decay.taken == pytest.approx(1 - protocol.kept, rel=2e-3)
    assert replace(told, weight_decay=found.decay.rate).kept == pytest.approx(protocol.kept, abs=1e-6)
    assert f"took {100 * found.decay.taken:.4g} % off every weight" in found.decay.told()


def test_a_round_that_tells_no_learning_rate_hands_no_weight_decay_on(tmp_path: Path) -> None:
    (tmp_path / "round.json").write_text(json.dumps({"format": "leakaudit-round", "version": 1, "weight_decay": RATE}))
    for name in ("before", "after"):
        save_file({"w": torch.zeros(1)}, str(tmp_path / f"{name}.safetensors"))
    assert "weight_decay" not in told_beside({"round": tmp_path})
    assert told_beside({"round": tmp_path, "learning_rate": 0.1})["weight_decay"] == RATE
