"""Settings of the gradient-matching engine: plain numbers and words, so that a report can repeat a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from leakaudit.domains.base import Start

Initialization = Start
Distance = Literal["cosine", "layerwise", "euclidean"]
LayerWeights = Literal["equal", "linear", "exponential"]
Optimizer = Literal["adam", "adamw", "lbfgs"]
Schedule = Literal["step", "cosine", "plateau", "constant"]
Execution = Literal["auto", "eager", "traced", "compiled"]


@dataclass(frozen=True, kw_only=True)
class MatchSettings:
    """Settings of one gradient-matching run.

    Args:
        iterations: Steps per restart; evaluations of the objective for L-BFGS.
        restarts: Independent starts; the one with the smallest match is kept.
        learning_rate: Of Adam, in normalised units.
        tv_weight: Weight of the total variation.
        signed: Use only the sign of the inputs' gradient, as IG does; ignored by L-BFGS.
        initialization: Start in normalised space: N(0, 1), U(-1, 1), zeros, or a random patch repeated over the image
            (Wei et al. 2020, arXiv 2004.10397).
        distance: Global cosine distance, mean of per-tensor cosine distances, or squared distance over ‖g*‖².
        layer_weights: Weight of the tensors: equal, linear (L … 1, first layers first), exponential.
        strongest_layers: Use only this many tensors, those with the largest ‖g*‖; 0 uses all.
        matched_share: Share of each tensor's entries that is matched, those with the largest |g*| (partial matching).
        flatness: Share of the gradient that is taken a little uphill, which steers away from sharp minima (gradient
            regularisation); such a step costs two. Adam only.
        l2_weight: Weight of the mean squared input.
        group_weight: Weight of the pull of all restarts towards their mean (GradInversion).
        optimizer: Adam, AdamW, or L-BFGS with strong Wolfe line search.
        schedule: Of the learning rate: three steps of ×0.1, half a cosine, ×0.1 on plateaus, or constant.
        warmup: Steps over which the learning rate rises linearly.
        noise: Standard deviation of the noise added to the inputs' gradient, times the learning rate (Langevin).
        plateau: Steps without a new best before the plateau schedule cuts.
        patience: Stop after this many steps without a new best; 0 never.
        tolerance: Stop when the objective is below this; 0 never.
        history: Pairs that L-BFGS remembers.
        execution: How a step runs; ``auto`` traces and compiles when the iterations repay it.

    Defaults: `iterations`, `learning_rate`, `tv_weight`, `signed` and `schedule` as in the authors' code of IG (Geiping
    et al. 2020, arXiv 2003.14053); `plateau` as in that of DIA (Scheliga et al. 2022, arXiv 2208.06163); `history` is
    chosen (ten pairs end 0.2 dB lower on a LeNet, `benchmarks/results/constants.md`, 4 images); what is 0 or 1 leaves
    the option out.
    """

    iterations: int = 4800
    restarts: int = 1
    learning_rate: float = 0.1
    tv_weight: float = 1e-4
    signed: bool = True
    initialization: Initialization = "normal"
    distance: Distance = "cosine"
    layer_weights: LayerWeights = "equal"
    strongest_layers: int = 0
    matched_share: float = 1.0
    flatness: float = 0.0
    l2_weight: float = 0.0
    group_weight: float = 0.0
    optimizer: Optimizer = "adam"
    schedule: Schedule = "step"
    warmup: int = 0
    noise: float = 0.0
    plateau: int = 800
    patience: int = 0
    tolerance: float = 0.0
    history: int = 50
    execution: Execution = "auto"

    @property
    def planned(self) -> int:
        """Iterations over all restarts."""
        return self.iterations * self.restarts

    @property
    def evaluations(self) -> int:
        """Of the objective in a step of descent."""
        return 2 if self.flatness and self.optimizer != "lbfgs" else 1

    def changed(self, changes: Mapping[str, Any]) -> MatchSettings:
        """With other values."""
        return replace(self, **changes)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name} must be a finite number, got {value}")
        for name in ("iterations", "restarts", "learning_rate", "history", "plateau"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        not_negative = ("tv_weight", "l2_weight", "group_weight", "warmup", "noise", "patience", "tolerance")
        self._not_negative(*not_negative, "strongest_layers")
        if not 0 < self.matched_share <= 1:
            raise ValueError(f"matched_share must be above 0 and at most 1, got {self.matched_share}")
        if not 0 <= self.flatness <= 1:
            raise ValueError(f"flatness must be from 0 to 1, got {self.flatness}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")

    def _not_negative(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


CHOICES: dict[str, Any] = {
    "initialization": Initialization,
    "distance": Distance,
    "layer_weights": LayerWeights,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "execution": Execution,
}
