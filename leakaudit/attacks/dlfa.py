r"""DLFA, data leakage in federated averaging: the local steps replayed, with samples of their own in every epoch.

.. math:: \min_{x_1 … x_E} \; D(\Delta(x_1, …, x_E),\, \Delta^*)
   + \lambda_{inv} \frac{1}{E^2} \sum_{e,e'} \overline{(\bar{x}_e - \bar{x}_{e'})^2} + \lambda_{tv}\, TV

The client shuffles its N samples in every epoch, and the server does not know how. So the guess has N samples *per
epoch*, in an order of its own, and the epochs are tied by a prior that does not depend on the order: the mean of their
samples. At the end the samples of the epochs are matched with each other, and averaged.

An iteration costs the gradients of all K steps, and memory grows with K times the weights and activations.

Where every step visits all samples the order means nothing, and IG replays the steps as they are. Reference: Dimitrov
et al. 2022, arXiv 2206.12395. Deviations from the authors' code: the engine's search chooses optimiser and total
variation; labels are in the order in which they were inferred, in every epoch; and every epoch begins where SME ended,
at the cost of one to five gradients an iteration instead of K. Where the averaged samples explain the replayed steps no
better than SME's do, under the rank of `leakaudit.matching.runners`, those of SME stay.

Fails for many steps, and where samples of one class in one client are alike, which the mean cannot tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import scipy
import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import JOINT, Attack
from leakaudit.attacks.ig import MATCHING, IGSettings, match, refuse_batch_size
from leakaudit.attacks.sme import SME, SMESettings
from leakaudit.matching.priors import Variables
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.runners import rank
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.surrogates import PerEpoch
from leakaudit.reconstruction import Monitor, NotApplicable, Part, Reconstruction
from leakaudit.target.target import Target

BEGIN = 0.2
"""Share of the time for SME before it; chosen: as many iterations at one to five gradients where a replay has
ten or more."""


@dataclass(frozen=True, kw_only=True)
class DLFASettings(IGSettings):
    """Settings of DLFA.

    Args:
        invariance: λ_inv, weight of the distance of the epochs' mean samples; chosen, not measured.
        warm: Begin where SME ends after as many iterations, and keep that where the replay gains nothing.
    """

    invariance: float = 0.1
    warm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("invariance")


@dataclass(frozen=True)
class SameMean:
    """Pull of the epochs' mean samples towards each other.

    Args:
        epochs: E.
        weight: λ_inv.
    """

    epochs: int
    weight: float

    def __call__(self, variables: Variables) -> Tensor:
        """Mean over pairs of epochs of the mean squared difference, weighted."""
        means = _by_epoch(variables["inputs"], self.epochs).mean(1).flatten(1)
        # (1/E²) ΣΣ mean (a − b)² is twice the variance over the epochs
        spread: Tensor = means.var(0, correction=0).mean()
        return 2 * self.weight * spread


class DLFA(Attack):
    """Gradient matching through all local steps, the samples of each epoch by themselves."""

    name: ClassVar[str] = "dlfa"
    title: ClassVar[str] = "DLFA (local steps replayed, epoch by epoch)"
    threat_model: ClassVar[ThreatModel] = "B"
    needs: ClassVar[str] = "an update of several epochs, and the settings of the local training"
    reference: ClassVar[str] = "Dimitrov et al., Data Leakage in Federated Averaging, TMLR 2022, arXiv 2206.12395"
    cost: ClassVar[int] = 75
    preparation: ClassVar[float] = BEGIN
    reads: ClassVar[tuple[str, ...]] = JOINT
    control_samples: ClassVar[int] = 2
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # chosen, not measured: fewer steps than IG's, as each costs the gradients of all local steps.
    presets: ClassVar[dict[str, DLFASettings]] = {
        "quick": DLFASettings(iterations=400, signed=False, tv_weight=1e-2),
        "standard": DLFASettings(iterations=2000, tolerance=1e-9, search=True),
        "paper": DLFASettings(iterations=1000, signed=False, tv_weight=1e-3, warm=False),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs several epochs whose order is not known."""
        protocol = observation.protocol
        if not isinstance(protocol, FedAvg) and protocol.passes > 1:
            return NotApplicable("the steps are of several clients, and it ties the epochs of one")
        if not isinstance(protocol, FedAvg) or protocol.local_epochs == 1:
            return NotApplicable("the client visits its samples once: there are no epochs to tie")
        if len(set(protocol.step_sizes)) == 1 and protocol.step_sizes[0] == protocol.batch_size:
            return NotApplicable("every step visits all samples, so their order means nothing: IG replays the steps")
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Begin where SME ends, optimise, match the epochs, average."""
        settings: DLFASettings = self.settings
        protocol = observation.protocol
        if not isinstance(protocol, FedAvg) or observation.labels is None:
            raise ValueError("DLFA needs local epochs and labels: see applies()")
        begun = self._begun(target, observation, generator, monitor) if settings.warm else None
        start = observation.start if begun is None else begun.inputs
        epochs = protocol.local_epochs
        seen = replace(
            observation,
            protocol=PerEpoch.of(protocol),
            labels=observation.labels.repeat(epochs),
            start=None if start is None else _of_all(start, epochs),
        )
        prior = SameMean(epochs, settings.invariance)
        found = match(target, seen, settings, generator, Part(monitor, 0.0 if begun is None else BEGIN), priors=[prior])
        places = aligned(_by_epoch(found.inputs, epochs), observation.labels)

        def averaged(inputs: Tensor) -> Tensor:
            own = _by_epoch(inputs, epochs)
            return torch.stack([part[at] for part, at in zip(own, places, strict=True)]).mean(0)

        shots = tuple(replace(shot, inputs=averaged(shot.inputs)) for shot in found.snapshots)
        notes = (*found.notes, f"samples of {epochs} epochs matched and averaged")
        inputs = averaged(found.inputs)
        if begun is not None:
            found = replace(found, cuts=(*begun.cuts, *found.cuts), iterations=begun.iterations + found.iterations)
            notes = (f"begun where SME ended after {begun.iterations} iterations", *notes)
            if _rank(target, seen, settings, begun.inputs) <= _rank(target, seen, settings, inputs):
                inputs, notes = begun.inputs, (*notes, "the replay explains SME's samples as well: they stay")
        return replace(found, inputs=inputs, labels=observation.labels, snapshots=shots, masks=None, notes=notes)

    def _begun(
        self, target: Target, observation: Observation, generator: Generator, monitor: Monitor
    ) -> Reconstruction:
        """What SME makes of it with the same settings, in its share of the time."""
        own = {each.name: getattr(self.settings, each.name) for each in fields(IGSettings)}
        return SME(SMESettings(**own)).run(target, observation, generator, Part(monitor, 0.0, BEGIN))


def _of_all(samples: Tensor, epochs: int) -> Tensor:
    """The same samples (N, *shape) in every epoch (E·N, *shape)."""
    return samples.repeat(epochs, *(1,) * (samples.dim() - 1))


def _rank(target: Target, seen: Observation, settings: DLFASettings, samples: Tensor) -> float:
    """How well samples explain the replayed steps, the same in every epoch, with how smooth they are; the lower, the
    better."""
    assert seen.labels is not None
    problem = GradientMatching(target, seen, seen.labels, settings)
    inside = problem.projected({"inputs": _of_all(samples, len(seen.labels) // len(samples))})
    return rank(problem.cosine(inside), float(problem.domain.roughness(inside["inputs"])))


def _by_epoch(inputs: Tensor, epochs: int) -> Tensor:
    """Samples (E·N, *shape) as (E, N, *shape)."""
    return inputs.reshape(epochs, -1, *inputs.shape[1:])


def aligned(epochs: Tensor, labels: Tensor) -> list[Tensor]:
    """For each epoch, which of its samples stands for each sample of the first (N,): the nearest of the same label.

    Args:
        epochs: Samples of every epoch (E, N, *shape), the labels of each in the same order.
        labels: (N,).
    """
    first = epochs[0].flatten(1)
    other = (labels[:, None] != labels[None, :]).to(first) * 1e12
    places = []
    for samples in epochs:
        cost = torch.cdist(first, samples.flatten(1)).square() + other
        _, columns = scipy.optimize.linear_sum_assignment(cost.detach().double().cpu().numpy())
        places.append(torch.from_numpy(columns).to(labels.device))
    return places
