r"""The span test: which tokens' inputs lie in the row space of a layer's gradient (DAGER, arXiv 2405.15586).

Of a linear layer whose input at a place depends on the token there alone, the rows of ``∂ℓ/∂W = Σ δ h^T`` span the
inputs that occurred, as long as there are fewer of them than dimensions. Adapters (LoRA, ``y = (W + s B A) x``) have
two such layers. At the first step B is zero: ``∂ℓ/∂A`` is exactly zero, which shows nothing, and ``∂ℓ/∂B = s Σ δ (A
x)^T`` tests fewer tokens than its rank r. Later ``∂ℓ/∂A`` has its rows in the span of the inputs themselves: at most
r tokens.

Layers whose rank is largest hold every token, and are taken together; in a causal model the first place has no gradient
in the queries, so their rank is smaller and the values decide. A span of all dimensions lets every token pass:
nothing is read then. Nor is it where so many tokens are tried that some would pass by chance: an input at random is
nearer to a subspace of codimension c than ℓ with the probability of a beta distribution, :math:`d^2 \sim B(c/2, k/2)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from scipy.stats import beta
from torch import Tensor

from leakaudit.attacks.reading.first_layer import Use, like, watch
from leakaudit.attacks.reading.noise import rank_limit, spread
from leakaudit.attacks.reading.steps import ends
from leakaudit.observation import Observation
from leakaudit.target.target import Target

ROUNDING = 1e-6
"""Singular values below this share of the largest are rounding noise: 8 times the precision of float32."""
WIDEST = 0.1
"""Sine of the angle by which noise may tilt the span, chosen; inputs at random are at an angle near 1."""
NEAREST = 3e-6
"""Distance from the span, relative, that an input which occurred may have by rounding: 25 times float32's precision."""
BY_CHANCE = 0.01
"""Inputs that may be expected to pass the test by chance; chosen."""


def span_distance(gradient: Tensor, candidates: Tensor, noise: float = 0.0) -> Tensor:
    """Relative distance (N,) of candidate inputs (N, in) from the row space of a layer's gradient (out, in).

    An input of zeros (of a padding token) leaves no trace in a gradient, and is at distance 1.
    """
    _, singular, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    basis = right[_significant(singular, gradient, noise)]
    values = candidates.double()
    rest = values - (values @ basis.T) @ basis
    size = values.norm(dim=1)
    distance: Tensor = torch.where(size > 0, rest.norm(dim=1) / size.clamp_min(1e-300), 1.0)
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


TOGETHER = 4096
"""Places of all texts together that the model is run on at once; chosen for memory."""


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


def constant(target: Target, token: int, first: int | None = None) -> Tensor:
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


def find_readers(target: Target, table: str) -> list[Reader]:
    """The linear layers whose input at each place depends on the token there alone (normalisation is allowed)."""
    places = prod(target.image_shape)
    zero, mixed = constant(target, 0), constant(target, 0, first=1)
    before, after = watch(target, zero), watch(target, mixed)
    found = []
    for name, uses in before.items():
        if name == table or len(uses) != 1 or uses[0].operator not in ("addmm", "mm"):
            continue
        a, b = (_inputs(u, len(zero), places) for u in (uses[0], after[name][0]))
        if a is not None and b is not None and torch.equal(a[1:], b[1:]) and not torch.equal(a[0], b[0]):
            found.append(Reader(name, uses[0].transposed, a.shape[1]))
    return found


@dataclass(frozen=True, eq=False)
class Spans:
    """Layers that test tokens together.

    Args:
        readers: The layers, each of the same rank.
        rank: Of their gradients: independent inputs.
        reach: Largest distance of an input that occurred.
    """

    readers: tuple[Reader, ...]
    rank: int
    reach: float

    @property
    def names(self) -> str:
        """For notes."""
        return ", ".join(reader.weight for reader in self.readers)


