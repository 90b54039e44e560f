"""What a defence must reach over all samples: ``leaked=0``, ``reidentified=0``, or a limit on a metric as ``PSNR<15``.

The metrics are those of the model's domain. A limit is on the best reconstruction: below it where higher is closer
(PSNR, SSIM, places right), above it where lower is closer (LPIPS, MSE). Whatever the metric, no limit is met while a
sample counts as leaked: 14.7 dB may be enough to tell an image from all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from leakaudit.document.schema import Report, SampleResult
from leakaudit.domains.specs import ALL, Spec
from leakaudit.errors import UsageError
from leakaudit.findings import samples_of

_FORM = re.compile(r"\s*([a-z_]+)\s*(<=|<|>=|>|=)\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*", re.IGNORECASE)
_COUNTED = ("leaked", "reidentified")
_EXPECTED = "expected like PSNR<15, SSIM<0.5, leaked=0 or reidentified=0"


@dataclass(frozen=True)
class Goal:
    """A limit on the best reconstruction by one metric, or on a number of samples (leaked, reidentified).

    Args:
        measure: Name of a metric, ``leaked`` or ``reidentified``.
        limit: In its unit.
        strict: Whether the limit itself misses the goal.
        below: Whether values must stay below the limit, not above.
        spec: The metric, once it is known which there are.
    """

    measure: str
    limit: float
    strict: bool
    below: bool = True
    spec: Spec | None = None

    def __str__(self) -> str:
        counted = self.measure in _COUNTED
        sign = "=" if counted and self.limit == 0 and not self.strict else ("<" if self.below else ">")
        sign += "" if self.strict or sign == "=" else "="
        return f"{self.measure if counted else self.measure.upper()}{sign}{self.limit:g}"

    def among(self, specs: Sequence[Spec]) -> Goal:
        """The goal for samples with these metrics.

        Raises:
            UsageError: There is no such metric, or its limit is on the wrong side.
        """
        if self.measure in _COUNTED:
            return self
        known = {spec.name: spec for spec in specs}
        if self.measure not in known:
            names = ", ".join(known)
            raise UsageError(
                f"--target {self}: such samples have no {self.measure.upper()}, they are measured by {names}",
                f"name one of these, or {' or '.join(f'{name}=0' for name in _COUNTED)}",
            )
        spec = known[self.measure]
        if spec.higher_is_better != self.below:
            side = "<" if spec.higher_is_better else ">"
            raise UsageError(
                f"--target {self}: a {'higher' if spec.higher_is_better else 'lower'} {spec.title} is a closer "
                f"reconstruction, so a limit on it is {self.measure.upper()}{side}…"
            )
        return replace(self, spec=spec)

    def value(self, report: Report) -> float:
        """The worst value of a report: the best sample's metric, or the number of samples; 0 without any result."""
        scored = [sample for _, _, sample in samples_of(report.attacks)]
        if self.measure in _COUNTED:
            return float(len({s.index for s in scored if getattr(s, self.measure)}))
        worst = max if self.below else min
        return worst((self._of(sample) for sample in scored), default=0.0 if self.below else float("inf"))

    def _of(self, sample: SampleResult) -> float:
        value = sample.metrics.get(self.measure)
        spec = self.spec or ALL.get(self.measure)
        return value if value is not None else spec.undefined if spec else float("inf")

    def met(self, report: Report) -> bool:
        """Whether every sample of a report is within the limit, and none counts as leaked but as `leaked` allows."""
        return self.reached(self.value(report)) and (self.measure == "leaked" or not leaked(report))

    def reached(self, value: float) -> bool:
        """Whether the worst value is within the limit."""
        value, limit = (value, self.limit) if self.below else (-value, -self.limit)
        return value < limit if self.strict else value <= limit


def leaked(report: Report) -> int:
    """How many samples leaked by any attack."""
    return len({sample.index for _, _, sample in samples_of(report.attacks) if sample.leaked})


def parse_goal(text: str) -> Goal:
    """A goal from text; :meth:`Goal.among` says whether the samples have such a metric.

    Raises:
        UsageError: It does not read like one.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"--target {text!r}: {_EXPECTED}")
    measure, sign, limit = match[1].lower(), match[2], float(match[3])
    counted = measure in _COUNTED
    if sign == "=" and not counted:
        raise UsageError(f"--target {text!r}: {measure} is compared by < or <=")
    if counted and sign in (">", ">="):
        raise UsageError(f"--target {text!r}: {_EXPECTED}")
    return Goal(measure, limit, sign in ("<", ">"), below=sign not in (">", ">="))
