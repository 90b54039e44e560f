"""DIA, the dropout inversion attack (Scheliga et al. 2022, arXiv 2208.06163).

.. math:: \\min_{x, M} \\; D_{\\cos}(\\nabla_\\theta \\ell(f_\\theta(x; M), y),\\, g^*) + \\lambda_{tv} TV(x)
   + \\lambda_m \\sum_l |1 - \\overline{M_l} - p_l|, \\qquad M_l \\in [0, 1]

The client's dropout masks M are unknown, and optimised together with the inputs, one mask per sample and layer, with
the dropout rates known. Threat model B.

Beyond the paper: masks that stand in the update are read (`leakaudit.attacks.reading.masks`), and only the rest is
optimised; if nothing is left, this is IG with known masks, refined by L-BFGS or searched as IG's. The rest is found by
the authors' descent or by L-BFGS (`leakaudit.matching.masked`): whichever is ahead after a few steps, or, with as many
as the preset standard has, L-BFGS and then the other unless that settled it. Masks are rounded at the end and the
inputs refined. Entries that no sample keeps are zero throughout.

What reading gains, medians of four CIFAR-10 victims, dropout .5 (`benchmarks/results/attack_quality.md`). One sample,
LeNet, preset quick for 1,500 steps: 38.6 dB (19.3 on one victim), where all masks optimised give 33.5 and the authors'
descent alone 31.5; 900 steps give 30.7. Preset standard: 47.0 dB in 6 to 11 s, 48.2 without reading (45.0 and 23.2 on
the worst victim) in five times as long. MLP, 600 steps: 120 dB, the end of the scale, against 36.4 by the authors'
descent; 120 steps give 34.7. LeNet with dropout .25 on its first map, which cannot be read: 28.5 dB after 1,500 steps,
30.1 with the preset standard, 13.4 by the authors' descent. Batches of four: 67.6 dB against 66.7 without reading on
the MLP, and nothing on the LeNet, which stays at 11 dB (14 for two).

Fails on masks of attention and tokens (ViT): the inputs are found, the masks are not. Deviations from the authors'
code: layers with p = 0 are frozen; masks are kept together with the best inputs; the iterate is the one whose objective
was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator, Tensor

from leakaudit.attacks.base import JOINT, Attack, cpu_generator
from leakaudit.attacks.ig import MATCHING, IGSettings, match, refuse_batch_size
from leakaudit.attacks.reading.masks import draw_masks, masked_layers, read_masks
from leakaudit.attacks.wia import no_dropout
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import prepare, smooth_enough, solve, to_reconstruction
from leakaudit.matching.masked import find_masks
from leakaudit.matching.priors import KeepRate
from leakaudit.matching.problem import MASK
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS


@dataclass(frozen=True, kw_only=True)
class DIASettings(IGSettings):
    """Settings of DIA; those of IG apply where every mask can be read.

    Args:
        mask_weight: λ_m, weight of the distance of the masks' means from the known rates; as in the authors' code.
        read: Read masks off the update where it shows them; the authors' attack does not.
        polish: Try L-BFGS over inputs and masks too, round the masks at the end, and refine the inputs by L-BFGS.
    """

    mask_weight: float = 1e-4
    read: bool = True
    polish: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("mask_weight")


class DIA(Attack):
    """Gradient matching over inputs and dropout masks."""

    name: ClassVar[str] = "dia"
    title: ClassVar[str] = "DIA (dropout inversion attack)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA205"
    needs: ClassVar[str] = "dropout in train mode"
    reference: ClassVar[str] = "Scheliga et al., Dropout is not all you need, AAAI 2023, arXiv 2208.06163"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 60
    reads: ClassVar[tuple[str, ...]] = JOINT
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = (*MATCHING, "dropout")
    # paper: the authors' shipped configuration (λ_tv 1e-5, λ_m 1e-4, 20,000 steps, plateau 800, stop after 4,000 or
    # below 1e-5), nothing read, nothing polished. quick and standard: benchmarks/anchors.py; IG's tolerance of 1e-9
    # brings the LeNet's samples to 54 to 60 dB instead of 45 to 52, which no eye tells apart, in a third more steps.
    presets: ClassVar[dict[str, DIASettings]] = {
        "quick": DIASettings(iterations=600, tv_weight=1e-5),
        "standard": DIASettings(iterations=6000, tv_weight=1e-5, tolerance=1e-8, search=True),
        "paper": DIASettings(
            iterations=20_000,
            tv_weight=1e-5,
            schedule="plateau",
            patience=4000,
            tolerance=1e-5,
            read=False,
            polish=False,
        ),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs dropout in train mode."""
        if not masked_layers(target, observation):
            return NotApplicable(no_dropout(observation))
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Read what can be read, optimise the rest with the inputs."""
        settings: DIASettings = self.settings
        if observation.one_bit:  # signs are matched by what is far from the samples: nothing is refined on them
            settings = replace(settings, polish=False)
        layers = masked_layers(target, observation)
        drawn = cpu_generator(generator.initial_seed())  # of its own: read or not, the starts are the same
        read = read_masks(target, observation, layers, drawn) if settings.read else {}
        single = observation.batch_size == 1 and observation.protocol.one_gradient
        known = read if single else {}
        free = tuple(layer for layer in layers if layer.key not in known)
        if single:
            facts = f"{len(known)} of {len(layers)} dropout masks read off the update, {len(free)} optimised"
        else:
            first = [mask for key, mask in read.items() if key.partition("/")[0] == "0"]  # all steps have the same
            zeros = sum(int((mask[0] == 0).sum()) for mask in first)
            steps = "" if observation.protocol.steps == 1 else " in every step"
            facts = f"{len(free)} dropout masks optimised, {zeros} units read off the update as dropped by all samples"
            facts += steps
        if not free and (settings.search or not settings.polish):
            result = match(target, observation, settings, generator, monitor, masks=known)
            return replace(result, notes=(facts, *result.notes))

        settings, raised = smooth_enough(settings, observation)
        rates = {layer.key: layer.rate for layer in free}
        like = next(iter(target.parameters.values()))

        def masks() -> dict[str, Tensor]:
            return {MASK + name: mask for name, mask in draw_masks(free, like, generator, read).items()}

        problem, guesses, cuts = prepare(
            *(target, observation, settings, generator, monitor),
            priors=[KeepRate(rates, settings.mask_weight)],
            masks=known,
            possible=read,
            extra=masks,
        )
        if settings.polish:
            found, way = find_masks(problem, guesses, rates, generator, Progress(monitor))
            solutions = [found]
        else:
            solutions, way = solve(problem, guesses, generator, Progress(monitor))
        return to_reconstruction(problem, solutions, (facts, *raised, *way), cuts)