def spans(target: Target, observation: Observation, table: str, tokens: int, span: float) -> Spans | str:
    """The layers whose gradients show which inputs occurred, or why none does.

    Args:
        target: The model.
        observation: The update.
        table: Name of the embedding table.
        tokens: How many are to be tried, at every place.
        span: Largest distance that a setting allows.
    """
    if observation.one_bit or observation.pruned:
        return "signs and pruned entries have no span in common with the inputs"
    shared = [reader for reader in find_readers(target, table) if reader.weight in observation.update]
    if not shared:
        return "no linear layer reads the tokens one by one"
    still = [reader for reader in shared if not _moves(target, observation, reader, table)]
    if not still:
        return f"the inputs of {shared[0].weight} moved with what stands before it, from step to step"
    ranks = {r: span_rank(r.gradient(observation.update), spread(observation, r.weight)) for r in still}
    most = max(ranks.values())
    if most == 0:
        return f"the gradient of {still[0].weight} is zero or covered by noise, which says nothing of the tokens"
    whole = [reader for reader in still if ranks[reader] == most]
    telling = tuple(reader for reader in whole if most < reader.width)
    if not telling:
        return f"undecided: the gradient of {whole[0].weight} spans all {most} dimensions, so every token would pass"
    return reaching(target, observation, Spans(telling, most, span), tokens)


def reaching(target: Target, observation: Observation, found: Spans, tokens: int) -> Spans | str:
    """With the distance at which an input counts: above rounding and noise, below what chance would bring."""
    tilts = [span_tilt(r.gradient(observation.update), spread(observation, r.weight)) for r in found.readers]
    # layers often read the same input, and then their spans are one: only one of them counts against chance
    least, missing = max(NEAREST, *tilts), max(r.width - found.rank for r in found.readers)
    if max(tilts) > WIDEST:
        return f"noise covers the span of {found.names}"
    tried = tokens * prod(target.image_shape)
    chance = float(beta.ppf(min(1.0, BY_CHANCE / tried), missing / 2, found.rank / 2)) ** 0.5
    if chance < least:
        return f"undecided: of {tokens} tokens some would pass the span of {found.names} by chance"
    return replace(found, reach=min(max(found.reach, *tilts), chance))


def _moves(target: Target, observation: Observation, reader: Reader, table: str) -> bool:
    """Whether a token's input to a layer is another one after the local steps: the table moved, or what follows it."""
    if observation.protocol.steps == 1:
        return False
    if table in observation.update:
        return True
    tokens = constant(target, 0, first=1)
    models = (target, target.at(ends(target, observation)[-1]))
    uses = [watch(model, tokens)[reader.weight][0] for model in models]
    return not torch.equal(uses[0].operand, uses[1].operand)


def distances(target: Target, found: Spans, observation: Observation, tokens: Tensor) -> Tensor:
    """Distance of every token at every place from the spans, the largest of all layers (tokens, places)."""
    places = prod(target.image_shape)
    placed = _rows_by_place(target, found, places)
    size = max(1, TOGETHER // places) if target.batch_sizes is None else 1
    rows = []
    for chunk in tokens.split(size):
        inputs = chunk.to(like(target)).view(-1, *(1 for _ in target.image_shape)).expand(-1, *target.image_shape)
        if target.batch_sizes is not None:
            inputs = inputs.expand(min(target.batch_sizes), *target.image_shape)
        seen = watch(target, inputs.contiguous())
        away = [_distance(r, seen, len(inputs), places, observation, r in placed) for r in found.readers]
        rows.append(torch.stack(away).amax(0)[: len(chunk)])
    return torch.cat(rows)


def _distance(
    reader: Reader,
    seen: Mapping[str, Sequence[Use]],
    size: int,
    places: int,
    observation: Observation,
    placed: bool,
) -> Tensor:
    """Of every place of every sample (size, places); `placed` says that the layer's rows stand place by place."""
    operand = seen[reader.weight][0].operand
    if operand.shape[:-1].numel() != size * places:
        raise ValueError(f"{reader.weight} does not read one row per token")
    rows = operand.reshape(size * places, operand.shape[-1])
    away = span_distance(reader.gradient(observation.update), rows, spread(observation, reader.weight))
    return away.view(places, size).T if placed else away.view(size, places)


def _rows_by_place(target: Target, found: Spans, places: int) -> set[Reader]:
    """The layers that read a batch place by place, as attention over (L, B, width) does, and not sample by sample."""
    if target.batch_sizes is not None or places == 1:
        return set()
    texts = torch.cat([constant(target, 0), constant(target, 1)])
    together, alone = watch(target, texts), watch(target, texts[:1])
    placed = set()
    for reader in found.readers:
        both, one = (use[reader.weight][0].operand for use in (together, alone))
        rows, first = both.reshape(-1, both.shape[-1]), one.reshape(places, -1)
        if not torch.allclose(rows[:places], first, rtol=1e-4, atol=1e-5):
            placed.add(reader)
    return placed
