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
Layers whose conditions on an input are independent (two adapters that project it in two ways) pass it by chance with
the product of their probabilities; of layers that read the same input only the most telling one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import scipy
import torch
from torch import Tensor

from leakaudit.attacks.reading.first_layer import Use, like, watch
from leakaudit.attacks.reading.noise import rank_limit, spread
from leakaudit.attacks.reading.steps import ends
from leakaudit.observation import Observation
from leakaudit.target.target import Target

ROUNDING = 2e-7
"""Singular values below this share of the largest are rounding noise: 1.7 times the precision of float32. Of tiny BERT
and Llama models that noise was 3e-8 at most, and the smallest value of a token 4.6e-7. Noise that is taken for a token
only makes the test undecided sooner."""
RESOLUTION = 3e-8
"""Noise of rounding, as a share of the largest singular value, by which a span may be tilted: twice what was measured
on the same models."""
WIDEST = 0.1
"""Sine of the angle by which noise may tilt the span, chosen; inputs at random are at an angle near 1."""
NEAREST = 1.2e-6
"""Distance from the span, relative, that an input which occurred may have by rounding: 10 times float32's precision."""
BY_CHANCE = 0.003
"""Inputs that may be expected to pass the test by chance; chosen."""
FEW = 4
"""Dimensions outside a span up to which two layers are asked whether their conditions are independent; chosen: one of
more decides alone."""
INDEPENDENT = 0.1
"""Smallest singular value, relative to the largest, of conditions that are independent; chosen."""
TOGETHER = 4096
"""Places of all texts together that the model is run on at once; chosen for memory."""


def span_rank(gradient: Tensor, noise: float = 0.0) -> int:
    """Numerical rank of a layer's gradient: the number of independent inputs that are more than noise."""
    return int(_significant(torch.linalg.svdvals(gradient.double()), gradient, noise).sum())


def span_tilt(gradient: Tensor, noise: float) -> float:
    """Bound on the sine of the angle by which noise tilts the span (Wedin): its largest singular value over ours."""
    singular = torch.linalg.svdvals(gradient.double())
    kept = singular[_significant(singular, gradient, noise)]
    if not len(kept):
        return 1.0
    return max(noise * rank_limit(*gradient.shape), RESOLUTION * float(singular[0])) / float(kept[-1])


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
        reaches: Distances from each span that an input which occurred may have.
    """

    readers: tuple[Reader, ...]
    rank: int
    reaches: tuple[float, ...]

    @property
    def names(self) -> str:
        """For notes."""
        return ", ".join(reader.weight for reader in self.readers)

    @property
    def missing(self) -> tuple[int, ...]:
        """Dimensions outside each span."""
        return tuple(reader.width - self.rank for reader in self.readers)

    def chance(self, share: float, *, independent: bool) -> float:
        """The probability that an input at random is within this share of every reach."""
        each = [
            float(scipy.special.betainc(missing / 2, self.rank / 2, min(1.0, share * reach) ** 2))
            for reach, missing in zip(self.reaches, self.missing, strict=True)
        ]
        return prod(each) if independent else min(each)


def spans(target: Target, observation: Observation, table: str, span: float) -> Spans | str:
    """The layers whose gradients show which inputs occurred, or why none does.

    Args:
        target: The model.
        observation: The update.
        table: Name of the embedding table.
        span: Distance up to which an input counts where chance allows it.
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
    tilts = {r: span_tilt(r.gradient(observation.update), spread(observation, r.weight)) for r in telling}
    sharp = tuple(reader for reader in telling if tilts[reader] <= WIDEST)
    if not sharp:
        return f"noise covers the span of {', '.join(reader.weight for reader in telling)}"
    return Spans(sharp, most, tuple(max(span, NEAREST, tilts[reader]) for reader in sharp))


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


