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
batches as sequences (only the token set is read then), for more tokens than dimensions, and for vocabularies beyond
``MAX_VOCABULARY`` in the span test. Deviation: the published attack decodes sequences of batches greedily through the
second layer as well; not done here.

Over local steps of SGD the first two facts stay, as sums over the steps. The third asks for inputs that do not move:
it is left where the table is trained, or anything else before the layer.

Through known noise the rows are told as in `leakaudit.attacks.embedding`, places by rows that agree up to the noise and
with no other, and the span by the singular values that are more than noise; a span that noise tilts by more than
`WIDEST` tells nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.embedding import SEEN_THROUGH, counted, seen_tokens
from leakaudit.attacks.reading.confirm import Recovered, assemble, best_label
from leakaudit.attacks.reading.first_layer import Use, like, masks_unknown, token_table, watch
from leakaudit.attacks.reading.noise import live_rows, rank_limit, spread
from leakaudit.attacks.reading.steps import ends
from leakaudit.attacks.reading.token_places import position_scale, sequence_by_positions, sequence_through_noise
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, TokenReading
from leakaudit.target.target import Target

MAX_VOCABULARY = 4096
"""Largest vocabulary that the span test goes through, one run of the model per token; chosen, not measured."""
ROUNDING = 1e-5
"""Singular values below this share of the largest are rounding noise: 84 times the precision of float32."""
WIDEST = 0.1
"""Sine of the angle by which noise may tilt the span, chosen; inputs at random are at an angle near 1."""


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


def span_distance(gradient: Tensor, candidates: Tensor, noise: float = 0.0) -> Tensor:
    """Relative distance (N,) of candidate inputs (N, in) from the row space of a layer's gradient (out, in)."""
    _, singular, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    basis = right[_significant(singular, gradient, noise)]
    values = candidates.double()
    rest = values - (values @ basis.T) @ basis
    distance: Tensor = rest.norm(dim=1) / values.norm(dim=1).clamp_min(1e-300)
    return distance


def span_rank(gradient: Tensor, noise: float = 0.0) -> int:
    """Numerical rank of a layer's gradient: the number of independent inputs that are more than noise."""
    return int(_significant(torch.linalg.svdvals(gradient.double()), gradient, noise).sum())


def span_tilt(gradient: Tensor, noise: float) -> float:
    """Bound on the sine of the angle by which noise tilts the span (Wedin): its largest singular value over ours."""
    if noise == 0:
        return 0.0
    singular = torch.linalg.svdvals(gradient.double())
    kept = singular[_significant(singular, gradient, noise)]
    return noise * rank_limit(*gradient.shape) / float(kept[-1]) if len(kept) else 1.0


def _significant(singular: Tensor, gradient: Tensor, noise: float) -> Tensor:
    """Which singular values are more than rounding and noise of a standard deviation."""
    return singular > max(ROUNDING * float(singular[0]), noise * rank_limit(*gradient.shape))


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer behind the embedding whose input at a place depends on the token there alone.

    Args:
        weight: Its name.
        transposed: Whether it is stored as (in, out).
        width: Inputs.
    """

    weight: str
    transposed: bool
    width: int

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Its gradient as (out, in)."""
        gradient = update[self.weight]
        return gradient.T if self.transposed else gradient


def _constant(target: Target, token: int, first: int | None = None) -> Tensor:
    """A batch of the smallest size in which every place holds `token` (the first one `first`)."""
    size = min(target.batch_sizes) if target.batch_sizes else 1
    inputs = like(target).new_full((size, *target.image_shape), float(token))
    if first is not None:
        inputs.view(size, -1)[:, 0] = float(first)
    return inputs


def _inputs(use: Use, size: int, places: int) -> Tensor | None:
    """The operand of the first sample as (places, in), if it has a row per place."""
    operand = use.operand
    if operand.shape[:-1].numel() != size * places:
        return None
    return operand.reshape(size, places, operand.shape[-1])[0]


def find_reader(target: Target, table: str) -> Reader | None:
    """The first linear layer whose input at each place depends on the token there alone (normalisation is allowed)."""
    places = prod(target.image_shape)
    zero, mixed = _constant(target, 0), _constant(target, 0, first=1)
    before, after = watch(target, zero), watch(target, mixed)
    for name, uses in before.items():
        if name == table or len(uses) != 1 or uses[0].operator not in ("addmm", "mm"):
            continue
        a, b = (_inputs(u, len(zero), places) for u in (uses[0], after[name][0]))
        if a is not None and b is not None and torch.equal(a[1:], b[1:]) and not torch.equal(a[0], b[0]):
            return Reader(name, uses[0].transposed, a.shape[1])
    return None


