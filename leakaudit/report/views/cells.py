"""Tables and facts as data: every number already text, every missing number with a note that says why.

One template macro draws all tables, so that they sort, scroll and stack alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leakaudit.document.schema import MetricEntry, Report, SampleResult
from leakaudit.domains.specs import Spec
from leakaudit.report.wording import MISSING, clip, fixed, number, plain, signed


@dataclass(frozen=True)
class Fact:
    """A term, its value, and a remark under it; ``code`` is for values to be read letter by letter."""

    term: str
    text: str
    remark: str = ""
    code: bool = False


@dataclass(frozen=True)
class Cell:
    """Text of a cell, its sort key, the number of its note, how it is marked (``leak``, ``held``, ``alert``), where it
    leads."""

    text: str
    key: str = ""
    note: int | None = None
    mark: str = ""
    href: str = ""


@dataclass(frozen=True)
class Row:
    """Cells, and what the filter selects by: names of attacks between spaces, and a victim."""

    cells: tuple[Cell, ...]
    attack: str = ""
    victim: str = ""


@dataclass
class Table:
    """A table; ``columns`` are (title, whether numeric)."""

    id: str
    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, cells: Iterable[Cell | str], attack: str = "", victim: str = "") -> None:
        """Append a row; plain strings become cells."""
        full = tuple(c if isinstance(c, Cell) else Cell(clip(c)) for c in cells)
        self.rows.append(Row(full, attack, victim))

    def value(self, value: float | int | None, text: str, reason: str = "", mark: str = "") -> Cell:
        """A number as a cell; when undefined, a dash with a note."""
        if text != MISSING:
            return Cell(text, "" if value is None else repr(value), mark=mark)
        return Cell(MISSING, "", self.note(reason), mark) if reason else Cell(MISSING, "", mark=mark)

    def metric(self, spec: Metric, value: float | None, reason: str = "", mark: str = "") -> Cell:
        """A metric as a cell."""
        return self.value(value, written(spec, value, fine=True), reason, mark)

    def note(self, text: str) -> int:
        """The number of a note, the same for the same text."""
        text = clip(text)
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


Metric = Spec | MetricEntry
"""A metric as the measure or the document describes it."""


def written(spec: Metric, value: float | None, *, fine: bool = False) -> str:
    """A metric's number without its unit; a dash when undefined, one more digit of a percentage when `fine`."""
    if value is None:
        return MISSING
    if spec.style == "percent":
        return f"{value:.1%}" if fine else f"{value:.0%}"
    if spec.style == "significant":
        return number(value, spec.digits)
    return signed(value, spec.digits) if spec.style == "signed" else fixed(value, spec.digits)


def with_unit(spec: Metric, value: float | None) -> str:
    """A metric's number with its unit."""
    text = written(spec, value)
    return text if text == MISSING else f"{text} {spec.unit}".strip()


def best(spec: Metric, values: Iterable[float | None]) -> float | None:
    """The value of the closest reconstruction, or of the floor that is hardest to beat."""
    known = [value for value in values if value is not None]
    choose = max if spec.higher_is_better else min
    return choose(known) if known else None


def lowered(spec: Metric) -> str:
    """A metric's title inside a sentence: abbreviations stay."""
    return spec.title if spec.title.isupper() else spec.title[:1].lower() + spec.title[1:]


def leak_cell(sample: SampleResult, *, yardstick: bool = False) -> Cell:
    """Whether a sample leaked, in words; under a yardstick it would have, which is no evidence."""
    if yardstick and sample.leaked:
        return Cell("yardstick", "0", mark="held")
    return Cell("leaked", "1", mark="leak") if sample.leaked else Cell("not shown", "0", mark="held")


def reidentified(sample: SampleResult) -> str:
    """Whether the reconstruction points at its own original, and among how many."""
    if sample.reidentified is None:
        return MISSING
    among = f", among {number(sample.rank_among)}" if sample.rank_among else ""
    among += ", up to near-duplicates" if sample.near_duplicates else ""
    return f"{plain(sample.reidentified)}{among}"


def class_name(report: Report, label: int | None) -> str:
    """A class index with its name, when there is one."""
    if label is None:
        return MISSING
    names = report.batch.class_names
    return (
        f"{label} ({clip(names[label], 40)})" if 0 <= label < len(names) and names[label] != str(label) else str(label)
    )


def label_row(report: Report, row: Sequence[float]) -> str:
    """A label of numbers; of several classes those that are marked, with the share of the batch where that is all; of
    a class per place the share of each, of next tokens their ids."""
    if report.target.task == "next-token":
        return " ".join(str(int(value)) if value >= 0 else MISSING for value in row)
    if report.target.task == "segmentation":
        return ", ".join(f"{class_name(report, k)} {share:.1%}" for k, share in enumerate(row) if share > 0) or "none"
    if report.target.task != "multi-label":
        return ", ".join(f"{value:.4g}" for value in row)
    marked = [(k, value) for k, value in enumerate(row) if value > 0]
    return ", ".join(class_name(report, k) + ("" if v == 1 else f" {v:.0%}") for k, v in marked) or "no class"
