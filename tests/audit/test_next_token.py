"""Language models: texts are read with their labels, tied tables name no tokens, large vocabularies are tried."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leakaudit
from leakaudit.attacks.base import relative_residual
from leakaudit.attacks.reading.last_token import CANDIDATES
from leakaudit.attacks.reading.spans import distances
from leakaudit.document.schema import Report
from leakaudit.errors import BatchError, ModelError, UsageError
from leakaudit.observation import Observation
from leakaudit.report.formats.html import render_html
from leakaudit.target.target import Target
from leakaudit.tasks.next_token import NextToken
from tests.target.language import LENGTH, VOCABULARY, CausalLM, texts

READERS = ["embedding", "dager"]


def model(**how: Any) -> Target:
    torch.manual_seed(0)
    return leakaudit.load(CausalLM(**how), image_shape=(1, 1, LENGTH))


def audited(target: Target, ids: torch.Tensor, labels: Any = (), **more: Any) -> Report:
    labels = np.asarray(labels) if len(labels) else np.zeros(0, np.int64)
    keywords: dict[str, Any] = {"victims": 1, "attacks": READERS, "controls": "none", "preset": "quick", **more}
    return leakaudit.scan(target, (ids.numpy(), labels), **keywords)


def test_it_is_taken_for_the_next_token_and_its_loss_is_that_of_shifted_texts() -> None:
    target, ids = model(), texts(3)
    assert target.task == NextToken(VOCABULARY, (LENGTH,), True)
    logits = target.logits(ids[:, None, None]).view(3, LENGTH, VOCABULARY)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(target.loss(ids[:, None, None], target.task.of_inputs(ids)), expected)
    with pytest.raises(UsageError, match="single-label is of one output per sample"):
        leakaudit.load(CausalLM(), image_shape=(1, 1, LENGTH), task="single-label")


@pytest.mark.parametrize("positions", [True, False])
def test_a_text_is_read_exactly_with_its_labels(positions: bool) -> None:
    report = audited(model(positions=positions), texts(12))
    assert report.verdict.status == "LEAKS (certified)"
    (result,) = next(a.results for a in report.attacks if a.name == "dager")
    assert (result.labels.correct, result.labels.count) == (LENGTH - 1, LENGTH - 1)
    tokens = result.samples[0].tokens
    assert tokens is not None
    assert tokens.accuracy == 1
    assert render_html(report)


@pytest.mark.parametrize("by_place", [False, True], ids=["by sample", "by place"])
def test_several_texts_are_read_through_the_layers_behind_the_attention(by_place: bool) -> None:
    report = audited(model(by_place=by_place), texts(12), batch_size=2)
    (result,) = next(a.results for a in report.attacks if a.name == "embedding")
    assert all(sample.leaked for sample in result.samples)
    assert result.labels.assumed
    (result,) = next(a.results for a in report.attacks if a.name == "dager")
    assert [sample.tokens.accuracy for sample in result.samples if sample.tokens] == [1, 1]
    assert result.certified
    assert result.labels.correct == result.labels.count == 2 * (LENGTH - 1)


@pytest.mark.slow
def test_of_more_tokens_than_dimensions_the_set_is_read() -> None:
    """Five texts of ten tokens fill the 32 inputs of every layer."""
    report = audited(model(), texts(12), batch_size=5)
    (result,) = next(a.results for a in report.attacks if a.name == "dager")
    assert not result.certified
    assert all(sample.leaked for sample in result.samples), "the set alone"


def test_a_tied_table_names_no_tokens_and_the_span_does() -> None:
    report = audited(model(tied=True, positions=False), texts(12))
    by_name = {a.name: a for a in report.attacks}
    assert "tied to the output" in by_name["embedding"].reason
    (result,) = by_name["dager"].results
    assert "span of" in " ".join(result.notes)
    assert result.samples[0].leaked
    pruned = audited(model(tied=True, positions=False), texts(12), defences=["prune=0.99"])
    assert all(not a.results or not any(r.samples[0].leaked for r in a.results) for a in pruned.attacks)


def test_of_several_texts_every_token_is_held_against_the_span_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last tokens are no longer tried once the update is regenerated."""
    asked: dict[str, list[int]] = {"tokens": [], "residuals": []}

    def held(target: Target, found: Any, observation: Observation, tokens: torch.Tensor) -> Any:
        asked["tokens"].append(len(tokens))
        return distances(target, found, observation, tokens)

    def regenerated(target: Target, observation: Observation, play: Any) -> float:
        asked["residuals"].append(1)
        return relative_residual(target, observation, play)

    monkeypatch.setattr("leakaudit.attacks.dager.distances", held)
    monkeypatch.setattr("leakaudit.attacks.reading.last_token.relative_residual", regenerated)
    monkeypatch.setattr("leakaudit.attacks.reading.confirm.relative_residual", regenerated)
    audited(model(tied=True, positions=False), texts(12), batch_size=2, attacks=["dager"])
    assert asked["tokens"] == [VOCABULARY]
    for size, most in ((2, 2 * (2 * 2 + CANDIDATES + 1)), (1, 2 + CANDIDATES)):
        asked["residuals"].clear()
        report = audited(model(positions=False), texts(12), batch_size=size, attacks=["dager"])
        assert next(a.results[0].certified for a in report.attacks if a.results)
        assert 0 < len(asked["residuals"]) <= most


