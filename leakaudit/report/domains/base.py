"""The contract of a card: how a report shows the samples of one domain.

This one serves every domain whose samples are pictures or nothing to look at: it shows the metrics that the document
lists, and the pictures that it holds. Nothing here needs the domain to be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from leakaudit.document.schema import (
    AttackEntry,
    DefenceTrial,
    Report,
    SampleResult,
    VictimResult,
)
from leakaudit.domains.specs import Spec
from leakaudit.report.views.cells import Fact, Metric, best, lowered, reidentified, with_unit, written
from leakaudit.report.views.figures import Figure
from leakaudit.report.wording import MISSING, clip, shape

Shown = tuple[AttackEntry, VictimResult, int]
"""A reconstruction: the attack, the victim, and its place among the victim's samples."""


class Card:
    """How a document's samples are shown.

    Args:
        report: The document.
    """

    own: ClassVar[Sequence[Spec]] = ()
    """The metrics of a document that does not list them."""
    floor_titles: ClassVar[Mapping[str, str]] = {"prior_only": "attack without the update"}
    intro: ClassVar[str] = (
        "What the attack rebuilt of each private sample. A “best floor” is what a guess without the update scores."
    )
    scores_intro: ClassVar[str] = "Every metric stands beside what the best guess without the update scores."
    input_term: ClassVar[str] = ""
    """What a sample's sizes are called, where they have names; the shape in the file stands below them then."""
    thing: ClassVar[str] = "reconstruction"
    """What the table of scores has a row for."""
    wide: ClassVar[bool] = False
    """Whether pictures are much wider than high, so that a sample takes the whole width of the page."""
    mosaics: ClassVar[bool] = False
    """Whether a mosaic hides who or what a picture shows; without that, pictures are left out below full evidence."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @classmethod
    def headline(cls, leaked: Sequence[SampleResult], attacked: int) -> str:
        """What was taken, in one sentence.

        Args:
            leaked: Every reconstruction that counts as a leak; several may be of one sample.
            attacked: How many samples were attacked.
        """
        share = f"{len({sample.index for sample in leaked})} of {attacked}"
        if all(sample.part for sample in leaked):
            return f"Parts of {share} private samples can be read from one update"
        return f"{share} private samples can be reconstructed from one update"

    @classmethod
    def manner(cls, leaked: Sequence[SampleResult]) -> str:
        """How they were taken, in a word or two."""
        return "read in part" if all(sample.part for sample in leaked) else "reconstructed"

    @property
    def specs(self) -> Sequence[Metric]:
        """The metrics, in the order in which they are shown."""
        return self.report.metrics or self.own

    @property
    def leading(self) -> list[Metric]:
        """The few that short tables show."""
        return [spec for spec in self.specs if spec.lead]

    @property
    def strength(self) -> Metric | None:
        """The metric that says how far above its floors a reconstruction is, else the first; ``None`` without any."""
        above = [spec for spec in self.specs if spec.lead and not spec.floored]
        return next(iter([*above, *self.specs]), None)

    def metrics(self, sample: SampleResult) -> Mapping[str, float | None]:
        """A sample's metrics by name."""
        return sample.metrics

    def floors(self, sample: SampleResult) -> Mapping[str, Mapping[str, float | None]]:
        """The same of what scores without knowing the sample."""
        return sample.metric_floors

    def reason(self, sample: SampleResult, name: str) -> str:
        """Why a metric is undefined."""
        return sample.metric_reasons.get(name, "")

    def value(self, sample: SampleResult, spec: Metric) -> float | None:
        """One metric of a sample."""
        return self.metrics(sample).get(spec.name)

    def floor(self, sample: SampleResult, spec: Metric) -> float | None:
        """The floor that is hardest to beat."""
        return best(spec, (floor.get(spec.name) for floor in self.floors(sample).values()))

    def best_of(self, samples: Iterable[SampleResult], spec: Metric) -> float | None:
        """The closest of several samples by one metric."""
        return best(spec, (self.value(sample, spec) for sample in samples))

    def closeness(self, sample: SampleResult) -> float:
        """What chooses the most telling sample of a report."""
        if sample.closeness is None:
            return float("inf") if sample.leaked else float("-inf")
        return sample.closeness

    def clearest(self, attacks: Iterable[AttackEntry], index: int | None = None) -> Shown | None:
        """The most telling reconstruction: one that leaked before one that did not, then the closest.

        Args:
            attacks: Where to look; declared upper bounds are left out.
            index: Of the one sample that is looked for.
        """
        found = (
            (attack, result, place)
            for attack in attacks
            if not attack.upper_bound
            for result in attack.results
            for place, sample in enumerate(result.samples)
            if index is None or sample.index == index
        )
        return max(found, key=lambda item: self._telling(item[1].samples[item[2]]), default=None)

    def _telling(self, sample: SampleResult) -> tuple[bool, float]:
        return sample.leaked, self.closeness(sample)

    def showable(self, sample: SampleResult) -> bool:
        """Whether there is something to see of a sample."""
        return bool(sample.original_png and sample.reconstruction_png)

    def text(self, sample: SampleResult) -> Any:
        """A sample as text, where it is one."""
        return None

    def described(self, sample: SampleResult) -> str:
        """How near a reconstruction is, for the alternative text of its picture."""
        return sample.told or "undefined"

    @cached_property
    def undefined(self) -> dict[str, str]:
        """Titles of the metrics that no sample has, each with its reasons: said once, not on every card."""
        scored = list(self.samples())
        absent = {}
        for spec in self.specs:
            if spec.floored and scored and all(self.value(sample, spec) is None for sample in scored):
                reasons = dict.fromkeys(self.reason(sample, spec.name) or "undefined" for sample in scored)
                absent[spec.title] = clip("; ".join(reasons))
        return absent

    def told_once(self) -> list[str]:
        """What the report says of metrics that no sample has."""
        return [f"{title} was not computed: {reason}." for title, reason in self.undefined.items()]

    def legend(self) -> str:
        """What a reader of the cover has to know of the samples; "" where they speak for themselves."""
        return ""

    def told_of(self, attack: AttackEntry) -> str:
        """What the report says of all reconstructions of an attack, before them; "" where they speak for themselves."""
        return ""

    def facts(self, sample: SampleResult) -> list[Fact]:
        """The numbers on a sample's card, beside its best floor; none for metrics that no sample has."""
        facts = []
        for spec in self.specs:
            value, floor = self.value(sample, spec), self.floor(sample, spec)
            if value is None and spec.title in self.undefined:
                continue
            remark = spec.remark or (f"best floor {written(spec, floor)}" if floor is not None else "")
            if written(spec, value) == MISSING:
                remark = clip(self.reason(sample, spec.name)) or "undefined"
            facts.append(Fact(spec.title, with_unit(spec, value), remark))
        return [*facts, Fact("Re-identified", reidentified(sample), clip(sample.reidentified_reason))]

    def tile(self) -> Fact:
        """The most that was shown of one sample, beside the verdict."""
        spec = self.strength
        if spec is None:
            return Fact("Best result", MISSING)
        return Fact(f"Best {lowered(spec)}", with_unit(spec, self.best_of(self.evidence(), spec)), spec.remark)

    def nearness(self, sample: SampleResult) -> str:
        """The same in a few words, for under its picture."""
        return clip(sample.told, 60)

    def chart(self) -> Figure | None:
        """A picture of all scores beside their floors."""
        return None

    def scale(self) -> Figure | None:
        """What the numbers mean to the eye, where they are of pictures."""
        return None

    def input_facts(self) -> list[tuple[str, str]]:
        """What the model takes."""
        target = self.report.target
        if not self.input_term:
            return [("Input", f"{shape(target.input_shape)} {target.domain}".strip())]
        native = shape(target.native_shape) if target.native_shape and target.native_shape != target.input_shape else ""
        in_file = f"{native} ({target.layout})" if native else ""
        return [(self.input_term, shape(target.input_shape)), ("Shape in the file", in_file)]

    # What `leakaudit defend` measured

    trial_heading: ClassVar[str] = "Best reconstruction"
    trial_axis: ClassVar[str] = "best reconstruction (lower is better)"

    def trial(self, trial: DefenceTrial) -> str:
        """The best reconstruction under one setting; a dash where nothing was attacked."""
        return trial.told or MISSING

    def trial_level(self, trial: DefenceTrial) -> float | None:
        """The same as a number that grows with the leak, or ``None``."""
        spec = self.strength
        value = None if spec is None else trial.metrics.get(spec.name)
        return value if value is None or spec is None or spec.higher_is_better else -value

    # Iteration

    def results(self) -> Iterator[tuple[AttackEntry, VictimResult]]:
        """Every attack on every victim."""
        for attack in self.report.attacks:
            for result in attack.results:
                yield attack, result

    def samples(self) -> Iterator[SampleResult]:
        """Every scored sample."""
        for _, result in self.results():
            yield from result.samples

    def evidence(self) -> Iterator[SampleResult]:
        """Every scored sample of what an attacker could run; yardsticks are left out."""
        for attack, result in self.results():
            if not attack.upper_bound:
                yield from result.samples
