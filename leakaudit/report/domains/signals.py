"""What the report shows of signals: the curve that was rebuilt over the original, and its SNR against the floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from leakaudit.domains.specs import SIGNALS, Spec
from leakaudit.report.domains.base import Card


class SignalCard(Card):
    """Signals: curves over curves."""

    input_term: ClassVar[str] = "Input (C × L)"
    own: ClassVar[Sequence[Spec]] = SIGNALS
    floor_titles: ClassVar[Mapping[str, str]] = {
        "middle": "the middle of the range",
        "flat": "a flat line at its own mean",
        "mean": "mean of other samples",
        "other": "another sample of the class",
        **Card.floor_titles,
    }
    intro: ClassVar[str] = (
        "Left the private original, right what the attack rebuilt, drawn over the original in grey. The numbers "
        "compare the two; a “best floor” is what a signal made without the update scores."
    )
    scores_intro: ClassVar[str] = (
        "SNR, correlation: higher is closer. Error over deviation: lower is closer. The margin is SNR above the "
        "best floor."
    )
    wide: ClassVar[bool] = True
    trial_heading: ClassVar[str] = "Best reconstruction, dB"
    trial_axis: ClassVar[str] = "best margin, dB above the best floor (lower is better)"