@pytest.mark.slow
def test_a_frozen_table_leaves_the_span() -> None:
    torch.manual_seed(0)
    target = leakaudit.load(CausalLM(positions=False), image_shape=(1, 1, LENGTH), frozen=["embed.weight"])
    by_name = {a.name: a for a in audited(target, texts(12)).attacks}
    assert "is not trained" in by_name["embedding"].reason
    assert by_name["dager"].results[0].samples[0].leaked


@pytest.mark.slow
def test_a_large_vocabulary_is_tried_in_chunks() -> None:
    large = 5000
    torch.manual_seed(0)
    target = leakaudit.load(CausalLM(large, positions=False), image_shape=(1, 1, LENGTH), frozen=["embed.weight"])
    report = audited(target, texts(12, large), attacks=["dager"])
    tokens = report.attacks[[a.name for a in report.attacks].index("dager")].results[0].samples[0].tokens
    assert tokens is not None
    assert tokens.accuracy == 1


def test_labels_may_be_left_out_or_be_the_texts() -> None:
    from leakaudit.client.readers.labels import following

    ids = texts(3).numpy()
    own = NextToken(VOCABULARY, (LENGTH,), True).of_inputs(torch.from_numpy(ids))
    shifted = np.roll(ids, -1, 1)
    assert torch.equal(following(own, ids, np.zeros(0, np.int64), "b"), own)
    assert torch.equal(following(own, ids, ids, "b"), own)
    assert torch.equal(following(own, ids, shifted, "b"), torch.from_numpy(shifted))
    masked = ids.copy()
    masked[:, :4] = -100
    found = following(own, ids, masked, "b")
    assert (found[:, :3] == -100).all()
    assert torch.equal(found[:, 3:], own[:, 3:])
    with pytest.raises(BatchError, match="are not the texts"):
        following(own, ids, (ids + 1) % VOCABULARY, "b")


def test_a_class_for_each_token_is_segmentation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.Linear(16, 5))
    with pytest.raises(ModelError, match="hidden states, or a class for each token") as caught:
        leakaudit.load(net, image_shape=(1, 1, LENGTH))
    assert "--task segmentation" in caught.value.hint
    target = leakaudit.load(net, image_shape=(1, 1, LENGTH), task="segmentation")
    assert (target.task.kind, target.task.classes) == ("segmentation", 5)
    labels = texts(12, 5, seed=1).numpy()
    report = audited(target, texts(12), labels)
    assert report.attacks[[a.name for a in report.attacks].index("embedding")].results[0].samples[0].leaked
