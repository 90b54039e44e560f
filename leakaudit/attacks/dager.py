"""Token readings: which tokens a text model saw, and in which order (DAGER, Petrov et al. 2024, arXiv 2405.15586).

Three facts, each exact:

* Rows of ``∂ℓ/∂E`` (embedding table) that are not zero are the tokens of the batch, unless the table is tied to the
  output.
* With learned positions P and one sample, ``∂ℓ/∂E_v = Σ_{t: token v} ∂ℓ/∂P_t`` gives the whole sequence, see
  `leakaudit.attacks.reading.token_places`.
* Without either, the span test: with the inputs ``h`` of the first linear layer behind the embedding,

  .. math:: ∂ℓ/∂W = \\sum_{i,t} δ_{it} h_{it}^T,

  so the rows of the gradient span the inputs that occurred, as long as there are fewer of them than dimensions. The
  input that token v makes at place t is computed by the model itself; it occurred if it lies in the span.

A token model takes token ids, or real-valued arrays that it casts to the indices of an embedding table. Fails for
more tokens than dimensions, and for vocabularies beyond ``MAX_VOCABULARY`` in the span test. Of a batch the token set
is read, and of causal language models the texts themselves, through the layers behind the attention
(`leakaudit.attacks.reading.several_texts`); where labels do not follow from the texts it stays at the set.

Over local steps of SGD the first two facts stay, as sums over the steps. The third asks for inputs that do not move:
it is left where the table is trained, or anything else before the layer.

Through known noise the rows are told as in `leakaudit.attacks.embedding`, places by rows that agree up to the noise and
with no other, and the span by the singular values that are more than noise; a span that noise tilts by more than
`leakaudit.attacks.reading.spans.WIDEST` tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.embedding import SEEN_THROUGH, counted, seen_tokens, tied
from leakaudit.attacks.reading.confirm import Recovered, assemble, best_labels
from leakaudit.attacks.reading.first_layer import like, masks_unknown, token_table
from leakaudit.attacks.reading.last_token import with_last_tokens
from leakaudit.attacks.reading.noise import live_rows
from leakaudit.attacks.reading.several_texts import read_texts
from leakaudit.attacks.reading.spans import constant, distances, spans
from leakaudit.attacks.reading.token_places import position_scale, sequence_by_positions, sequence_through_noise
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, TokenReading
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

MAX_VOCABULARY = 300_000
"""Largest vocabulary that the span test goes through, in chunks; chosen: the largest in use have 262,144 ids."""


@dataclass(frozen=True, kw_only=True)
class DagerSettings:
    """Settings of the token readings.

    Args:
        span: Largest relative distance of an input from the span of the gradient; chosen, and no token was missed or
            read falsely with it (`benchmarks/results/tokens.md`, 10 batches a row).
    """

    span: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.span < 1:
            raise ValueError(f"span must be between 0 and 1, got {self.span}")


class Dager(Attack):
    """Reads tokens and their order from a text model's update."""

    name: ClassVar[str] = "dager"
    title: ClassVar[str] = "DAGER (token span test)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA207"
    needs: ClassVar[str] = (
        "a model whose input indexes a trained embedding table; a sequence needs batch 1 or causality"
    )
    reference: ClassVar[str] = "Petrov et al., DAGER: Exact Gradient Inversion for LLMs, NeurIPS 2024, arXiv 2405.15586"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 13
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = SEEN_THROUGH
    sum_of_gradients: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("images", "tokens")  # real-valued inputs may index a table too
    presets: ClassVar[dict[str, DagerSettings]] = {
        "quick": DagerSettings(),
        "standard": DagerSettings(),
        "paper": DagerSettings(),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs an embedding table that the input indexes."""
        if token_table(target) is None:
            return NotApplicable("the model has no token embedding: its input is real-valued")
        if observation.noise > 0 and observation.one_bit:
            return NotApplicable("signs of a noisy update have neither rows of zeros nor a rank")
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """The sequence by positions, else by the span; for batches the token set."""
        table = token_table(target)
        if table is None:
            raise ValueError("DAGER needs token embeddings: ask `applies` first")
        seen = _seen_tokens(target, observation, table, self.settings)
        tokens = seen.tokens
        everything = len(tokens) > observation.batch_size * prod(target.image_shape)
        known = tokens[:0] if everything else tokens
        found = _Sequence(None, None, False, seen.how)
        if observation.batch_size == 1 and len(tokens):
            found = _sequence(target, observation, table, tokens, self.settings)
            found = found if target.task.labelled else _with_last(target, observation, found)
        if everything and found.somewhere is not None:
            known = found.somewhere
        texts = _texts(target, observation, table, seen, self.settings)
        if len(texts):
            return _of_texts(target, observation, texts, known)
        if found.sequence is None or found.placed is None:
            result = assemble(target, observation, _recovered(target, None), f"{counted(known)}: {found.how}")
            return replace(result, tokens=_reading(target, observation, known, None))
        image = found.sequence.to(like(target)).view(1, *target.image_shape)
        labels, residual = _labelled(target, observation, image, found)
        exact = masks_unknown(target, observation) or residual <= tolerance_of(observation)
        certain = found.certain and exact
        result = assemble(target, observation, _recovered(target, image, labels, certain), found.how)
        return replace(result, tokens=_reading(target, observation, known, found.placed))


def _labelled(target: Target, observation: Observation, image: Tensor, found: _Sequence) -> tuple[Tensor, float]:
    """The labels (1, *label_shape) of a text and the residual, where it was not computed when the text was read."""
    labels = None if found.residual is None else target.task.of_inputs(image)
    if labels is None or found.residual is None:
        return best_labels(target, observation, image)
    return labels.cpu(), found.residual


def _with_last(target: Target, observation: Observation, found: _Sequence) -> _Sequence:
    """A text that was read up to its last place, with the token there, which is a label alone."""
    if found.sequence is None or found.placed is None or not bool(found.placed[:-1].all()) or bool(found.placed[-1]):
        return found
    texts, residual = with_last_tokens(target, observation, found.sequence[None])
    sure = residual <= tolerance_of(observation)
    placed = found.placed.clone()
    placed[-1] = sure
    how = f"{found.how}; the last token as a label"
    return replace(found, sequence=texts[0], placed=placed, certain=sure, how=how, residual=residual)


def _texts(target: Target, observation: Observation, table: str, seen: _Seen, settings: DagerSettings) -> Tensor:
    """The texts (n, L) of a batch whose labels follow from them; none elsewhere."""
    none = torch.empty((0, prod(target.image_shape)), dtype=torch.long)
    if observation.batch_size == 1 or not len(seen.tokens) or target.task.labelled:
        return none
    away: Tensor | str | None = seen.away
    if away is None:
        found = spans(target, observation, table, settings.span)
        away = found if isinstance(found, str) else distances(target, found, observation, seen.tokens)
    if isinstance(away, str):
        return none
    return read_texts(target, observation, table, away <= 1, seen.tokens, settings.span)


def _of_texts(target: Target, observation: Observation, texts: Tensor, known: Tensor) -> Reconstruction:
    """A reconstruction of texts (n, L), confirmed where all of them together regenerate the update."""
    size, residual = observation.batch_size, float("inf")
    whole = len(texts) == size
    if whole:
        texts, residual = with_last_tokens(target, observation, texts)
    inputs = texts[:size].to(like(target)).view(-1, *target.image_shape)
    labels = target.task.of_inputs(inputs)
    assert labels is not None
    sure = torch.full((len(inputs),), residual <= tolerance_of(observation))
    how = f"{len(texts)} texts whose every beginning lies in the span of a causal layer"
    result = assemble(target, observation, Recovered(inputs, labels.cpu(), sure), how)
    rows = torch.zeros((size, texts.shape[1]), dtype=torch.bool)
    rows[: len(inputs)] = whole
    confirmed = residual <= tolerance_of(observation)
    rows[:, -1] &= confirmed
    read = texts if confirmed else texts[:, :-1]  # the last column is a guess, or nothing at all
    return replace(result, tokens=TokenReading(torch.unique(torch.cat([known.cpu(), read.flatten()])), rows))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Tokens of the batch.

    Args:
        tokens: Ids (k,); the whole vocabulary where nothing tells.
        how: They were read.
        away: Their distances (k, places) from the spans, where it was these that told them.
    """

    tokens: Tensor
    how: str
    away: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Sequence:
    """What was read of one sample.

    Args:
        sequence: Tokens (T,).
        placed: The places (T,) at which no other fits.
        certain: Whether that is all.
        how: It was read.
        somewhere: Tokens (k,) that fit at some place, where all were tried.
        residual: Of the update that it regenerates, where that was looked at.
    """

    sequence: Tensor | None
    placed: Tensor | None
    certain: bool
    how: str
    somewhere: Tensor | None = None
    residual: float | None = None


def _reading(target: Target, observation: Observation, found: Tensor, placed: Tensor | None) -> TokenReading:
    rows = torch.zeros((observation.batch_size, prod(target.image_shape)), dtype=torch.bool)
    if placed is not None:
        rows[0] = placed
    return TokenReading(found.cpu(), rows)


def _recovered(target: Target, image: Tensor | None, labels: Tensor | None = None, certain: bool = False) -> Recovered:
    if image is None or labels is None:
        empty = torch.empty(0, dtype=torch.long)
        return Recovered(like(target).new_empty((0, *target.image_shape)), empty, empty.bool())
    return Recovered(image, labels, torch.tensor([certain]))


def _seen_tokens(target: Target, observation: Observation, table: str, settings: DagerSettings) -> _Seen:
    """Tokens of the batch by the table's non-zero rows, or by the span test of a small vocabulary.

    For one sample the span test is left to the search for the sequence, and the whole vocabulary comes back.
    """
    tensors = {**dict(target.module.named_buffers()), **dict(target.module.named_parameters())}
    vocabulary = len(tensors[table])
    none = torch.empty(0, dtype=torch.long)
    if table in observation.update and not tied(target, table):
        tokens, how = seen_tokens(observation, table)
        if len(tokens) < vocabulary:
            return _Seen(tokens, how)
    if vocabulary > MAX_VOCABULARY:
        return _Seen(none, f"{table} says nothing and {vocabulary} tokens are too many to try")
    tokens = torch.arange(vocabulary, device=like(target).device)
    if observation.batch_size == 1:
        return _Seen(tokens, "the whole vocabulary")
    found = spans(target, observation, table, settings.span)
    if isinstance(found, str):
        return _Seen(none, found)
    away = distances(target, found, observation, tokens)
    if isinstance(away, str):
        return _Seen(none, away)
    passed = (away <= 1).any(1)
    return _Seen(tokens[passed], f"span of {found.names}", away[passed])


def _sequence(
    target: Target, observation: Observation, table: str, tokens: Tensor, settings: DagerSettings
) -> _Sequence:
    places = prod(target.image_shape)
    own = table in observation.update and not tied(target, table)
    if own and len(tokens) <= places and not observation.one_bit:
        read = _by_positions(target, observation, table, tokens, settings)
        if read is not None:
            return read
    found = spans(target, observation, table, settings.span)
    if isinstance(found, str):
        return _Sequence(None, None, False, found)
    away = distances(target, found, observation, tokens)
    if isinstance(away, str):
        return _Sequence(None, None, False, away)
    passed = away <= 1
    somewhere, placed = tokens[passed.any(1)].cpu(), passed.sum(0) == 1
    how = f"span of {found.names}: rank {found.rank}, {int(placed.sum())} of {places} places unique"
    if not len(somewhere):
        how = f"undecided: no token's input lies in the span of {found.names}, of rank {found.rank}"
    if not bool(placed.any()):
        return _Sequence(None, None, False, how, somewhere)
    return _Sequence(tokens[away.argmin(0)], placed.cpu(), bool(placed.all()), how, somewhere)


def _by_positions(
    target: Target, observation: Observation, table: str, tokens: Tensor, settings: DagerSettings
) -> _Sequence | None:
    """The sequence from a learned position table, if there is one whose rows fit."""
    update, places = observation.update, prod(target.image_shape)
    for name, gradient in update.items():
        rows = _moved_rows(gradient, observation.noise)
        silent = 0 if target.task.labelled or len(rows) == places else 1  # the last place of a language model
        if name == table or rows.shape != (places - silent, update[table].shape[1]):
            continue
        if observation.noise > 0 and silent:
            continue
        if observation.noise > 0:
            scale = _probed_scale(target, table, name)
            sequence, placed = sequence_through_noise(update[table], rows * scale, tokens, observation.noise)
            if bool(placed.any()):
                how = f"{table} and {name} up to the noise, {int(placed.sum())} of {places} places unique"
                return _Sequence(sequence, placed.cpu(), False, how)
            continue
        rounding = max(observation.exchange.get(table, 0.0), observation.exchange.get(name, 0.0))
        sequence, misfit = sequence_by_positions(update[table], rows, tokens, rounding)
        if misfit <= settings.span:
            everywhere = torch.arange(places) < places - silent
            whole = torch.cat([sequence, sequence.new_zeros(silent)])
            return _Sequence(whole, everywhere, not silent, f"{table} and {name}, misfit {misfit:.1e}")
    return None


def _probed_scale(target: Target, table: str, positions: str) -> float:
    """What the model multiplies its embeddings by before it adds the positions: read off an update of our own."""
    inputs = constant(target, 0, first=1)
    labels = target.task.probes(1).repeat_interleave(len(inputs), 0).to(inputs.device)
    own = gradient_of(target, inputs, labels)
    flat = own[positions].reshape(-1, own[positions].shape[-1])
    return position_scale(own[table].double(), flat[flat.abs().sum(1) > 0].double())


def _moved_rows(gradient: Tensor, noise: float) -> Tensor:
    """The rows of a table's gradient that are not zero: of a position table, the places of the sequence in order."""
    rows = gradient.reshape(-1, gradient.shape[-1]) if gradient.dim() else gradient.reshape(1, 1)
    return rows[live_rows(rows, noise)]
