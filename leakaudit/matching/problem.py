"""The objective of one observation as a function of whatever is unknown.

.. math:: J(v) = D(\\nabla_\\theta \\ell(f_\\theta(x; m), y),\\, g^*) + \\alpha\\,R(x) + \\text{priors}(v)

R is the roughness of the domain, of images their total variation. The unknowns v are the inputs, and where wanted the
labels (as what the task makes labels of) and the dropout masks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.matching.objective import CosineDistance, GradientDistance, distance_once, make_distance
from leakaudit.matching.priors import Prior, Variables
from leakaudit.matching.settings import MatchSettings
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.dropout import by_step
from leakaudit.target.target import Target

P = TypeVar("P", bound="GradientMatching")
MASK = "mask:"
"""Before ``step/layer`` in the name of an unknown mask; masks that are known are kept by ``step/layer``."""
CLIENT = "client:"
"""Before the name of an unknown that the protocol asks for, see :class:`leakaudit.protocols.base.Play`."""


@dataclass(frozen=True, eq=False)
class Case:
    """What one victim differs by from another of the same audit.

    Args:
        observed: Shared gradients, one tensor per parameter.
        labels: Class indices (B,).
        masks: Dropout masks that are known, by ``step/layer``.
    """

    observed: tuple[Tensor, ...]
    labels: Tensor
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, so that cases can be stacked."""
        return (*self.observed, self.labels, *self.masks.values())

    def like(self, tensors: Sequence[Tensor]) -> Case:
        """Another case of the same layers; the inverse of :meth:`tensors`."""
        count = len(self.observed)
        masks = dict(zip(self.masks, tensors[count + 1 :], strict=True))
        return Case(tuple(tensors[:count]), tensors[count], masks)


