"""R-GAP, recursive gradient attack on privacy (Zhu & Blaschko 2021, arXiv 2010.07733).

Claim. For one sample and a plain chain of convolutions and linear layers with invertible activations, the input
follows from the update by algebra: invert the loss at the last layer, or read a biased linear layer, then solve one
linear system per layer back to the image (`leakaudit.closed_form`). No optimisation, no prior, no label.

Where every layer has full rank the image is exact up to the rounding of the update. A deficient layer gives its
minimum-norm input; the attack says so, names the layer and does not call the result exact. Bias-free networks with
one logit have twins: two images, one a multiple of the other, with the same update. The valid pixel range and the
8-bit grid of stored images decide; the other candidate is kept.

Graphs with several paths are gone back through from their biased linear layers (`leakaudit.recursion.graph`).

Fails for batches, where a layer has no inverse, and under noise beyond about one per cent: of the noise level it makes
no use, so a noisy update that it reads is a leak, and one that it does not read shows nothing. Signs and pruned updates
have no equations left and are refused. Deviations from
the authors' code: any label, all roots, float64, matrix-free balanced solver, stride, padding, groups, dilation and
bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import REAL, Attack, relative_residual
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.reading.confirm import with_shares
from leakaudit.attacks.reading.repeated import as_one, one_repeated, repeated
from leakaudit.document.counting import count
from leakaudit.document.status import Cut, Lost
from leakaudit.domains.base import Domain
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.base import Play
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, Snapshot, cause_of
from leakaudit.recursion.graph import GraphPlan, make_graph_plan, recover_graph
from leakaudit.recursion.obstacles import Obstacle
from leakaudit.recursion.plan import Plan, record
from leakaudit.recursion.recursion import Recovery, read_start, recover
from leakaudit.recursion.solve import SolverSettings
from leakaudit.target.kinds import is_sequential
from leakaudit.target.target import Target
from leakaudit.target.trace import TraceError

OUTSIDE = 0.01
"""Pixels may leave 0..1 by this much before a candidate counts as ruled out; chosen, 2.6 grey levels."""
RANK_ONE = 1e-3
"""Largest misfit of a biased layer's update to one outer product; rounding to 16 bit stays below."""
OFF_GRID = 0.05
"""Mean distance to a multiple of 1/255, in these units, up to which an image counts as 8-bit; chosen (0.25 at random).
"""


@dataclass(frozen=True, kw_only=True)
class RGAPSettings(SolverSettings):
    """Effort of the solver, and what counts as exact.

    Args:
        exact: Largest relative residual of the regenerated update at which the result counts as exact; chosen, that of
            the certificate in float32.
    """

    exact: float = 1e-4


class _StoppedError(Exception):
    """The monitor asked to stop."""


