"""What a defence must reach over all samples: ``PSNR<15``, ``SSIM<0.5``, ``leaked=0`` or ``reidentified=0``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from leakaudit.document.schema import Report, SampleResult
from leakaudit.errors import UsageError
from leakaudit.findings import samples_of

_FORM = re.compile(r"\s*(psnr|ssim|leaked|reidentified)\s*(<=|<|=)\s*([0-9.]+)\s*", re.IGNORECASE)
_VALUES: dict[str, Callable[[SampleResult], float]] = {
    "psnr": lambda s: float("inf") if s.psnr is None else s.psnr,
    "ssim": lambda s: 1.0 if s.ssim is None else s.ssim,
    "leaked": lambda s: float(s.leaked),
    "reidentified": lambda s: float(bool(s.reidentified)),
}
_COUNTED = ("leaked", "reidentified")


@dataclass(frozen=True)
class Goal:
    """A limit on the best reconstruction (PSNR, SSIM) or on a number of samples (leaked, reidentified).

    Args:
        measure: ``psnr``, ``ssim``, ``leaked`` or ``reidentified``.
        limit: In its unit.
        strict: Whether the limit itself misses the goal.
    """

    measure: str
    limit: float
    strict: bool

    def __str__(self) -> str:
        sign = "<" if self.strict else ("=" if self.measure in _COUNTED and self.limit == 0 else "<=")
        return f"{self.measure.upper() if self.measure not in _COUNTED else self.measure}{sign}{self.limit:g}"

    def value(self, report: Report) -> float:
        """The worst value of a report: the best sample's metric, or the number of samples; 0 without any result."""
        scored = samples_of(report.attacks)
        values = [(s.index, _VALUES[self.measure](s)) for _, _, s in scored]
        if self.measure in _COUNTED:
            return float(len({index for index, value in values if value}))
        return max((value for _, value in values), default=0.0)

    def met(self, report: Report) -> bool:
        """Whether every sample of a report is within the limit."""
        value = self.value(report)
        return value < self.limit if self.strict else value <= self.limit


def parse_goal(text: str) -> Goal:
    """A goal from text.

    Raises:
        UsageError: It does not read like one.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"--target {text!r}: expected like PSNR<15, SSIM<0.5, leaked=0 or reidentified=0")
    measure, sign, limit = match[1].lower(), match[2], float(match[3])
    if sign == "=" and measure not in _COUNTED:
        raise UsageError(f"--target {text!r}: {measure} is compared by < or <=")
    return Goal(measure, limit, sign == "<")
