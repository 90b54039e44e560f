"""What the report shows of samples of several inputs: the picture of one part, and the row of another below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from leakaudit.document.schema import SampleResult
from leakaudit.report.domains.base import Card
from leakaudit.report.domains.images import FLOORS
from leakaudit.report.domains.signals import SignalCard
from leakaudit.report.domains.table import RowView, TableCard, row_view
from leakaudit.report.views.cells import Fact
from leakaudit.report.wording import MISSING, clip, shape


class SeveralCard(Card):
    """Several inputs: pictures beside pictures, and rows beside rows."""

    wide: ClassVar[bool] = True
    floor_titles: ClassVar[Mapping[str, str]] = {**SignalCard.floor_titles, **TableCard.floor_titles, **FLOORS}
    intro: ClassVar[str] = (
        "A sample is several inputs of the model. Left the private original of the picture, right what the attack "
        "rebuilt; below it each column of the row, with the private cell above and what the attack made of it below. "
        "A “best floor” is what a guess without the update scores. Where one input leaked and another did not, the "
        "sample is said to have leaked in part, by the input's name."
    )
    scores_intro: ClassVar[str] = (
        "Each input is scored by itself, above the best of its own floors; a sample leaked as a whole where every "
        "input has."
    )
    thing: ClassVar[str] = "sample"

    def showable(self, sample: SampleResult) -> bool:
        """Whether there is a picture or a row, if only that it was left out."""
        return sample.table is not None or super().showable(sample)

    def text(self, sample: SampleResult) -> RowView | None:
        """The row and what was read of it."""
        return None if sample.table is None else row_view(sample.table)

    def tile(self) -> Fact:
        """The most that was shown of one sample, in words."""
        best = max(self.samples(), key=lambda sample: (sample.leaked, self.closeness(sample)), default=None)
        return Fact("Best result", MISSING if best is None else clip(best.told, 120) or MISSING)

    def input_facts(self) -> list[tuple[str, str]]:
        """The inputs by name, what each is, and its shape."""
        return [
            (f"Input {clip(one.name, 40)}", f"{shape(one.shape)} {one.domain}") for one in self.report.target.inputs
        ]