def sequence_by_span(target: Target, reader: Reader, observation: Observation, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """For every place the token whose input is nearest to the span, and the distances (tokens, places)."""
    places = prod(target.image_shape)
    gradient, noise = reader.gradient(observation.update), spread(observation, reader.weight)
    distances = []
    for token in tokens.tolist():
        inputs = _constant(target, token)
        found = _inputs(watch(target, inputs)[reader.weight][0], len(inputs), places)
        if found is None:
            raise ValueError(f"{reader.weight} does not read one row per token")
        distances.append(span_distance(gradient, found, noise))
    table = torch.stack(distances)
    return tokens[table.argmin(0)], table


class Dager(Attack):
    """Reads tokens and their order from a text model's update."""

    name: ClassVar[str] = "dager"
    title: ClassVar[str] = "DAGER (token span test)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA207"
    needs: ClassVar[str] = "a model whose input indexes a trained embedding table; batch 1 for the sequence"
    reference: ClassVar[str] = "Petrov et al., DAGER: Exact Gradient Inversion for LLMs, NeurIPS 2024, arXiv 2405.15586"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 13
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
        tokens, how = _seen_tokens(target, observation, table, self.settings)
        everything = len(tokens) > observation.batch_size * prod(target.image_shape)
        known = tokens[:0] if everything else tokens
        found = _Sequence(None, None, False, how)
        if observation.batch_size == 1 and len(tokens):
            found = _sequence(target, observation, table, tokens, self.settings)
        if found.sequence is None or found.placed is None:
            result = assemble(target, observation, _recovered(target, None), f"{counted(known)}: {found.how}")
            return replace(result, tokens=_reading(target, observation, known, None))
        image = found.sequence.to(like(target)).view(1, *target.image_shape)
        label, residual = best_label(target, observation, image)
        exact = masks_unknown(target, observation) or residual <= tolerance_of(observation)
        certain = found.certain and exact
        result = assemble(target, observation, _recovered(target, image, label, certain), found.how)
        known = torch.unique(found.sequence.cpu()[found.placed]) if everything else known
        return replace(result, tokens=_reading(target, observation, known, found.placed))


@dataclass(frozen=True, eq=False)
class _Sequence:
    """The tokens (T,) of one sample, the places where no other fits, whether that is all, and how they were read."""

    sequence: Tensor | None
    placed: Tensor | None
    certain: bool
    how: str


def _reading(target: Target, observation: Observation, found: Tensor, placed: Tensor | None) -> TokenReading:
    rows = torch.zeros((observation.batch_size, prod(target.image_shape)), dtype=torch.bool)
    if placed is not None:
        rows[0] = placed
    return TokenReading(found.cpu(), rows)


def _recovered(target: Target, image: Tensor | None, label: int = 0, certain: bool = False) -> Recovered:
    if image is None:
        empty = torch.empty(0, dtype=torch.long)
        return Recovered(like(target).new_empty((0, *target.image_shape)), empty, empty.bool())
    return Recovered(image, torch.tensor([label]), torch.tensor([certain]))


def _seen_tokens(target: Target, observation: Observation, table: str, settings: DagerSettings) -> tuple[Tensor, str]:
    """Tokens of the batch by the table's non-zero rows, or by the span test of a small vocabulary.

    For one sample the span test is left to the search for the sequence, and the whole vocabulary comes back.
    """
    tensors = {**dict(target.module.named_buffers()), **dict(target.module.named_parameters())}
    vocabulary = len(tensors[table])
    none = torch.empty(0, dtype=torch.long)
    if table in observation.update:
        tokens, how = seen_tokens(observation, table)
        if len(tokens) < vocabulary:
            return tokens, how
    if vocabulary > MAX_VOCABULARY:
        return none, f"{table} says nothing and {vocabulary} tokens are too many to try"
    tokens = torch.arange(vocabulary, device=like(target).device)
    if observation.batch_size == 1:
        return tokens, "the whole vocabulary"
    reader = _span_reader(target, observation, table)
    if isinstance(reader, str):
        return none, reader
    _, distances = sequence_by_span(target, reader, observation, tokens)
    return tokens[(distances <= _reach(reader, observation, settings)).any(1)], f"span of {reader.weight}"


def _span_reader(target: Target, observation: Observation, table: str) -> Reader | str:
    """The layer whose gradient shows which inputs occurred, or why none does."""
    if observation.one_bit or observation.pruned:
        return "signs and pruned entries have no span in common with the inputs"
    reader = find_reader(target, table)
    if reader is None or reader.weight not in observation.update:
        return "no linear layer reads the tokens one by one"
    if observation.protocol.steps > 1 and _inputs_move(target, observation, reader, table):
        return f"the inputs of {reader.weight} moved with what stands before it, from step to step"
    gradient, noise = reader.gradient(observation.update), spread(observation, reader.weight)
    rank, tilt = span_rank(gradient, noise), span_tilt(gradient, noise)
    if rank >= reader.width:
        return f"the gradient of {reader.weight} spans all {reader.width} dimensions"
    if rank == 0 or tilt > WIDEST:
        return f"noise covers the span of {reader.weight}"
    return reader


def _inputs_move(target: Target, observation: Observation, reader: Reader, table: str) -> bool:
    """Whether a token's input to a layer is another one after the local steps: the table moved, or what follows it."""
    if table in observation.update:
        return True
    after = copy.deepcopy(target.module)
    changed = ends(target, observation)[-1]
    with torch.no_grad():
        for name, tensor in after.named_parameters():
            if name in changed:
                tensor.copy_(changed[name])
    tokens = _constant(target, 0, first=1)
    uses = [watch(model, tokens)[reader.weight][0] for model in (target, replace(target, module=after))]
    return not torch.equal(uses[0].operand, uses[1].operand)


def _reach(reader: Reader, observation: Observation, settings: DagerSettings) -> float:
    """Largest distance from the span of an input that occurred."""
    return max(settings.span, span_tilt(reader.gradient(observation.update), spread(observation, reader.weight)))


def _sequence(
    target: Target, observation: Observation, table: str, tokens: Tensor, settings: DagerSettings
) -> _Sequence:
    places = prod(target.image_shape)
    if table in observation.update and len(tokens) <= places and not observation.one_bit:
        read = _by_positions(target, observation, table, tokens, settings)
        if read is not None:
            return read
    reader = _span_reader(target, observation, table)
    if isinstance(reader, str):
        return _Sequence(None, None, False, reader)
    rank = span_rank(reader.gradient(observation.update), spread(observation, reader.weight))
    sequence, distances = sequence_by_span(target, reader, observation, tokens)
    placed = (distances <= _reach(reader, observation, settings)).sum(0) == 1
    how = f"span of {reader.weight}: rank {rank}, {int(placed.sum())} of {places} places unique"
    return _Sequence(sequence, placed.cpu(), bool(placed.all()), how)


def _by_positions(
    target: Target, observation: Observation, table: str, tokens: Tensor, settings: DagerSettings
) -> _Sequence | None:
    """The sequence from a learned position table, if there is one whose rows fit."""
    update, places = observation.update, prod(target.image_shape)
    for name, gradient in update.items():
        rows = _moved_rows(gradient, observation.noise)
        if name == table or rows.shape != (places, update[table].shape[1]):
            continue
        if observation.noise > 0:
            scale = _probed_scale(target, table, name, places)
            sequence, placed = sequence_through_noise(update[table], rows * scale, tokens, observation.noise)
            if bool(placed.any()):
                how = f"{table} and {name} up to the noise, {int(placed.sum())} of {places} places unique"
                return _Sequence(sequence, placed.cpu(), False, how)
            continue
        rounding = max(observation.exchange.get(table, 0.0), observation.exchange.get(name, 0.0))
        sequence, misfit = sequence_by_positions(update[table], rows, tokens, rounding)
        if misfit <= settings.span:
            everywhere = torch.ones(places, dtype=torch.bool)
            return _Sequence(sequence, everywhere, True, f"{table} and {name}, misfit {misfit:.1e}")
    return None


def _probed_scale(target: Target, table: str, positions: str, places: int) -> float:
    """What the model multiplies its embeddings by before it adds the positions: read off an update of our own."""
    inputs = _constant(target, 0, first=1)
    labels = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    own = gradient_of(target, inputs, labels)
    flat = own[positions].reshape(-1, own[positions].shape[-1])
    return position_scale(own[table].double(), flat[flat.abs().sum(1) > 0].double())


def _moved_rows(gradient: Tensor, noise: float) -> Tensor:
    """The rows of a table's gradient that are not zero: of a position table, the places of the sequence in order."""
    rows = gradient.reshape(-1, gradient.shape[-1]) if gradient.dim() else gradient.reshape(1, 1)
    return rows[live_rows(rows, noise)]