def distances(target: Target, found: Spans, observation: Observation, tokens: Tensor) -> Tensor | str:
    """Distance of every token at every place from the spans (tokens, places); those up to 1 occurred.

    It is relative to the reach of each layer, which is as far as chance allows, and the largest of all layers.

    Returns:
        The distances, or why nothing can be told.
    """
    places = prod(target.image_shape)
    rests: list[list[Tensor]] = [[] for _ in found.readers]
    bases = [_outside(r, observation, found.rank) for r in found.readers]
    placed, few = read_by_place(target, found.readers), sum(found.missing) <= FEW
    for chunk in torch.split(tokens, max(1, TOGETHER // places) if target.batch_sizes is None else 1):
        inputs = filled(target, chunk)
        seen = watch(target, inputs)
        for rest, reader, basis in zip(rests, found.readers, bases, strict=True):
            away = _rest(reader, basis, seen, len(inputs), places, reader in placed)[: len(chunk)]
            rest.append(away if few else away.norm(dim=-1, keepdim=True))
    whole = [torch.cat(rest) for rest in rests]
    share = _share(found, whole, len(tokens) * places)
    if share * min(found.reaches) < NEAREST:
        return f"undecided: of {len(tokens)} tokens some would pass the span of {found.names} by chance"
    reached = [rest.norm(dim=-1) / (share * reach) for rest, reach in zip(whole, found.reaches, strict=True)]
    return torch.stack(reached).amax(0)


def _share(found: Spans, rests: Sequence[Tensor], tried: int) -> float:
    """The largest share of the reaches, up to 1, at which no more inputs are expected than chance may bring."""
    independent = sum(found.missing) <= FEW and _independent(rests)

    def beyond(share: float) -> float:
        return tried * found.chance(share, independent=independent) - BY_CHANCE

    return 1.0 if beyond(1.0) <= 0 else float(scipy.optimize.brentq(beyond, 0.0, 1.0, xtol=1e-9))


def _independent(rests: Sequence[Tensor]) -> bool:
    """Whether what is outside one span (tokens, places, missing) says nothing of what is outside another."""
    conditions = torch.cat([rest.flatten(0, 1) for rest in rests], 1)
    singular = torch.linalg.svdvals(conditions / conditions.norm(dim=0).clamp_min(1e-300))
    return bool(singular[-1] > INDEPENDENT * singular[0]) if len(conditions) >= conditions.shape[1] else False


def _outside(reader: Reader, observation: Observation, rank: int) -> Tensor:
    """An orthonormal basis (in, missing) of what is outside the span of a layer's gradient."""
    gradient = reader.gradient(observation.update).double()
    _, _, right = torch.linalg.svd(gradient, full_matrices=True)
    outside: Tensor = right[rank:].T
    return outside


def filled(target: Target, tokens: Tensor) -> Tensor:
    """Texts that hold one token each at every place (n, *shape), of ids (n,); repeated where the model asks for it."""
    inputs = tokens.to(like(target)).view(-1, *(1 for _ in target.image_shape)).expand(-1, *target.image_shape)
    size = len(tokens) if target.batch_sizes is None else min(target.batch_sizes)
    return inputs.expand(size, *target.image_shape).contiguous()


def _rest(
    reader: Reader, basis: Tensor, seen: Mapping[str, Sequence[Use]], size: int, places: int, placed: bool
) -> Tensor:
    """Coordinates of the inputs at every place outside the span (size, places, missing), relative to their length.

    `placed` says that the layer's rows stand place by place and not sample by sample.
    """
    operand = seen[reader.weight][0].operand
    if operand.shape[:-1].numel() != size * places:
        raise ValueError(f"{reader.weight} does not read one row per token")
    values = rows_of(operand, size, placed)
    return outside_share(values.flatten(0, 1), basis).view(size, places, -1)


def rows_of(operand: Tensor, size: int, placed: bool) -> Tensor:
    """What a layer reads of every sample at every place (size, places, in).

    Args:
        operand: Its input, (size, places, in) or the other way round, or flattened.
        size: Samples.
        placed: Whether its rows stand place by place, see :func:`read_by_place`.
    """
    if placed:
        return operand.reshape(-1, size, operand.shape[-1]).transpose(0, 1)
    return operand.reshape(size, -1, operand.shape[-1])


def outside_share(values: Tensor, basis: Tensor) -> Tensor:
    """Coordinates of inputs (N, in) in a basis (in, missing), relative to their length; 1 where that is zero."""
    values = values.double()
    length = values.norm(dim=1, keepdim=True)
    away: Tensor = torch.where(length > 0, values @ basis / length.clamp_min(1e-300), 1.0)
    return away


def read_by_place(target: Target, readers: Iterable[Reader]) -> set[Reader]:
    """Those of the layers that read a batch place by place and not sample by sample, as attention over (L, B, E)."""
    places = prod(target.image_shape)
    if target.batch_sizes is not None or places == 1:
        return set()
    texts = torch.cat([constant(target, 0), constant(target, 1)])
    together, alone = watch(target, texts), watch(target, texts[:1])
    placed = set()
    for reader in readers:
        both, one = (use[reader.weight][0].operand for use in (together, alone))
        rows, first = both.reshape(-1, both.shape[-1]), one.reshape(places, -1)
        if not torch.allclose(rows[:places], first, rtol=1e-4, atol=1e-5):
            placed.add(reader)
    return placed


def span_of(observation: Observation, reader: Reader, span: float, tried: int) -> tuple[Tensor, float] | None:
    """What is outside the span of one layer (in, missing), and how far an input may be from the span.

    Args:
        observation: The update.
        reader: The layer.
        span: Distance up to which an input counts where chance allows it.
        tried: How many inputs are to be tried.

    Returns:
        ``None`` where nothing is outside, noise covers it, or some would pass by chance.
    """
    gradient, noise = reader.gradient(observation.update), spread(observation, reader.weight)
    rank, tilt = span_rank(gradient, noise), span_tilt(gradient, noise)
    if not 0 < rank < reader.width or tilt > WIDEST:
        return None
    reach = max(span, NEAREST, tilt)
    chance = float(scipy.special.betaincinv((reader.width - rank) / 2, rank / 2, min(1.0, BY_CHANCE / tried))) ** 0.5
    return None if chance < NEAREST else (_outside(reader, observation, rank), min(reach, chance))
