"""The objective of one observation as a function of latents of a generator, and of the generator's weights.

The unknown ``inputs`` holds the latents (B, *latent), so that the engine descends as it does on inputs. Unknowns
``weight:name`` (B, …) are tensors of the generator, one set for each sample; beside them the latents stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from leakaudit.matching.descent import Solution
from leakaudit.matching.generator import OwnGenerator
from leakaudit.matching.priors import Variables
from leakaudit.matching.problem import Case, GradientMatching
from leakaudit.matching.settings import MatchSettings
from leakaudit.observation import Observation
from leakaudit.target.target import Target

WEIGHT = "weight:"
"""Before the name of a tensor of the generator in the name of an unknown."""


class Generated(GradientMatching):
    """Gradient matching through a generator.

    Args:
        target: As of :class:`GradientMatching`, like `observation`, `labels` and `settings`.
        observation: See there.
        labels: See there.
        settings: See there.
        own: The generator.
        latent_weight: Weight of the mean squared latent.
    """

    def __init__(
        self,
        target: Target,
        observation: Observation,
        labels: Tensor,
        settings: MatchSettings,
        own: OwnGenerator,
        latent_weight: float = 0.0,
    ) -> None:
        super().__init__(target, observation, labels, settings)
        self.own, self.latent_weight = own, latent_weight

    def _range(self, like: Tensor) -> Callable[[Tensor], object]:
        """Leaves latents as they are: every one makes a sample in range."""
        return lambda latents: latents

    def objective(
        self, variables: Variables, *, functional: bool = False, once: bool = False, case: Case | None = None
    ) -> tuple[Tensor, Tensor]:
        """As of :class:`GradientMatching`, of what the generator makes, and the pull of the latents towards zero."""
        total, match = super().objective(self.made(variables), functional=functional, once=once, case=case)
        if self.latent_weight and not _weights(variables):
            total = total + self.latent_weight * variables["inputs"].square().mean()
        return total, match

    def cosine(self, variables: Variables) -> float:
        """Cosine distance of what the generator makes."""
        with torch.no_grad():
            made = self.made(variables)
        return super().cosine(made)

    def made(self, variables: Variables) -> dict[str, Tensor]:
        """The unknowns with model inputs (B, *shape) in place of latents and weights."""
        weights = _weights(variables)
        latents = variables["inputs"].detach() if weights else variables["inputs"]
        others = {name: value for name, value in variables.items() if not name.startswith(WEIGHT)}
        return {**others, "inputs": self.own.inputs(self.domain, latents, weights)}

    @torch.no_grad()
    def as_inputs(self, solution: Solution) -> Solution:
        """A solution whose unknowns and snapshots are model inputs."""
        shots = tuple((at, self.own.inputs(self.domain, latents)) for at, latents in solution.shots)
        return replace(solution, values=self.made(solution.values), shots=shots)


def _weights(variables: Variables) -> Mapping[str, Tensor]:
    return {name.removeprefix(WEIGHT): value for name, value in variables.items() if name.startswith(WEIGHT)}
