"""Decibels in words: a scale from unrecognisable to identical, with the reconstructions and the best guess on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leakaudit.document.counting import count
from leakaudit.document.schema import SampleResult
from leakaudit.report.views.figures import ALERT, INK, MUTED, SERIES, Figure, canvas_of, figure_of
from leakaudit.report.wording import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRADES = ((12.0, "unrecognisable"), (25.0, "blurred"), (40.0, "recognisable"), (float("inf"), "identical to the eye"))
"""PSNR below which a picture is called so, dB. From 25 dB the measure of images counts a picture as recognisable; at 40
dB the error is 1 % of the range of a pixel, about what the eye can tell; 12 dB is chosen."""
LEFT, RIGHT = 0.0, 60.0
"""Ends of the scale, dB; what lies beyond stands at the end; chosen."""
SHADES = (0.12, 0.3, 0.55, 0.85)
"""Strength of the colour of each grade; chosen."""


def grade(psnr: float) -> str:
    """What a picture of this PSNR looks like beside its original."""
    return next(name for limit, name in GRADES if psnr < limit)


def scale_chart(samples: Sequence[SampleResult]) -> Figure | None:
    """The closest reconstruction of each sample on the scale, and the best guess that knows nothing of it."""
    best: dict[int, SampleResult] = {}
    for sample in samples:
        if sample.psnr is not None and sample.psnr > (best[sample.index].psnr or 0.0 if sample.index in best else -1e9):
            best[sample.index] = sample
    if not best:
        return None
    floors = [f.psnr for s in best.values() for f in s.floors.values() if f.psnr is not None]
    with canvas_of(6.6, 1.2) as (canvas, axis):
        _draw_grades(axis)
        _draw_marks(axis, list(best.values()), max(floors, default=None))
        return figure_of(canvas, "scale", "How close the reconstructions are", _words(best, floors), _caption(best))


def _draw_grades(axis: Axes) -> None:
    left = LEFT
    for (limit, name), shade in zip(GRADES, SHADES, strict=True):
        right = min(limit, RIGHT)
        axis.barh(0, right - left, left=left, height=0.5, color=SERIES[0], alpha=shade, linewidth=0)
        color = "#ffffff" if shade > SHADES[-2] else INK
        axis.text((left + right) / 2, 0, name, ha="center", va="center", fontsize=8.5, color=color)
        left = right
    axis.set_xlim(LEFT - 1, RIGHT + 1)
    axis.set_ylim(-0.85, 1.1)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_xticks([LEFT, *(limit for limit, _ in GRADES[:-1]), 50, RIGHT])
    axis.set_xlabel("closeness of the pictures: PSNR, dB")


def _draw_marks(axis: Axes, samples: Sequence[SampleResult], floor: float | None) -> None:
    for sample in samples:
        place = min(max(sample.psnr or 0.0, LEFT), RIGHT)
        axis.plot(place, 0.42, "v", color=ALERT if sample.leaked else MUTED, markersize=7)
    if floor is not None:
        place = min(max(floor, LEFT), RIGHT)
        axis.plot([place, place], [0.27, 0.62], color=INK, linewidth=1.2)
        axis.text(place, 0.68, "best guess without the update", ha="center", va="bottom", fontsize=8.5, color=INK)


def _words(best: dict[int, SampleResult], floors: Sequence[float]) -> str:
    each = "; ".join(
        f"sample {s.index}: {fixed(s.psnr, 1)} dB, {grade(s.psnr)}" for s in best.values() if s.psnr is not None
    )
    return f"{each}. Best guess without the update: {fixed(max(floors, default=None), 1)} dB"


def _caption(best: dict[int, SampleResult]) -> str:
    which = "" if len(best) == 1 else f" of each of {count(len(best), 'sample')}"
    return (
        f"A triangle for the closest reconstruction{which}, red where it leaked. What does not lie right of the best "
        "guess needs no update."
    )