class RGAP(Attack):
    """Recursive closed-form inversion of one sample's update."""

    name: ClassVar[str] = "rgap"
    title: ClassVar[str] = "R-GAP (recursive closed form)"
    threat_model: ClassVar[ThreatModel] = "B"
    positive_control: ClassVar[tuple[str, ...]] = ("leaky-cnn",)
    needs: ClassVar[str] = (
        "batch size 1; convolutions and linear layers with invertible activations; a chain, or a biased end"
    )
    reference: ClassVar[str] = (
        "Zhu & Blaschko, R-GAP: Recursive Gradient Attack on Privacy, ICLR 2021, arXiv 2010.07733"
    )
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 10
    reads: ClassVar[tuple[str, ...]] = REAL
    adapts: ClassVar[tuple[str, ...]] = ("share",)
    one_gradient: ClassVar[bool] = True
    over_steps: ClassVar[str] = (
        "between them the weights move, and with them the inputs of all layers but the first: no two layers' equations "
        "hold at once"
    )
    # The paper has no hyper-parameters; its dense solver corresponds to the largest dense limit. The rest is chosen.
    presets: ClassVar[dict[str, RGAPSettings]] = {
        "quick": RGAPSettings(iterations=4000, dense_limit=0),
        "standard": RGAPSettings(),
        "paper": RGAPSettings(iterations=100_000, dense_limit=4000),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs one sample, if several times, a way back to the image, and an update that the loss can have."""
        if observation.batch_size != 1 and one_repeated(target, observation):
            return self.applies(target, as_one(observation))
        if observation.batch_size != 1:
            return NotApplicable(
                f"batch size {observation.batch_size}: the equations do not separate samples, it needs batch size 1"
            )
        if observation.one_bit or observation.pruned:
            done = "signed" if observation.one_bit else "pruned"
            return NotApplicable(f"the update is {done}: its entries are no longer the layers' equations")
        if target.batch_sizes is not None and 1 not in target.batch_sizes:
            return NotApplicable("the model file does not take single samples: export it with a dynamic batch axis")
        try:
            plan = _plan(target, observation)
        except (Obstacle, TraceError) as obstacle:
            return NotApplicable(obstacle.message)
        if isinstance(plan, Plan) and not read_start(plan):
            return NotApplicable(_no_root(plan))
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Follow every reading of the last layer back to the image and choose among what is left.

        Raises:
            Obstacle: The target or the update does not allow it; `applies` says so beforehand.
        """
        if observation.batch_size != 1:
            return repeated(self.run(target, as_one(observation), generator, monitor), observation.batch_size)
        plan = _plan(target, observation)
        starts = read_start(plan) if isinstance(plan, Plan) else []
        if isinstance(plan, Plan) and not starts:
            raise Obstacle(_no_root(plan))
        reference = next(iter(target.parameters.values()))

        def poll(fraction: float, residual: float) -> None:
            monitor.update(fraction, residual)
            if monitor.should_stop():
                raise _StoppedError

        inferred = observation.labels
        if inferred is None:
            inferred = infer_labels(target, observation, generator).labels
        inferred = inferred[:1].to(reference.device)
        try:
            if isinstance(plan, Plan):
                found = recover(plan, starts, self.settings, poll)
            else:
                found = [recover_graph(plan, self.settings, poll)]
        except _StoppedError:
            empty = torch.zeros((1, *observation.domain.shape)).to(reference)
            return Reconstruction(empty, inferred, match=1.0, cuts=(Cut(Lost.RECURSION, cause_of(monitor)),))
        return self._assess(target, observation, plan, found, inferred)

    def _assess(
        self, target: Target, observation: Observation, plan: Plan | GraphPlan, found: list[Recovery], inferred: Tensor
    ) -> Reconstruction:
        """Choose a candidate, regenerate the update from it, and say what is known about it."""
        domain = observation.domain
        chosen, others, reasons, unique = choose(found, domain)
        reference = next(iter(target.parameters.values()))
        inputs = chosen.image.reshape(1, *domain.shape).to(reference)
        labels = inferred if chosen.label is None else inferred.new_tensor([chosen.label], dtype=torch.long)
        labels = with_shares(observation, labels)
        residual = relative_residual(target, observation, Play(domain.project(inputs), labels))
        sound = not chosen.deficient and chosen.jump is None and unique
        snapshots = tuple(
            Snapshot(1.0, domain.project(o.image.reshape(1, *domain.shape).to(reference))) for o in others
        )
        return Reconstruction(
            inputs=inputs,
            labels=labels,
            match=residual,
            snapshots=snapshots,
            iterations=sum(layer.iterations for layer in chosen.layers),
            exact=sound and residual <= max(self.settings.exact, tolerance_of(observation)),
            notes=(*plan.remarks, *reasons, *describe(chosen)),
        )


def _plan(target: Target, observation: Observation) -> Plan | GraphPlan:
    """The way back along a chain, or else through the graph from its biased linear layers.

    Raises:
        Obstacle: Neither reaches the image.
        TraceError: The model cannot be recorded.
    """
    planner = record(target, observation)
    try:
        return planner.plan()
    except Obstacle as chain:
        if is_sequential(planner.layers):
            raise
        try:
            return make_graph_plan(planner)
        except Obstacle as graph:
            raise Obstacle(f"{chain.message}; on the graph: {graph.message}", graph.hint or chain.hint) from graph


def _no_root(plan: Plan) -> str:
    return (
        f"no input of {plan.start.layer.name} explains its update under this loss: "
        "the update is noisy, clipped, or not one sample's gradient"
    )


def choose(found: list[Recovery], domain: Domain) -> tuple[Recovery, list[Recovery], tuple[str, ...], bool]:
    """The most plausible of several images that regenerate the update, the others, why, and whether they are ruled out.

    An image inside the valid range beats one outside; on the 8-bit grid one off it; then the larger one, since every
    shrunk twin is valid too.
    """
    if len(found) == 1:
        return found[0], [], (), True
    ranked = sorted(found, key=lambda item: _implausibility(item, domain))
    best, others = ranked[0], ranked[1:]
    rating = _implausibility(best, domain)
    unique = all(_implausibility(other, domain)[:2] > rating[:2] for other in others)
    verdict = (
        "ruled out by the valid pixel range or the 8-bit grid" if unique else "not ruled out: the choice is a guess"
    )
    factors = ", ".join(
        f"{float(other.image.norm() / best.image.norm()):.4g} times as large"
        + (f" (label {other.label})" if other.label != best.label else "")
        for other in others
    )
    note = f"Every layer's equations hold for {count(len(others), 'other image')} too (twins), {factors}; {verdict}."
    return best, others, (note,), unique


def _implausibility(item: Recovery, domain: Domain) -> tuple[float, bool, float]:
    """How far pixels leave 0..1 (rounded to what matters), whether off the 8-bit grid, and the negative size."""
    inputs = item.image.reshape(domain.shape)
    low, high = domain.box(inputs)
    pixels = (inputs - low) / (high - low)
    outside = float((pixels - pixels.clamp(0, 1)).abs().max())
    levels = pixels * 255
    off_grid = float((levels - levels.round()).abs().mean())
    return (outside if outside > OUTSIDE else 0.0), off_grid > OFF_GRID, -float(inputs.norm())


def describe(recovery: Recovery) -> tuple[str, ...]:
    """Residuals layer by layer, deficient layers, and where recovery stops."""
    listed = ", ".join(f"layer {layer.name} {layer.residual:.0e} ({layer.method})" for layer in recovery.layers)
    notes = [f"Relative residual by layer, from the loss to the input: {listed}."]
    first = recovery.layers[0]
    if first.method == "bias" and first.residual > RANK_ONE:
        notes.append(
            f"The update of {first.name} is not of rank one (misfit {first.residual:.0e}): it is not one sample's "
            "plain gradient, but holds noise, weight decay, momentum, several steps or several samples."
        )
    for layer in recovery.deficient:
        notes.append(
            f"Layer {layer.name} is deficient: its equations leave {layer.deficit} of {layer.unknowns} directions of "
            "its input open; the minimum-norm input was taken, so the image is not exact."
        )
    if recovery.jump is not None:
        before, after = recovery.jump
        notes.append(
            f"Recovery stops at layer {before.name}: the residual jumps from {before.residual:.0e} to "
            f"{after.residual:.0e} at {after.name}, so what was recovered behind it is not what the client computed."
        )
    return tuple(notes)
