"""iDLG, "Improved Deep Leakage from Gradients" (Zhao et al. 2020, arXiv 2001.02610).

DLG with the label read off the sign of the last layer's gradient first, so that only the pixels are left to optimise.
Exact for one sample and cross-entropy; the label step is `leakaudit.attacks.labels.infer`, which all attacks share.
Threat model B. Fails as DLG does: ReLU, batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Generator

from leakaudit.attacks.base import JOINT, Attack
from leakaudit.attacks.dlg import DESCENT
from leakaudit.attacks.ig import MATCHING, refuse_batch_size
from leakaudit.matching.engine import MatchSettings, minimize
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS


class IDLG(Attack):
    """L2 gradient matching by L-BFGS with the inferred label."""

    by_default: ClassVar[bool] = False  # IG standard tries the same objective and optimiser, and TV besides
    name: ClassVar[str] = "idlg"
    title: ClassVar[str] = "iDLG (Improved Deep Leakage from Gradients)"
    threat_model: ClassVar[ThreatModel] = "B"
    needs: ClassVar[str] = "batch size 1 and a model with smooth activations"
    reference: ClassVar[str] = "Zhao et al., iDLG: Improved Deep Leakage from Gradients, 2020, arXiv 2001.02610"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 51
    reads: ClassVar[tuple[str, ...]] = JOINT
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # paper: the authors' 300 L-BFGS steps of at most 20 inner iterations. quick, standard: benchmarks/anchors.py.
    presets: ClassVar[dict[str, MatchSettings]] = {
        "quick": replace(DESCENT, iterations=1000),
        "standard": replace(DESCENT, iterations=4000),
        "paper": replace(DESCENT, tolerance=0.0),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a single sample, since the label rule is for one."""
        if observation.batch_size != 1:
            size = observation.batch_size
            return NotApplicable(f"its label rule is for a single sample, the batch size is {size}: see ig and dlg")
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Optimise the inputs."""
        return minimize(target, observation, self.settings, generator, monitor)
