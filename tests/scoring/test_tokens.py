"""Scores of texts against hand-counted cases, and floors that a reading must beat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.tokens import ReadTexts, TokenMeasure
from tests.texts import VOCABULARY, random_ids


def population(count: int = 12) -> Batch:
    ids = torch.tensor(random_ids(count))[:, None, None, :]
    return Batch(ids, torch.arange(count) % 4, tuple(range(count)))


def reading(ids: Tensor, placed: bool = True) -> ReadTexts:
    flat = ids.flatten(1)
    return ReadTexts(flat, torch.full(flat.shape, placed), torch.unique(flat))


def test_a_perfect_reading_in_another_order_of_texts() -> None:
    texts = population()
    batch = texts.subset([4, 7, 1])
    moved = batch.images[[2, 0, 1]]
    scores = TokenMeasure(texts, VOCABULARY).score(batch, reading(moved))
    assert [s.reconstruction for s in scores] == [1, 2, 0]
    for score in scores:
        assert score.tokens is not None
        assert (score.tokens.match.accuracy, score.tokens.match.precision, score.tokens.match.recall) == (1.0, 1.0, 1.0)
        assert score.tokens.skill == pytest.approx(1.0)
        assert score.leaked
        assert score.identification.identified
        assert "psnr" not in score.metrics


def test_counts_by_hand() -> None:
    truth = torch.tensor([[[[5, 6, 7, 5]]]])
    batch = Batch(truth, torch.zeros(1, dtype=torch.long), (0,))
    guess = torch.tensor([[[[5, 9, 7, 8]]]])
    placed = torch.tensor([[True, True, True, False]])
    read = ReadTexts(guess.flatten(1), placed, torch.tensor([5, 7, 9]))
    (score,) = TokenMeasure(batch, 10).score(batch, read)
    tokens = score.tokens
    assert tokens is not None
    assert tokens.recovered == (5, 9, 7, None)
    assert tokens.match.accuracy == 0.5
    assert tokens.match.precision == pytest.approx(2 / 3)
    assert tokens.match.recall == pytest.approx(2 / 3)
    assert tokens.floors["chance"].accuracy == 0.1
    assert set(tokens.floors) == {"chance"}
    assert tokens.skill == pytest.approx((2 / 3 - 0.3) / 0.7)  # the set: three different tokens of ten by chance
    assert score.identification.identified is None


def test_a_token_set_has_no_accuracy_but_leaks() -> None:
    texts = population()
    batch = texts.subset([0, 3])
    scores = TokenMeasure(texts, VOCABULARY).score(batch, reading(batch.images, False))
    for score in scores:
        assert score.tokens is not None
        assert score.tokens.match.accuracy is None
        assert score.tokens.recovered == (None,) * 8
        assert score.leaked
        assert score.identification.identified is None


def test_another_text_is_no_leak() -> None:
    texts = population()
    batch, other = texts.subset([0]), texts.subset([5]).images
    (score,) = TokenMeasure(texts, VOCABULARY).score(batch, reading(other))
    assert score.tokens is not None
    assert not score.leaked
    assert score.identification.identified is False
    (unordered,) = TokenMeasure(texts, VOCABULARY).score(batch, reading(other, False))
    assert unordered.identification.identified is False


def test_floors_come_from_outside_the_batch_only() -> None:
    """Every other text is the same as the private one: a reading of it shows nothing."""
    ids = torch.tensor(random_ids(1)).repeat(6, 1)[:, None, None, :]
    texts = Batch(ids, torch.zeros(6, dtype=torch.long), tuple(range(6)))
    (score,) = TokenMeasure(texts, VOCABULARY).score(texts.subset([2]), reading(ids[:1]))
    assert score.tokens is not None
    assert score.tokens.floors["other"].accuracy == score.tokens.floors["frequent"].recall == 1.0
    assert score.tokens.skill == 0.0
    assert not score.leaked


def test_an_attack_that_says_no_more_claims_every_place() -> None:
    texts = population()
    claimed = ReadTexts.of(Reconstruction(texts.images[[1]].float(), torch.tensor([1]), 0.0))
    (score,) = TokenMeasure(texts, VOCABULARY).score(texts.subset([1]), claimed)
    assert score.tokens is not None
    assert score.tokens.match.accuracy == 1.0


def test_what_comes_out_without_the_update_is_a_floor() -> None:
    texts = population()
    batch = texts.subset([1])
    (score,) = TokenMeasure(texts, VOCABULARY).score(batch, reading(batch.images), [reading(batch.images)])
    assert score.tokens is not None
    assert score.tokens.floors["prior_only"].accuracy == 1.0
    assert not score.leaked
    assert "best floor" in score.reason


def test_alike_texts() -> None:
    texts = population()
    scorer = TokenMeasure(texts, VOCABULARY)
    assert scorer.alike(texts.subset([0, 1]), texts.subset([5, 1]))
    other = Batch((texts.images + 1) % VOCABULARY, texts.labels, texts.indices)
    assert not scorer.alike(texts.subset([0]), other.subset([0]))
