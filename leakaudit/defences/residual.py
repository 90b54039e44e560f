r"""What is left of a shared update when the clipped gradient is taken off: noise of the claimed size, or a refutation.

With r the residual, n its length and σ the claimed level, an honest client leaves :math:`r \sim N(0, \sigma^2 I)`. So

* :math:`\|r\|^2/\sigma^2 \sim \chi^2_n`, over all entries and in every tensor: noise that misses one tensor is no noise
  for what that tensor shows;
* :math:`\langle r, u\rangle/\sigma \sim N(0, 1)` for every fixed direction u. A client that does not clip leaves its
  gradient g in r, which the norm of r hardly shows under much noise, and the projection on g does: a shift of
  :math:`\langle g - \tilde g, u\rangle/\sigma` standard deviations. That shift is stated, since a small one would pass.

The tests of a claim share a chance of 1e-4 or less each to accuse an honest client. They assume that the gradient can
be computed once more; fails where the client drew masks that nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import scipy
from torch import Tensor

from leakaudit.defences.evidence import Check, flat

STANDARD_ERRORS = 4.0
"""By how many standard deviations a measured value may differ from the claimed one; chosen: 6 honest updates in 100,000
do."""
SIGNIFICANCE = math.erfc(STANDARD_ERRORS / math.sqrt(2))
"""Probability of such a difference, by definition of the normal distribution."""
PRECISION = 1e-5
"""Relative difference of two float32 computations of a gradient: rounding, with two digits to spare for long sums."""
PARALLEL = 0.9999
"""Cosine above which two directions are one; chosen."""

Tensors = Mapping[str, Tensor]


def noise_checks(whole: Tensors, clean: Tensors, shared: Tensors, level: float, *, clips: bool) -> list[Check]:
    """Checks of an update that is said to be `clean` plus Gaussian noise.

    Args:
        whole: The gradient before clipping, divided as the shared one is.
        clean: After clipping.
        shared: What was shared, of the same names.
        level: Standard deviation σ of the noise, above 0.
        clips: Whether the client says that it clips.
    """
    names = list(shared)
    gradient, bounded = flat(whole, names), flat(clean, names)
    rest = flat(shared, names) - bounded
    unclipped = float((gradient - bounded) @ gradient / gradient.norm().clamp_min(1e-300)) if clips else None
    measured, chance = _level(rest, gradient, level)
    found = [
        Check(
            *("standard deviation of the noise", f"{level:.4g}", f"{measured:.4g}{_chance(chance)}"),
            chance >= SIGNIFICANCE,
        ),
        _in_every_tensor(whole, clean, shared, level),
        _projected("raw gradient", rest, gradient, level, unclipped),
    ]
    cosine = float(gradient @ bounded / (gradient.norm() * bounded.norm()).clamp_min(1e-300))
    if clips and cosine < PARALLEL:
        found.append(_projected("clipped gradient", rest, bounded, level, None))
    return found


def _in_every_tensor(whole: Tensors, clean: Tensors, shared: Tensors, level: float) -> Check:
    """The tensor whose noise is the least likely, judged for being the worst of so many."""
    chances = {}
    for name in shared:
        rest = flat(shared, [name]) - flat(clean, [name])
        chances[name] = _level(rest, flat(whole, [name]), level)
    name, (measured, chance) = min(chances.items(), key=lambda item: item[1][1])
    chance = min(1.0, chance * len(chances))
    text = f"{measured:.4g} in {name}{_chance(chance)}"
    return Check("noise of the tensor that differs most", f"{level:.4g}", text, chance >= SIGNIFICANCE)


def _level(rest: Tensor, gradient: Tensor, level: float) -> tuple[float, float]:
    """Root mean square of a residual, and the probability of one as far from the claimed level (two-sided)."""
    entries, length = rest.numel(), float(rest.norm())
    rounding = PRECISION * float(gradient.norm())
    above = float(scipy.special.chdtrc(entries, (max(0.0, length - rounding) / level) ** 2))
    below = float(scipy.special.chdtr(entries, (length / level) ** 2))
    return length / entries**0.5, min(1.0, 2 * min(above, below))


def _projected(what: str, rest: Tensor, direction: Tensor, level: float, unclipped: float | None) -> Check:
    """The residual along a direction; `unclipped` is how long it would be there without clipping."""
    length = float(direction.norm())
    shift = float(rest @ direction) / max(length, 1e-300) / level
    slack = PRECISION * length / level
    text = f"{shift:.1f} standard deviations{_chance(math.erfc(max(0.0, abs(shift) - slack) / math.sqrt(2)))}"
    if unclipped is not None:
        text += f", {_power(unclipped / level)}"
    what = f"projection of the residual on the {what}"
    return Check(what, f"within {STANDARD_ERRORS:g} standard deviations", text, abs(shift) <= STANDARD_ERRORS + slack)


def _power(shift: float) -> str:
    """How well an update that was not clipped would show."""
    if shift < PRECISION:
        return "no gradient was long enough to be clipped"
    hidden = "" if shift > 2 * STANDARD_ERRORS else ": too little to tell by one update"
    return f"without clipping it would be {shift:.1f}{hidden}"


def norm_checks(clean: Tensors, shared: Tensors, bound: float) -> list[Check]:
    """Checks of an update that is said to be clipped, and no more.

    Args:
        clean: The clipped gradient; empty where it cannot be computed once more.
        shared: What was shared.
        bound: Largest norm.
    """
    norm_of = float(flat(shared, shared).norm())
    found = [Check("norm", f"at most {bound:g}", f"{norm_of:g}", norm_of <= bound * (1 + 100 * PRECISION))]
    if clean:
        rest = float((flat(shared, shared) - flat(clean, shared)).norm()) / max(norm_of, 1e-300)
        found.append(
            Check("relative difference from the clipped gradient", "0", f"{rest:.1e}", rest <= 100 * PRECISION)
        )
    return found


def _chance(probability: float) -> str:
    return f" (p = {probability:.1g})" if probability < 0.1 else ""
