"""Token readers and the patch reader after local steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.april import April, AprilSettings
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dager import Dager, DagerSettings
from leakaudit.attacks.embedding import EmbeddingReader, EmbeddingSettings
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.domains.tokens import Tokens
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target.target import Target
from tests.attacks.exact import judge, noise_batch, seen
from tests.attacks.transformer import TinyViT
from tests.conftest import make_target
from tests.texts import CLASSES, LENGTH, VOCABULARY, TextClassifier, random_ids, text_target

EMBEDDING, DAGER, APRIL = EmbeddingReader(EmbeddingSettings()), Dager(DagerSettings()), April(AprilSettings())
SPACE = Tokens.of(LENGTH, VOCABULARY)


def texts(size: int, module: nn.Module | None = None, **local: Any) -> tuple[Target, Batch, Observation]:
    target = text_target(module)
    ids = torch.tensor(random_ids(size, seed=size))[:, None, None, :]
    batch = Batch(ids, torch.arange(size) % CLASSES, tuple(range(size)))
    protocol = FedAvg(size, **{"learning_rate": 0.05, **local})
    return target, batch, seen(target, batch, SPACE, protocol=protocol)


class Tied(nn.Module):
    """Compares the mean embedding with the embeddings of the first tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, 16)

    def forward(self, ids: Tensor) -> Tensor:
        scores = torch.tanh(self.table(ids).mean(1)) @ self.table.weight.T
        return scores.reshape(len(ids), -1, CLASSES).mean(1)


STAYING: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "weight_decay": 5e-4},
    {"optimizer": "adam", "learning_rate": 1e-3},
    {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01},
    {"optimizer": "rmsprop", "learning_rate": 1e-3},
]


@pytest.mark.parametrize("local", STAYING, ids=lambda local: "-".join(map(str, local.values())) or "sgd")
@pytest.mark.parametrize("size", [1, 6])
def test_rows_that_moved_are_the_tokens_of_all_steps(size: int, local: dict[str, Any]) -> None:
    target, batch, observation = texts(size, local_epochs=3, local_batch_size=2, **local)
    assert EMBEDDING.refusal(target, observation) is None
    found = EMBEDDING(target, observation, cpu_generator(0)).tokens
    assert found is not None
    assert torch.equal(found.found, torch.unique(batch.images))


@pytest.mark.parametrize(
    ("module", "local", "reason"),
    [
        (Tied(), {}, "table.weight is tied to the output: every update moves all of its rows"),
        (None, {"optimizer": "adam", "weight_decay": 0.01, "learning_rate": 1e-3}, "every row of table.weight moved"),
    ],
    ids=["tied", "coupled decay"],
)
def test_a_table_whose_every_row_moves_says_nothing(
    module: nn.Module | None, local: dict[str, Any], reason: str
) -> None:
    target, _, observation = texts(2, module, local_epochs=3, **local)
    refusal = EMBEDDING.refusal(target, observation)
    assert refusal is not None
    assert reason in refusal.reason


@pytest.mark.parametrize("local", [{}, {"momentum": 0.9}, {"learning_rate": 1e-3}, {"weight_decay": 1e-3}])
def test_the_sequence_is_exact_after_steps_on_one_text(local: dict[str, Any]) -> None:
    target, batch, observation = texts(1, local_epochs=4, **local)
    assert DAGER.refusal(target, observation) is None
    result = DAGER(target, observation, cpu_generator(0))
    assert torch.equal(result.inputs, batch.images)
    assert result.exact
    assert "positions, misfit" in result.notes[0]


def test_the_span_test_asks_for_inputs_that_do_not_move() -> None:
    """A trained table gives a token another input in every step; a frozen one gives it the same."""
    target, batch, observation = texts(1, TextClassifier(positions=False), local_epochs=3)
    result = DAGER(target, observation, cpu_generator(0))
    assert not result.exact
    assert "moved with what stands before it" in result.notes[0]
    target, batch, observation = texts(1, TextClassifier(positions=False, table=False), local_epochs=3)
    result = DAGER(target, observation, cpu_generator(0))
    assert torch.equal(result.inputs, batch.images)
    assert "span of" in result.notes[0]


def test_optimizers_that_bend_leave_the_set_and_no_sequence() -> None:
    target, _, observation = texts(1, local_epochs=2, optimizer="adam", learning_rate=1e-3)
    refusal = DAGER.refusal(target, observation)
    assert refusal is not None
    assert refusal.reason.startswith("Adam: spans and ratios do not survive it")


@pytest.mark.parametrize("settings", [{}, {"convolution": False}], ids=["convolution", "linear"])
@pytest.mark.parametrize("epochs", [1, 4])
def test_patches_are_exact_after_steps_on_one_image(epochs: int, settings: dict[str, Any], space: Images) -> None:
    target, batch = make_target(TinyViT(**settings), (3, 12, 12), 5), noise_batch(1, seed=2)
    protocol = FedAvg(1, local_epochs=epochs, learning_rate=0.02, momentum=0.9)
    observation = seen(target, batch, space, protocol=protocol)
    assert APRIL.refusal(target, observation) is None
    result = APRIL(target, observation, cpu_generator(0))
    assert judge(result, batch, space) == (1, 0)
    refusal = APRIL.refusal(target, replace(observation, protocol=FedAvg(1, local_epochs=2, optimizer="adam")))
    assert refusal is not None
    assert refusal.reason.startswith("Adam")
