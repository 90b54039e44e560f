"""Token sets from embedding rows, and the one place where attacks on pixels are refused for token ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dager import Dager, DagerSettings
from leakaudit.attacks.embedding import EmbeddingReader, EmbeddingSettings
from leakaudit.attacks.registry import available
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.domains.tokens import Tokens
from leakaudit.observation import Observation
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.target import Target
from tests.attacks.exact import noise_batch, seen
from tests.conftest import make_target, small_mlp
from tests.texts import LENGTH, VOCABULARY, TextClassifier, random_ids, text_target

ATTACK = EmbeddingReader(EmbeddingSettings())
SPACE = Tokens.of(LENGTH, VOCABULARY)


def case(size: int, module: nn.Module | None = None) -> tuple[Target, Batch, Observation]:
    target = text_target(module)
    ids = torch.tensor(random_ids(size, seed=size))[:, None, None, :]
    batch = Batch(ids, torch.arange(size) % 4, tuple(range(size)))
    return target, batch, seen(target, batch, SPACE)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_set_is_exact_for_every_batch_size(size: int) -> None:
    target, batch, observation = case(size)
    assert ATTACK.refusal(target, observation) is None
    result = ATTACK(target, observation, cpu_generator(0))
    assert result.tokens is not None
    assert torch.equal(result.tokens.found, torch.unique(batch.images))
    assert not bool(result.tokens.placed.any())
    assert result.inputs.shape == batch.images.shape
    assert result.inputs.dtype == torch.long
    assert not result.residual <= 1  # undefined: the order is not known
    assert not result.exact


def test_refusals() -> None:
    target, _, observation = case(2)
    table = observation.update["table.weight"]
    noisy = {**observation.update, "table.weight": table + 1e-6}
    refusal = ATTACK.refusal(target, replace(observation, update=noisy))
    assert refusal is not None
    assert "every row of table.weight moved" in refusal.reason
    frozen = {name: gradient for name, gradient in observation.update.items() if name != "table.weight"}
    refusal = ATTACK.refusal(target, replace(observation, update=frozen))
    assert refusal is not None
    assert "not trained" in refusal.reason


def test_images_are_refused(space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    refusal = ATTACK.refusal(target, seen(target, noise_batch(1), space))
    assert refusal == NotApplicable("the model takes real-valued inputs such as pixels; this attack recovers token ids")


def test_attacks_on_pixels_are_refused_for_token_ids() -> None:
    target, _, observation = case(1)
    refused = {}
    for name, attack in available().items():
        refusal = attack(attack.presets["quick"]).refusal(target, observation)
        if refusal is not None:
            refused[name] = refusal.reason
    assert set(available()) - set(refused) == {"dager", "embedding"}
    assert all("takes token ids" in reason for reason in refused.values())


@pytest.mark.parametrize("positions", [True, False])
def test_sequence_of_one_text(positions: bool) -> None:
    target, batch, observation = case(1, TextClassifier(positions=positions))
    result = Dager(DagerSettings())(target, observation, cpu_generator(0))
    assert torch.equal(result.inputs, batch.images)
    assert result.tokens is not None
    assert bool(result.tokens.placed.all())
    assert torch.equal(result.tokens.found, torch.unique(batch.images))
    assert result.residual < 1e-4
    assert result.exact


def test_a_model_blind_to_order_gives_its_set_only() -> None:
    module = TextClassifier(positions=False)
    module.positions.data.zero_()
    target, batch, observation = case(1, module)
    result = Dager(DagerSettings())(target, observation, cpu_generator(0))
    assert result.tokens is not None
    assert torch.equal(result.tokens.found, torch.unique(batch.images))
    assert not bool(result.tokens.placed.any())
    assert not result.exact
