"""Evidence that needs no ground truth: the update regenerated from a reconstruction, and whether another one could fit.

Claim. With ``Φ(x) = ∇_θ ℓ(f_θ(x), y)`` and the observed update ``g*``,

.. math:: r = \\|Φ(\\hat x) - g^*\\| / \\|g^*\\|, \\qquad J = ∂Φ/∂x \\;\\text{at}\\; \\hat x

a residual at the level of floating-point rounding says that the reconstruction explains the update, and ``rank J = n``
says that no other reconstruction near it does. Far-away solutions (twins, another order of samples) are not excluded.

The rank is read without forming J (`leakaudit.risk.update_jacobian`): the dimension of the null space, estimated from
two random directions, is below ``NULL_TOLERANCE`` only if there is none (a one-dimensional null space passes with
probability below 1e-4). Directions whose singular value is so small that the iterations do not reach them leave it
undecided.

A sample that the reconstruction holds several times, with one label, varies as one: that its copies might differ by
opposite amounts is a matter of second order, and no other batch. Entries that the model never reads do not vary.

Token ids have no J. For them ``unique`` says that every exchange of two tokens, and every token of the sequence put in
another's place, regenerates the update worse: by ``SHARE_MARGIN`` times the residual and above ``ROUNDING``.

Where labels are numbers, the label of a sample varies with its output, so that the error stays as it is; labels of
several samples are unknowns that J does not hold, and uniqueness is then not decided.

Fails (``unique`` is ``None``) where J is too ill-conditioned for the allowed products, and says nothing about samples
whose own share of the update is smaller than the residual: ``weakest`` shows that share, and ``exact`` asks for more.
Reference: local identifiability by the Jacobian of the gradient map; the design notes call its deficit RA_J.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import cpu_generator, relative_residual
from leakaudit.attacks.reading.noise import exchanged_misfit
from leakaudit.domains.base import Domain
from leakaudit.errors import AuditError, first_line
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.risk.dependence import read_entries
from leakaudit.risk.update_jacobian import StoppedError, UpdateJacobian, missing_directions
from leakaudit.target.parts import squared, squared_difference
from leakaudit.target.size import is_small
from leakaudit.target.target import Target

RESIDUAL_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Relative residual of an update that is regenerated up to rounding, by the type that it was computed in; the margin
over one rounding (4 to 4e6 times the type's precision) is chosen, not measured."""
EXCHANGED = 2.0
"""Times the expected norm of their rounding that two exchanges of weights may differ by: √2 by independent rounding,
the rest is chosen."""
COARSEST = RESIDUAL_TOLERANCE[torch.float16]
"""Largest residual that any exchange of weights makes count as rounding; chosen, as for half precision."""
SHARE_MARGIN = 10.0
"""How many times the residual the least influential sample's share of the update must be; chosen, not measured."""
NULL_TOLERANCE = 1e-4
"""Largest estimated dimension of an empty null space; chosen: one of dimension 1 stays below it with probability 0.008
(χ² with one degree of freedom), for `PROBES` independent probes with 6e-5."""
ROUNDING = 1e-6
"""Relative residual that the order of sums alone can make in float32: 8 times its precision."""
NEIGHBOURS = 1500
"""Changed sequences that are tried at most; chosen: 32 different tokens have 1,488 (496 exchanges, 992 replacements).
"""
OUT_OF_TIME = "local uniqueness not computed: the time of the run was over"
PRODUCTS, PRODUCTS_IF_SMALL = 400, 800
"""Iterations allowed per probe, and where one takes a millisecond; chosen: of 14 networks 9 are certified, of which 3
need more than 400 (`benchmarks/results/certificates.md`)."""
PROBES = 2
"""Random vectors z of the rank test; chosen together with `NULL_TOLERANCE`."""


