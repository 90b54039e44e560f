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
    """

    label: str
    changes: Mapping[str, Any]
    longest: int = 1_000_000
    after: Candidate | None = None


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

LEARNT_ON = 32
"""Side of the images that the weights were chosen on, CIFAR-10."""
_HEAVY_FROM = 1e-2
"""Weight of a total variation that is to make an image smooth, and not only to settle what is open; chosen."""


def larger_than_learnt(sides: Sequence[int]) -> float:
    """By how much images of these sides are larger than `LEARNT_ON`, at least 1; 1 where there are not two."""
    return max(1.0, math.sqrt(math.prod(sides)) / LEARNT_ON) if len(sides) == 2 else 1.0


def for_images(candidates: Sequence[Candidate], sides: Sequence[int]) -> tuple[Candidate, ...]:
    """The same for images of other sides: a heavy total variation weighs more in larger ones.

    The total variation of the same picture, a mean over its pixels, falls with the side, and so does its pull. With the
    weights of 32 px a search on an untrained ResNet-18 ended at 9.4 dB at 224 px, with larger ones at 10.7
    (`benchmarks/results/large_images.md`). Where there are no two sides, or smaller ones, nothing changes.

    Args:
        candidates: What a search tries.
        sides: Height and width.
    """
    larger = larger_than_learnt(sides)
    return tuple(_weighing(candidate, larger) for candidate in candidates) if larger > 1 else tuple(candidates)


def _weighing(candidate: Candidate, larger: float) -> Candidate:
    """A candidate with its heavy total variation times `larger`; where it begins likewise."""
    weight = candidate.changes.get("tv_weight", 0.0)
    after = candidate.after and _weighing(candidate.after, larger)
    if weight < _HEAVY_FROM or candidate.changes.get("optimizer") == "lbfgs":
        return replace(candidate, after=after)
    told = f"Adam, cosine, TV {weight * larger:.1e}".replace("e-0", "e-")
    return replace(candidate, label=told, changes={**candidate.changes, "tv_weight": weight * larger}, after=after)


_SMOOTH, _LIGHT, _HEAVY = CANDIDATES[1], CANDIDATES[2], CANDIDATES[-1]
FEW = (_SMOOTH, _HEAVY, replace(_LIGHT, label=f"{_LIGHT.label}, from where a heavier one ended", after=_HEAVY))
"""What a search of few steps tries, in this order."""

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
ONE_BIT_FEW = ONE_BIT_CANDIDATES[1:2]

SEARCHED = frozenset(name for c in (*CANDIDATES, *ONE_BIT_CANDIDATES) for name in c.changes)
"""Settings that a search chooses."""
