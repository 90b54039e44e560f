"""Tokens and their order from the update of a small text model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dager import Dager, DagerSettings
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.reading.noise import live_rows
from leakaudit.attacks.reading.spans import outside_share
from leakaudit.attacks.reading.token_places import sequence_by_positions
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.reconstruction import NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.attacks.exact import noise_batch, seen
from tests.attacks.transformer import Block
from tests.conftest import make_target, small_mlp

VOCABULARY, PLACES = 50, 8
SHAPE = (1, 1, PLACES)
SPACE = Images(SHAPE, (0.0,), (1 / (VOCABULARY - 1),))
ATTACK = Dager(DagerSettings())


class Text(nn.Module):
    """A one-block transformer over token numbers."""

    def __init__(self, positions: bool, table: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, 32)
        self.table.weight.requires_grad_(table)
        self.positions = nn.Parameter(torch.randn(1, PLACES, 32), requires_grad=positions)
        self.block, self.head = Block(32, 4, True, True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.table(x.flatten(1).round().long()) + self.positions
        return self.head(self.block(tokens).mean(1))


def case(positions: bool, table: bool, size: int) -> tuple[Target, Batch, Tensor, Observation]:
    target = Target(Text(positions, table).eval(), "text", "module", SHAPE, "NCHW", Images.plain(SHAPE), SingleLabel(3))
    generator = torch.Generator().manual_seed(size)
    tokens = torch.randint(VOCABULARY, (size, *SHAPE), generator=generator)
    tokens[0, 0, 0, 5] = tokens[0, 0, 0, 1]
    batch = Batch(tokens / (VOCABULARY - 1), torch.arange(size) % 3, tuple(range(size)))
    return target, batch, tokens, seen(target, batch, SPACE)


def run(target: Target, observation: Observation) -> Reconstruction:
    assert ATTACK.applies(target, observation) is None
    return ATTACK(target, observation, cpu_generator(0))


@pytest.mark.parametrize(
    ("positions", "table", "how"),
    [(True, True, "positions, misfit"), (False, True, "span of"), (True, False, "span of"), (False, False, "span of")],
)
def test_the_sequence_of_one_sample(positions: bool, table: bool, how: str) -> None:
    target, batch, tokens, observation = case(positions, table, 1)
    result = run(target, observation)
    assert torch.equal(result.inputs.round().long(), tokens)
    assert result.labels.tolist() == batch.labels.tolist()
    assert result.exact
    assert how in result.notes[0]


@pytest.mark.parametrize("table", [True, False])
def test_the_token_set_of_a_batch(table: bool) -> None:
    target, _, tokens, observation = case(True, table, 2)
    result = run(target, observation)
    listed = sorted(set(tokens.flatten().tolist()))
    assert not result.exact
    assert result.tokens is not None
    assert result.tokens.found.tolist() == listed
    assert f"{len(listed)} different tokens" in result.notes[0]


def test_tokens_are_the_rows_that_moved() -> None:
    gradient = torch.zeros(6, 3)
    gradient[[1, 4]] = 1.0
    assert live_rows(gradient).tolist() == [1, 4]


@pytest.mark.parametrize("sequence", [[3, 1, 3, 0, 1], [2, 2, 2, 2, 4, 2, 0, 0], [5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("scale", [1.0, 5.6])
@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_sequence_with_repeated_tokens(sequence: list[int], scale: float, spread: float) -> None:
    """Counts of one to five, a scaled embedding, and errors that differ by six orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.tensor(sequence)
    places = torch.randn((len(tokens), 8), generator=generator)
    places = places * 10 ** (-spread * torch.rand((len(tokens), 1), generator=generator))
    table = scale * torch.zeros(6, 8).index_add_(0, tokens, places)
    found, misfit = sequence_by_positions(table, places, live_rows(table))
    assert found.tolist() == sequence
    assert misfit < 1e-4


def test_what_is_outside_a_span_is_nothing_inside_and_all_across() -> None:
    outside = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    candidates = torch.tensor([[2.0, -3.0, 0.0], [0.0, 0.0, 5.0], [3.0, 0.0, 4.0]])
    assert outside_share(candidates, outside).norm(dim=1).tolist() == pytest.approx([0.0, 1.0, 0.8], abs=1e-12)


def test_image_models_are_refused_and_text_is_refused_elsewhere(space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    refusal = ATTACK.applies(target, seen(target, noise_batch(1), space))
    assert isinstance(refusal, NotApplicable)
    assert "no token embedding" in refusal.reason
    target, _, _, observation = case(True, True, 1)
    assert isinstance(LinearReader(LinearSettings()).applies(target, observation), NotApplicable)