@dataclass(frozen=True)
class Certificate:
    """What a reconstruction proves by itself.

    Args:
        residual: ‖Φ(x̂) − g*‖ / ‖g*‖ over the whole update.
        residuals: The same per tensor, relative to that tensor; ``nan`` where the observed tensor is zero.
        tolerance: The residual that counts as rounding for the update's type.
        weakest: Share ‖∇ℓ_i‖ / (B ‖g*‖) of the sample that the update depends on least; ``nan`` if not computed.
        exact: Whether the residual is at float level and each sample's share is well above it.
        unknowns: Entries of the reconstruction, n; with the rank, those that vary: of distinct samples, and read.
        rank: Estimated numerical rank of J, or ``None`` if not computed or undecided.
        unique: Whether J has full column rank; ``None`` if not computed or undecided.
        note: Why something is missing, or "".
    """

    residual: float
    residuals: dict[str, float]
    tolerance: float
    weakest: float
    exact: bool
    unknowns: int
    rank: int | None = None
    unique: bool | None = None
    note: str = ""


def certify(
    target: Target,
    observation: Observation,
    play: Play,
    *,
    uniqueness: bool = True,
    products: int | None = None,
    generator: Generator | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Certificate:
    """Regenerate the update from a reconstruction and test whether it is locally unique.

    Args:
        target: The model, as the attacker evaluates it.
        observation: The update.
        play: The reconstruction: inputs (B, C, H, W) in normalised space, labels, and the masks where it has any.
        uniqueness: Whether to estimate the rank of J, by far the dearer half.
        products: Iterations allowed per probe, each one product with J and one with its transpose; by default as many
            as a network of its size has.
        generator: Of the random probes; seeded with 0 by default.
        over: Asked between two products or neighbours; once it says so, local uniqueness is left undecided.
    """
    update = observation.update
    regenerated = observation.regenerate(target, play)
    apart = {name: squared_difference(regenerated[name], gradient) for name, gradient in update.items()}
    del regenerated  # as large as the model
    whole = _norm(update)
    residual = math.sqrt(sum(apart.values())) / whole if whole > 0 else float("nan")
    tolerance = tolerance_of(observation)
    weakest = _weakest_share(target, observation, play) / whole if whole > 0 else float("nan")
    certificate = Certificate(
        residual=residual,
        residuals={name: _relative(apart[name], gradient) for name, gradient in update.items()},
        tolerance=tolerance,
        weakest=weakest,
        exact=residual <= tolerance and weakest >= SHARE_MARGIN * residual,
        unknowns=play.inputs.numel(),
    )
    if not uniqueness:
        return certificate
    if target.task.continuous and play.errors is None:
        if len(play.inputs) > 1:
            return replace(certificate, note="local uniqueness not computed: the labels of a batch are unknown too")
        play = replace(play, errors=_errors(target, play))
    if over():
        return replace(certificate, note=OUT_OF_TIME)
    try:
        if (changes := _neighbours(target.domain, play.inputs)) is not None:
            return _against_neighbours(certificate, target, observation, play, changes, over)
        allowed = products or (PRODUCTS_IF_SMALL if is_small(target) else PRODUCTS)
        return _with_rank(certificate, target, observation, play, allowed, generator or cpu_generator(0), over)
    except StoppedError:
        return replace(certificate, note=OUT_OF_TIME)


def _errors(target: Target, play: Play) -> Tensor:
    """The error at the outputs (B, outputs) of each sample's own loss: what an update fixes where labels are numbers.

    With it in place of the label, the label varies along with the outputs, as it may.
    """
    outputs = target.logits(play.inputs).detach().requires_grad_(True)
    (errors,) = torch.autograd.grad(target.task.loss(outputs, play.labels), [outputs])
    return len(outputs) * errors


def tolerance_of(observation: Observation, *names: str) -> float:
    """The relative residual up to which an update is regenerated to rounding.

    Args:
        observation: The update.
        names: Of tensors, where the residual is over these alone.
    """
    chosen = names or tuple(observation.update)
    own = max(RESIDUAL_TOLERANCE[observation.update[name].dtype] for name in chosen)
    return max(own, min(EXCHANGED * exchanged_misfit(observation, *chosen), COARSEST))


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(map(squared, tensors.values())))


