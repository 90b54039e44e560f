"""When a sample counts as leaked. Imports nothing heavy: the command line shows the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from leakaudit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LeakCriterion:
    """When a sample counts as leaked.

    Args:
        psnr_margin: dB above the best floor that are enough; chosen, half the squared error: none of 40 scans of
            mismatched updates passed (`benchmarks/results/false_alarms.md`).
        lpips_margin: LPIPS below the best floor that is enough instead; chosen, not measured.
        distractors: Images that the sample must be told from, at least; chosen: a guess succeeds once in a hundred.
    """

    psnr_margin: float = 3.0
    lpips_margin: float = 0.1
    distractors: int = 100

    def __post_init__(self) -> None:
        for name in ("psnr_margin", "lpips_margin"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.distractors < 1:
            raise UsageError(f"distractors is {self.distractors}, expected at least 1")
