"""Learning-rate schedules of the optimisation attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from leakaudit.matching.settings import MatchSettings

PLATEAU_THRESHOLD = 1e-4
"""Relative improvement that counts as one; torch's default for ``ReduceLROnPlateau``."""


def step_decay(iteration: int, total: int, factor: float = 0.1) -> float:
    """Multiplier of the learning rate: ×`factor` after 3/8, 5/8 and 7/8 of `total` iterations.

    The authors of IG cut at ``total // 2.667``, ``// 1.6`` and ``// 1.142`` (24,000 → 8,998 / 14,999 / 21,015).
    """
    milestones = (int(total // 2.667), int(total // 1.6), int(total // 1.142))
    return float(factor ** sum(iteration >= m for m in milestones))


def cosine_decay(iteration: int, total: int) -> float:
    """Multiplier of the learning rate: half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * iteration / total))


@dataclass(eq=False)
class LearningRate:
    """The learning rate of one run, iteration by iteration."""

    settings: MatchSettings
    _best: float = field(default=float("inf"), init=False)
    _waiting: int = field(default=0, init=False)
    _cuts: int = field(default=0, init=False)

    def at(self, iteration: int) -> float:
        """Learning rate of a step."""
        settings = self.settings
        if settings.schedule == "step":
            factor = step_decay(iteration, settings.iterations)
        elif settings.schedule == "cosine":
            factor = cosine_decay(iteration, settings.iterations)
        else:
            factor = 0.1**self._cuts
        if iteration < settings.warmup:
            factor *= (iteration + 1) / settings.warmup
        return settings.learning_rate * factor

    def report(self, objective: float) -> None:
        """Tell the objective of a step: the plateau schedule cuts after ``settings.plateau`` steps without a gain."""
        if self.settings.schedule != "plateau":
            return
        if objective < self._best * (1 - PLATEAU_THRESHOLD):
            self._best, self._waiting = objective, 0
            return
        self._waiting += 1
        if self._waiting > self.settings.plateau:
            self._cuts, self._waiting = self._cuts + 1, 0