def _relative(apart: float, gradient: Tensor) -> float:
    norm = squared(gradient)
    return math.sqrt(apart / norm) if norm > 0 else float("nan")


def _weakest_share(target: Target, observation: Observation, play: Play) -> float:
    """The smallest norm of one sample's term of the mean; not a number where samples cannot be told apart."""
    size = len(play.inputs)
    if size > 1 and target.batch_sizes is not None and 1 not in target.batch_sizes:
        repeats = min(target.batch_sizes)
    else:
        repeats = 1
    try:
        return min(_norm(observation.protocol.alone(target, play, i, repeats)) / size for i in range(size))
    except AuditError:
        return float("nan")


def _distinct(play: Play) -> tuple[Tensor, Tensor]:
    """Rows (u,) of a play that occur first, and which of these each row is (B,); all where masks may differ."""
    every = torch.arange(len(play.inputs), device=play.inputs.device)
    if play.masks or play.order is not None or play.labels.dim() > 1:
        return every, every
    rows = torch.cat([play.inputs.flatten(1).double(), play.labels[:, None].double()], 1)
    same = (rows[:, None] == rows[None]).all(2)
    first = same.int().argmax(1)
    kept = (first == every).nonzero().flatten()
    return kept, torch.searchsorted(kept, first)


def _neighbours(domain: Domain, inputs: Tensor) -> list[tuple[int, Tensor]] | None:
    """Every sample next to one of the inputs (B, *shape), with its row; ``None`` where the Jacobian decides."""
    found: list[tuple[int, Tensor]] = []
    for row, sample in enumerate(inputs):
        neighbours = domain.neighbours(sample)
        if neighbours is None:
            return None
        found += [(row, changed) for changed in neighbours]
    return found


def _against_neighbours(
    certificate: Certificate,
    target: Target,
    observation: Observation,
    play: Play,
    changes: Sequence[tuple[int, Tensor]],
    over: Callable[[], bool],
) -> Certificate:
    """Fill in uniqueness of discrete samples: does one next to these regenerate the update as well?"""
    inputs = play.inputs
    if len(changes) > NEIGHBOURS:
        return replace(certificate, note=f"local uniqueness not computed: {len(changes)} sequences next to it")
    limit = max(SHARE_MARGIN * certificate.residual, ROUNDING)
    for row, changed in changes:
        if over():
            raise StoppedError
        other = inputs.clone()
        other[row] = changed
        own = target.task.of_inputs(other)
        labels = play.labels if own is None else own
        if relative_residual(target, observation, replace(play, inputs=other, labels=labels)) <= limit:
            return replace(certificate, unique=False, note=target.domain.not_unique)
    return replace(certificate, unique=True)


def _with_rank(
    certificate: Certificate,
    target: Target,
    observation: Observation,
    play: Play,
    products: int,
    generator: Generator,
    over: Callable[[], bool],
) -> Certificate:
    """Fill in rank and uniqueness, in float64 (in the model's own type where the model refuses that)."""
    try:
        double = replace(target, module=copy.deepcopy(target.module).double())
        inputs = replace(play, inputs=play.inputs.double())
        jacobian = UpdateJacobian(double, observation, inputs, *_distinct(play), read_entries(target))
    except RuntimeError as error:
        return replace(certificate, note=f"local uniqueness not computed: {first_line(error)}")
    size = jacobian.unknowns
    certificate = replace(certificate, unknowns=size)
    missing, converged = missing_directions(
        jacobian, products, generator, probes=PROBES, tolerance=NULL_TOLERANCE, over=over
    )
    if max(missing) <= NULL_TOLERANCE:
        return replace(certificate, rank=size, unique=True)
    if not converged:
        reached = size - round(min(missing))
        return replace(certificate, note=f"local uniqueness undecided: rank at least about {reached} of {size}")
    return replace(certificate, rank=min(size - 1, size - round(sum(missing) / PROBES)), unique=False)
