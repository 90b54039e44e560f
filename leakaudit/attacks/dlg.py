"""DLG, "Deep Leakage from Gradients" (Zhu et al. 2019, arXiv 1906.08935).

.. math:: \\min_{x, y} \\; \\|\\nabla_\\theta \\ell(f_\\theta(x), \\mathrm{softmax}(y)) - g^*\\|^2 \\,/\\, \\|g^*\\|^2

by L-BFGS over inputs and soft labels together, from N(0, 1), without priors. Threat model B; uses no inferred label.

Fails with ReLU (the second derivative is constant in pieces) and often for batches. Deviations from the authors' code:
the division by ‖g*‖², a strong Wolfe line search, a history of 50 pairs, and the scale of `leakaudit.matching.descent`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator

from leakaudit.attacks.base import JOINT, Attack
from leakaudit.attacks.ig import MATCHING, refuse_batch_size
from leakaudit.matching.engine import MatchSettings, minimize
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

DESCENT = MatchSettings(iterations=6000, tv_weight=0.0, distance="euclidean", optimizer="lbfgs", tolerance=1e-9)
"""What the presets of DLG and iDLG share: no prior (arXiv 1906.08935), the authors' 300 steps of at most 20 inner
iterations as 6,000 evaluations, and a tolerance chosen as that of `IG`."""


class DLG(Attack):
    """L2 gradient matching by L-BFGS with joint soft labels."""

    by_default: ClassVar[bool] = False  # IG standard tries the same objective and optimiser, and TV besides
    name: ClassVar[str] = "dlg"
    title: ClassVar[str] = "DLG (Deep Leakage from Gradients)"
    unaided: ClassVar[bool] = True
    threat_model: ClassVar[ThreatModel] = "B"
    needs: ClassVar[str] = "a model with smooth activations; optimises the labels too"
    reference: ClassVar[str] = "Zhu et al., Deep Leakage from Gradients, NeurIPS 2019, arXiv 1906.08935"
    cost: ClassVar[int] = 52
    reads: ClassVar[tuple[str, ...]] = JOINT
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # paper: the authors' 300 L-BFGS steps of at most 20 inner iterations. quick, standard: benchmarks/anchors.py.
    presets: ClassVar[dict[str, MatchSettings]] = {
        "quick": replace(DESCENT, iterations=1000),
        "standard": replace(DESCENT, iterations=4000, restarts=2),
        "paper": replace(DESCENT, tolerance=0.0),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a batch size that the model takes, and a loss that takes what labels are made of."""
        if not target.task.takes_shares:
            return NotApplicable("the loss of your own takes class indices only: labels cannot vary beside the inputs")
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Optimise inputs and what labels are made of together."""
        parameter = next(iter(target.parameters.values()))
        width = target.task.free_shape
        free = torch.randn((observation.batch_size, *width), generator=generator).to(parameter)
        placeholder = torch.zeros(observation.batch_size, dtype=torch.long, device=parameter.device)
        unlabelled = replace(observation, labels=placeholder)
        return minimize(target, unlabelled, self.settings, generator, monitor, extra={"labels": free})
