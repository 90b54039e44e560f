"""GradInversion (Yin et al. 2021, arXiv 2104.07586): gradient matching with BatchNorm statistics and several restarts.

.. math:: \\min_{x^{(1..R)}} \\sum_r D_{\\cos}(g(x^{(r)}), g^*) + \\alpha_{tv} TV + \\alpha_2 \\|x\\|^2
   + \\alpha_{bn} \\sum_l c_l(\\|\\mu_l - \\mu^*_l\\| + \\|\\sigma^2_l - \\sigma^{2*}_l\\|)
   + \\alpha_g \\|x^{(r)} - \\bar x\\|^2

by Adam with a warm-up and a cosine schedule, and noise on the gradient. The statistics μ*, σ²* are those of the batch
where the client shares them (threat model E, ``--share-bn-statistics``), else the running ones that a trained model
holds (threat model B), which say what images of the training set have in common.

Fails where statistics of many samples say little about each; running ones say little about a single sample, whose own
may be far from them. Deviations: the mean of the restarts is taken pixel by pixel, without the registration of the
paper; the distance is the cosine, so the weights are our own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator

from leakaudit.attacks.base import REAL, Attack
from leakaudit.attacks.ig import MATCHING, refuse_batch_size
from leakaudit.document.counting import count
from leakaudit.matching.engine import MatchSettings, minimize
from leakaudit.matching.priors import BatchStatistics
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.batchnorm import is_trained, running_statistics
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS


@dataclass(frozen=True, kw_only=True)
class GradInversionSettings(MatchSettings):
    """Settings of GradInversion, beside the engine's.

    Args:
        statistics_weight: α_bn; chosen on the BatchNorm network of `benchmarks/gi_pip.py`, where it gains 4.0 to 5.5
            dB on four victims (`benchmarks/results/batchnorm.md`).
        first_layer_factor: c of the first BatchNorm layer, 1 for the others; as `breaching` configures Yin et al. 2021.
    """

    statistics_weight: float = 1e-2
    first_layer_factor: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("statistics_weight", "first_layer_factor")


BASE = GradInversionSettings(
    tv_weight=1e-2, l2_weight=1e-6, group_weight=1e-2, signed=False, schedule="cosine", warmup=50
)
"""What the presets share: warm-up, schedule and L2 as `breaching` configures Yin et al. 2021; the weights of total
variation and group chosen on the BatchNorm network of `benchmarks/gi_pip.py`, since the distance is another."""


class GradInversion(Attack):
    """Gradient matching with the client's BatchNorm statistics and group consistency."""

    name: ClassVar[str] = "gradinversion"
    title: ClassVar[str] = "GradInversion (BatchNorm statistics)"
    threat_model: ClassVar[ThreatModel] = "B"
    uses_statistics: ClassVar[bool] = True
    finding: ClassVar[str] = "LA206"
    needs: ClassVar[str] = "BatchNorm layers, with statistics that the client shares or that training has left"
    reference: ClassVar[str] = "Yin et al., See through Gradients, CVPR 2021, arXiv 2104.07586"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 75
    reads: ClassVar[tuple[str, ...]] = REAL
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # paper: 20,000 steps, learning rate 0.1, warm-up 50, cosine, first layer ×10, as in `breaching`; several seeds.
    # quick and standard: weights measured on the BatchNorm network of benchmarks/gi_pip.py.
    presets: ClassVar[dict[str, GradInversionSettings]] = {
        "quick": replace(BASE, iterations=600),
        "standard": replace(BASE, iterations=1500, restarts=2),
        "paper": replace(BASE, iterations=20_000, restarts=4, noise=0.01),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs BatchNorm, and statistics that say something."""
        if refusal := refuse_batch_size(target, observation):
            return refusal
        if observation.batch_statistics:
            return None
        running = running_statistics(target)
        if not running:
            return NotApplicable("the model has no BatchNorm layer with running statistics")
        if not is_trained(running):
            return NotApplicable(
                "the running statistics are those of an untrained model and say nothing; the client's own are not part "
                "of what is shared (--share-bn-statistics)"
            )
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Optimise all restarts together."""
        settings: GradInversionSettings = self.settings
        statistics = observation.batch_statistics or running_statistics(target)
        prior = BatchStatistics(target, statistics, settings.statistics_weight, settings.first_layer_factor)
        result = minimize(target, observation, settings, generator, monitor, priors=[prior])
        source = "the batch, shared by the client" if observation.batch_statistics else "training, held by the model"
        fact = f"prior: BatchNorm statistics of {source} ({count(len(statistics), 'layer')})"
        return replace(result, notes=(fact, *result.notes))
