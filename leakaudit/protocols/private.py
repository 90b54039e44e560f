r"""DP-SGD inside a client's local training: every step clips the gradients of its samples and adds noise to their sum.

.. math:: \tilde g_k = \frac{1}{L}\Bigl(\sum_{i \in \text{step } k} g_i \min(1, C/\|g_i\|) + \mathcal N(0, s^2 I)\Bigr)

(Abadi et al. 2016, arXiv 1607.00133, algorithm 1, as Opacus' optimizer runs it on a client.) What protects is the
sample: whatever the client makes of the private steps afterwards is post-processing.

Fails where samples of a step are coupled, which whoever asks for it has to refuse, and under ``torch.func`` for steps
of more than one sample. Steps have the sizes of the protocol; Poisson sampling is not simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from leakaudit.protocols.base import Play
from leakaudit.protocols.gradients import gradient
from leakaudit.target.dropout import Masks, injected_masks
from leakaudit.target.target import Target

NOISE = "noise"
"""Name among a play's unknowns of the seed (1,) that the noise of all steps comes from; an attacker's guess has
none."""
TINY = 1e-38
"""Squared norm below which a gradient counts as zero: where the precision of float32 ends."""


def clipped(tensors: Mapping[str, Tensor], bound: float) -> dict[str, Tensor]:
    """Tensors scaled down together to a norm of at most `bound`; differentiable."""
    squares = torch.stack([g.square().sum() for g in tensors.values()]).sum()
    factor = (bound / squares.clamp_min(TINY).sqrt()).clamp_max(1.0)
    return {name: g * factor for name, g in tensors.items()}


def seed_of(play: Play, step: int) -> int | None:
    """The seed of one step's noise; ``None`` in a guess."""
    drawn = play.unknowns.get(NOISE)
    return None if drawn is None else int(drawn) + step


@dataclass(frozen=True)
class StepPrivacy:
    """Clipping of samples and noise in every local step.

    Args:
        clip: Largest norm C of a sample's gradient.
        deviation: Standard deviation of the noise on the mean gradient of a step; with `on_sum` on the sum.
        on_sum: See there.
        expected: Number L that the sum is divided by; 0 for as many as the step has.
    """

    clip: float
    deviation: float
    on_sum: bool = False
    expected: int = 0

    def divisor(self, drawn: int) -> int:
        """L of a step of so many samples."""
        return self.expected or drawn

    def level(self, drawn: int) -> float:
        """Standard deviation of the noise on every entry of the gradient of such a step."""
        return self.deviation / self.divisor(drawn) if self.on_sum else self.deviation

    def draws(self, generator: Generator) -> Mapping[str, Tensor]:
        """The seed of the noise, under the name of the unknown."""
        return {NOISE: torch.randint(2**48, (1,), generator=generator)}

    def told(self, drawn: int) -> str:
        """For the sentence on how clients train."""
        return (
            f"each sample's gradient clipped to {self.clip:g}, noise of standard deviation {self.level(drawn):.3g} in "
            "every step"
        )

    def gradient(
        self,
        target: Target,
        inputs: Tensor,
        labels: Tensor,
        masks: Masks,
        *,
        parameters: Mapping[str, Tensor],
        seed: int | None,
        create_graph: bool = False,
        functional: bool = False,
    ) -> dict[str, Tensor]:
        """The private gradient of one step.

        Args:
            target: The model.
            inputs: Of the step (n, ...), normalised.
            labels: Of the step (n,) or (n, K).
            masks: Dropout keep masks of the step by layer.
            parameters: At which the step begins.
            seed: Of its noise; ``None`` adds none, as a guess has it.
            create_graph: See :meth:`leakaudit.protocols.base.Protocol.update`, like `functional`.
            functional: See there.
        """
        if len(inputs) == 1:
            how: dict[str, Any] = {"create_graph": create_graph, "functional": functional}
            alone: Iterable[Mapping[str, Tensor]] = [
                gradient(target, inputs, labels, masks, parameters=parameters, **how)
            ]
        else:
            alone = _apart(target, inputs, labels, masks, parameters, create_graph=create_graph)
        total: dict[str, Tensor] = {}
        for found in alone:
            bounded = clipped(found, self.clip)
            total = {name: total[name] + g for name, g in bounded.items()} if total else bounded
        mean = {name: g / self.divisor(len(inputs)) for name, g in total.items()}
        return mean if seed is None else self._noised(mean, seed, len(inputs))

    def _noised(self, mean: Mapping[str, Tensor], seed: int, drawn: int) -> dict[str, Tensor]:
        generator, level = Generator().manual_seed(seed), self.level(drawn)
        return {name: g + level * torch.randn(g.shape, generator=generator).to(g) for name, g in mean.items()}


def _apart(
    target: Target,
    inputs: Tensor,
    labels: Tensor,
    masks: Masks,
    parameters: Mapping[str, Tensor],
    *,
    create_graph: bool,
) -> Iterator[Mapping[str, Tensor]]:
    """The gradient of every sample's loss, in one forward, as the client draws its masks once a step."""
    with injected_masks(target.module, masks) if masks else nullcontext():
        logits = target.logits(inputs, parameters)
    for i in range(len(logits)):
        loss = target.task.loss(logits[i : i + 1], labels[i : i + 1])
        grads = torch.autograd.grad(
            *(loss, list(parameters.values())),
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        yield dict(zip(parameters, grads, strict=True))