class GradientMatching:
    """Distance to the update plus priors, differentiable with respect to every unknown.

    Args:
        target: The model as the attacker evaluates it.
        observation: The update and the declared knowledge.
        labels: Class indices (B,); the start where the labels are optimised too.
        settings: Distance, layer weights and the weights of roughness and L2.
        priors: Further terms, already weighted.
        masks: Dropout masks that are known, by ``step/layer``; the ones to be found are variables.
        possible: For masks to be found, of the same shape, by ``step/layer``: 0 where it is known to be 0, else 1.
        yardstick: The cosine distance to the same update, where there is one already: it is as large as the model.
    """

    def __init__(
        self,
        target: Target,
        observation: Observation,
        labels: Tensor,
        settings: MatchSettings,
        *,
        priors: Sequence[Prior] = (),
        masks: Mapping[str, Tensor] | None = None,
        possible: Mapping[str, Tensor] | None = None,
        yardstick: CosineDistance | None = None,
    ) -> None:
        self.target, self.observation, self.labels, self.settings = target, observation, labels, settings
        self.priors, self.masks, self.possible = tuple(priors), dict(masks or {}), dict(possible or {})
        self.part = 1
        self._derive(yardstick)

    def _derive(self, yardstick: CosineDistance | None) -> None:
        """What follows from the arguments."""
        update = self.observation.update
        self.domain = self.observation.domain
        self.parameters = {n: p for n, p in self.target.parameters.items() if n in update}
        self.case = Case(tuple(update[name] for name in self.parameters), self.labels, self.masks)
        self.yardstick = CosineDistance(self.case.observed) if yardstick is None else yardstick
        self.distance = self._distance(self.case)
        self.into_range = self._range(next(iter(self.parameters.values())))

    def _range(self, like: Tensor) -> Callable[[Tensor], object]:
        """Moves unknown inputs of this type and device into their valid range, in place."""
        return self.domain.projection(like)

    def in_float64(self: P, settings: MatchSettings) -> P:
        """The same with other settings, of a copy of the model in float64."""
        seen, other = self.observation, copy.copy(self)
        errors = None if seen.errors is None else seen.errors.double()
        update = {name: tensor.double() for name, tensor in seen.update.items()}
        other.settings, other.observation = settings, replace(seen, update=update, errors=errors)
        other.target = replace(self.target, module=copy.deepcopy(self.target.module).double())
        other.labels = self.labels.double() if self.labels.is_floating_point() else self.labels
        other.masks = {name: mask.double() for name, mask in self.masks.items()}
        other._derive(None)
        return other

    def under(
        self: P,
        settings: MatchSettings,
        masks: Mapping[str, Tensor] | None = None,
        priors: Sequence[Prior] | None = None,
    ) -> P:
        """The same problem with other settings, and other known masks and priors if given."""
        other = copy.copy(self)
        other.settings = settings
        other.masks = dict(self.masks if masks is None else masks)
        other.priors = tuple(self.priors if priors is None else priors)
        other._derive(self.yardstick)
        return other

    def coarser(self: P, part: int) -> P:
        """The same with images of this part of the resolution for unknowns, as its denominator."""
        other = copy.copy(self)
        other.part = part
        return other

    def coarse(self, variables: Variables) -> dict[str, Tensor]:
        """The unknowns with images (B, C, ⌈H/part⌉, ⌈W/part⌉) in place of (B, C, H, W)."""
        return self._resized(variables, [-(-side // self.part) for side in self.domain.sides])

    def fine(self, variables: Variables) -> dict[str, Tensor]:
        """The inverse of :meth:`coarse`, but for what is lost; differentiable."""
        return self._resized(variables, self.domain.sides)

    def _resized(self, variables: Variables, sides: Sequence[int]) -> dict[str, Tensor]:
        if self.part == 1:
            return dict(variables)
        inputs = F.interpolate(variables["inputs"], size=tuple(sides), mode="bilinear", align_corners=False)
        return {**variables, "inputs": inputs}

    def _distance(self, case: Case) -> GradientDistance:
        s = self.settings
        plain = s.distance == "cosine" and s.layer_weights == "equal" and not s.strongest_layers
        if case is self.case and plain and s.matched_share == 1:
            return self.yardstick
        return make_distance(case.observed, s.distance, s.layer_weights, s.strongest_layers, s.matched_share)

    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Objective and match at a guess (B, *shape), both differentiable scalars."""
        return self.objective({"inputs": inputs})

    def objective(
        self, variables: Variables, *, functional: bool = False, once: bool = False, case: Case | None = None
    ) -> tuple[Tensor, Tensor]:
        """Objective and match, both differentiable scalars.

        Args:
            variables: See :data:`leakaudit.matching.priors.Variables`.
            functional: Differentiate by ``torch.func``, which works under ``vmap``.
            once: Whether they will be differentiated once only, which saves memory where the model is large.
            case: Another victim's gradients, labels and masks in place of this one's.
        """
        variables = self.fine(variables)
        settings, inputs = self.settings, variables["inputs"]
        distance = self.distance if case is None else self._distance(case)
        gradients = self.gradients(variables, functional=functional, case=case)
        match = distance_once(distance, gradients) if once else distance(gradients)
        total = match
        if settings.tv_weight:
            total = total + settings.tv_weight * self.domain.roughness(inputs)
        if settings.l2_weight:
            total = total + settings.l2_weight * inputs.square().mean()
        for prior in self.priors:
            total = total + prior(self._limited(variables))
        return total, match

    def gradients(self, variables: Variables, *, functional: bool = False, case: Case | None = None) -> list[Tensor]:
        """The update that the guess would cause, one tensor per parameter, differentiable."""
        play = self.play(variables, case or self.case)
        shared = self.observation.regenerate(self.target, play, create_graph=not functional, functional=functional)
        return [shared[name] for name in self.parameters]

    def play(self, variables: Variables, case: Case | None = None) -> Play:
        """The guess of what the client did: the unknowns, and what is known of a victim."""
        case = case or self.case
        labels = self.target.task.relaxed(variables["labels"]) if "labels" in variables else case.labels
        errors = None if "labels" in variables else self.observation.errors
        limited = self._limited(variables)
        free = {name.removeprefix(MASK): value for name, value in limited.items() if name.startswith(MASK)}
        asked = {name.removeprefix(CLIENT): value for name, value in variables.items() if name.startswith(CLIENT)}
        masks = by_step({**case.masks, **free})
        return Play(variables["inputs"], labels, masks=masks, unknowns=asked, errors=errors)

    def cosine(self, variables: Variables) -> float:
        """Cosine distance of a guess, whatever the objective is: the yardstick that compares different objectives."""
        gradients = self.gradients(self.fine(variables))
        return float(distance_once(self.yardstick, [gradient.detach() for gradient in gradients]))

    def _limited(self, variables: Variables) -> Variables:
        """The unknowns with the masks' known zeros in place: nothing depends on what the variables hold there."""
        limits = {MASK + name: limit for name, limit in self.possible.items()}
        return {name: value * limits[name] if name in limits else value for name, value in variables.items()}

    def projected(self, variables: Variables) -> dict[str, Tensor]:
        """Copies of the unknowns, moved into their valid range."""
        inside = {name: value.clone() for name, value in variables.items()}
        self.project(tuple(inside), list(inside.values()))
        return inside

    @torch.no_grad()
    def project(self, names: Sequence[str], values: Sequence[Tensor]) -> None:
        """Move the unknowns into their valid range, in place: inputs into the domain, masks into 0..1."""
        for name, value in zip(names, values, strict=True):
            if name == "inputs":
                self.into_range(value)
            elif name.startswith(MASK):
                value.clamp_(0.0, 1.0)
