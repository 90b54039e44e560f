"""Faults of deployed clipping and noise that a shared update, or the number of its round, gives away.

Noise is what is left of a shared update when the one before the noise is taken off, and its multiple of the undefended
one, as a client that does not clip would leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from leakaudit.defences.evidence import flat
from leakaudit.defences.misuse import Misuse, Practice, Quiet
from leakaudit.document.status import MisuseKind

BARE = 0.1
"""Share of the claimed standard deviation below which a tensor passed without noise; chosen: sixteen entries of honest
noise are so small with a probability below 1e-12 (their χ² has fifteen degrees of freedom)."""
FEWEST = 16
"""Entries of a tensor that can be told from chance; chosen, see BARE."""
NEAR = 0.05
"""Relative distance of a measured ratio of noise from a number of samples or clients that it is taken for; chosen: the
standard error of a hundred thousand entries is 0.2 %, and 2 and 3 differ by 50 %."""
LONGER = 0.01
"""Share by which counting buffers must change a norm to be told from rounding; chosen."""
DIGITS = 1e-3
"""Relative distance of a norm from a clipping bound that it was scaled to; chosen, rounding of float32 weights is
less."""


def _left(practice: Practice, clean: Mapping[str, Tensor], names: list[str]) -> float:
    """Root mean square of what is neither in the update before its noise nor a multiple of the undefended one."""
    raw, shared = practice.raw or {}, practice.shared or {}
    undefended, rest = flat(raw, names), flat(shared, names) - flat(clean, names)
    along = (rest @ undefended) / (undefended @ undefended).clamp_min(1e-300)
    return float((rest - along * undefended).norm()) / math.sqrt(max(1, rest.numel() - 1))


def unnoised(practice: Practice, quiet: Quiet | None) -> Iterator[Misuse]:
    """Tensors that are shared without the noise that others have, or that none has.

    Args:
        practice: With the shared and the undefended update.
        quiet: What is shared before the noise, and its claimed standard deviation; ``None`` judges nothing.
    """
    if practice.raw is None or practice.shared is None or quiet is None or quiet[1] == 0:
        return
    clean, level = quiet
    names = [name for name, tensor in practice.shared.items() if tensor.numel() >= FEWEST]
    bare = [name for name in names if _left(practice, clean, [name]) < BARE * level]
    if bare and len(bare) == len(names):
        yield Misuse(
            MisuseKind.SERVER_SEES_RAW,
            f"no tensor has the noise of standard deviation {level:.3g}: whoever receives this update sees it "
            f"without, and "
            "noise that is added to an aggregate later protects against others only.",
            "measured",
        )
    elif bare:
        yield Misuse(
            MisuseKind.PASSED_UNNOISED,
            f"{', '.join(bare[:3])}{_more(bare)} passed without the noise of standard deviation {level:.3g} that the "
            "other tensors have.",
            "measured",
        )


def misdivided(practice: Practice, quiet: Quiet | None, samples: int) -> Iterator[Misuse]:
    """Noise that is larger or smaller than claimed by just the number of samples, which a sum is divided by.

    Args:
        practice: With the shared and the undefended update.
        quiet: As of :func:`unnoised`.
        samples: Behind the update.
    """
    if samples < 2 or practice.raw is None or practice.shared is None or quiet is None or quiet[1] == 0:
        return
    clean, level = quiet
    ratio = _left(practice, clean, list(practice.shared)) / level
    if abs(ratio * samples - 1) <= NEAR:
        yield Misuse(
            MisuseKind.WRONG_DIVISOR,
            f"the noise is {samples} times smaller than claimed, the number of samples: noise for the sum was divided "
            f"with it, or noise meant for the mean of {samples} was claimed for the sum.",
            "measured",
        )
    if abs(ratio / samples - 1) <= NEAR:
        yield Misuse(
            MisuseKind.WRONG_DIVISOR,
            f"the noise is {samples} times larger than claimed, the number of samples: noise calibrated for the sum "
            "was added to the mean.",
            "measured",
            grave=False,
        )


def counted_buffers(practice: Practice, bound: float) -> Iterator[Misuse]:
    """A norm that reaches the bound only if buffers are counted.

    Args:
        practice: With a recorded update and its buffers.
        bound: The clipping norm C.
    """
    if practice.shared is None or not practice.buffers:
        return
    own = float(flat(practice.shared, practice.shared).norm())
    beside = float(flat(practice.buffers, practice.buffers).norm())
    whole = math.hypot(own, beside)
    if abs(whole / bound - 1) <= DIGITS and own < (1 - LONGER) * bound:
        yield Misuse(
            MisuseKind.BUFFERS_COUNTED,
            f"the norm of what was sent is the bound {bound:g} only with {len(practice.buffers)} buffers "
            f"counted, which "
            f"have {beside:.3g} of it; the trainable tensors are left with {own:.3g}.",
            "measured",
            grave=False,
        )


def later_rounds(practice: Practice, covered: float, after: Callable[[int], float]) -> Iterator[Misuse]:
    """A round beyond those that the accountant was told of.

    Args:
        practice: Its round is known, or nothing is said.
        covered: Rounds that the stated ε is of.
        after: ε after so many rounds.
    """
    if practice.round is not None and practice.round > covered:
        total = after(practice.round)
        yield Misuse(
            MisuseKind.UNACCOUNTED,
            f"the recorded round is number {practice.round}, and the stated ε covers {covered:g}: after that "
            f"many rounds it "
            f"is {'above what can be accounted' if math.isinf(total) else f'{total:.3g}'}.",
            "certified",
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""
