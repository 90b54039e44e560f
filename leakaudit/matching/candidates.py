"""What a search may choose: optimiser, distance and weight of the total variation.

Measured on CIFAR-10 with the networks of `benchmarks/`: L-BFGS on the squared distance wins where activations are
smooth, signed Adam on the cosine where they are not (ReLU), and the strong total variation for batches through narrow
or pooled networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """One way to run the attack.

    Args:
        label: For the report.
        changes: Settings that differ from the attack's own.
        longest: Most iterations that it is worth; the default is chosen to be no limit.
        after: What runs first, for it to begin where that ends.
        levels: Parts of the resolution of an image that it goes through, each as its denominator, and the share of its
            steps that each has; the default is chosen to be the whole image.
    """

    label: str
    changes: Mapping[str, Any]
    longest: int = 1_000_000
    after: Candidate | None = None
    levels: tuple[tuple[int, float], ...] = ((1, 1.0),)


CANDIDATES = (
    Candidate("L-BFGS, squared distance, no TV", {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0}),
    Candidate("L-BFGS, squared distance, TV 1e-4", {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 1e-4}),
    Candidate("signed Adam, cosine, TV 1e-4", {"tv_weight": 1e-4}, 2400),
    Candidate("signed Adam, cosine, TV 1e-3", {"tv_weight": 1e-3}, 2400),
    Candidate("Adam, cosine, TV 1e-2", {"signed": False, "tv_weight": 1e-2}, 2400),
    Candidate("Adam, cosine, TV 3e-2", {"signed": False, "tv_weight": 3e-2}, 2400),
)
"""What a search tries; the weights are chosen around the 1e-4 of the authors' code (arXiv 2003.14053) and those of
`benchmarks/gi_pip.py`, and what such searches end at is in `benchmarks/results/attack_quality.md` (4 images a row)."""

_SMOOTH, _LIGHT, _HEAVY = CANDIDATES[1], CANDIDATES[2], CANDIDATES[-1]
FEW = (
    replace(_SMOOTH, longest=120),
    _HEAVY,
    replace(_LIGHT, label=f"{_LIGHT.label}, from where TV 3e-2 ended", after=_HEAVY),
)
"""What a search of few steps tries, in this order. Where L-BFGS is chosen it settles with its total variation; the rest
is for it without: with 60, 120, 200 or all of 600 steps for the first it ends at 58.7, 59.1, 59.4 and 58.5 dB, in .7,
.8, .9 and 1 times the time (`benchmarks/results/few_steps.md`, 7 networks, 3 images each). Not so in larger images,
where this was not measured."""

COARSE_TO_FINE = ((4, 0.5), (2, 0.25), (1, 0.25))
"""Levels of a search that begins with coarse images; chosen on 3 images and 4 networks
(`benchmarks/results/large_images.md`)."""
LEARNT_ON = 32
"""Side of the images that the weights were chosen on, CIFAR-10."""


def larger_than_learnt(sides: Sequence[int]) -> float:
    """By how much images of this height and width are larger than `LEARNT_ON`; 1 where smaller, or no images."""
    return max(1.0, math.sqrt(math.prod(sides)) / LEARNT_ON) if len(sides) == 2 else 1.0


def few(sides: Sequence[int]) -> tuple[Candidate, Candidate, Candidate]:
    """What a search of few steps tries, in this order.

    Images larger than those of CIFAR-10 are searched from a quarter of their resolution on, where few steps settle what
    is large in them. The heavy total variation grows with the side: it is a mean over pixels, and its pull on each
    falls. It goes by the sign, which moves every pixel from the first step on. The third is for where that weighs too
    much: elsewhere it fits noise, and the sample less (`benchmarks/results/large_images.md`).

    Args:
        sides: Height and width of an image; of other samples, what there is.
    """
    larger = larger_than_learnt(sides)
    if larger == 1:
        return FEW
    weight = _HEAVY.changes["tv_weight"] * larger
    told = f"signed Adam, cosine, TV {weight:.2g}, from a quarter of the resolution on"
    heavy = Candidate(told, {"tv_weight": weight}, _HEAVY.longest, levels=COARSE_TO_FINE)
    told = "signed Adam, cosine, no TV, from where a heavy one ended, from a quarter of the resolution on"
    return _SMOOTH, heavy, Candidate(told, {"tv_weight": 0.0}, _LIGHT.longest, heavy, COARSE_TO_FINE)


# Signs alone are matched to the last digit by noise too: the prior must hold, and nothing is refined without it.
ONE_BIT_CANDIDATES = (
    Candidate("signed Adam, cosine, TV 1e-3", {"tv_weight": 1e-3}, 2400),
    Candidate("signed Adam, cosine, TV 1e-2", {"tv_weight": 1e-2}, 2400),
    Candidate("signed Adam, cosine, TV 3e-2", {"tv_weight": 3e-2}, 2400),
    Candidate("signed Adam, cosine, TV 1e-1", {"tv_weight": 1e-1}, 2400),
    Candidate("L-BFGS, squared distance, TV 1e-2", {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 1e-2}),
)
"""What a search tries where only signs are shared; the weights are chosen, and what such searches end at is in
`benchmarks/results/defences.md` (2 images a row)."""

SEARCHED = frozenset(name for c in (*CANDIDATES, *ONE_BIT_CANDIDATES) for name in c.changes)
"""Settings that a search chooses."""
