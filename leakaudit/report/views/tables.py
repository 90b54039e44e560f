"""The report's tables as data: every number already text, every missing number with a note that says why.

One template macro draws them all, so that they sort, scroll and stack alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leakaudit.document.schema import Metrics, RankLayer, Report, SampleResult, VictimResult
from leakaudit.report.wording import MISSING, clip, fixed, number, plain, seconds, signed, words

FLOORS = {
    "grey": "mid-grey image",
    "mean": "mean of other samples",
    "other": "another sample of the class",
    "flat": "flat image of its own mean colour",
    "prior_only": "attack without the update",
}
CONTROLS = {
    "positive": "positive: a network known to leak",
    "negative": "negative: another batch's update",
    "prior_only": "prior only: no update at all",
}
KNOWLEDGE = {
    "labels": "Labels",
    "batch_size": "Batch size",
    "mode": "Mode",
    "batch_statistics": "BatchNorm statistics",
    "dropout_masks": "Dropout masks",
    "auxiliary_data": "Auxiliary data",
    "start": "Start",
}
UNITS = {"psnr": ("PSNR", "dB", 1), "ssim": ("SSIM", "", 3), "lpips": ("LPIPS", "", 3), "mse": ("MSE", "", 5)}


@dataclass(frozen=True)
class Cell:
    """Text of a cell, its sort key, the number of its note, and how it is marked (``leak``, ``held``, ``alert``)."""

    text: str
    key: str = ""
    note: int | None = None
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """Cells, and what the filter selects by."""

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

    def note(self, text: str) -> int:
        """The number of a note, the same for the same text."""
        text = clip(text)
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def metric(table: Table, metrics: Metrics, name: str) -> Cell:
    """One of PSNR, SSIM, LPIPS, MSE of a sample or floor."""
    value = getattr(metrics, name)
    digits = UNITS[name][2]
    text = number(value, 3) if name == "mse" else fixed(value, digits)
    return table.value(value, text, getattr(metrics, f"{name}_reason"))


def best_floor(sample: SampleResult, name: str) -> float | None:
    """The floor that is hardest to beat: the largest PSNR or SSIM, the smallest LPIPS or MSE."""
    values = [v for floor in sample.floors.values() if (v := getattr(floor, name)) is not None]
    if not values:
        return None
    return float(max(values) if name in ("psnr", "ssim") else min(values))


def leak_cell(sample: SampleResult) -> Cell:
    """Whether a sample leaked, in words."""
    return Cell("leaked", "1", mark="leak") if sample.leaked else Cell("not shown", "0", mark="held")


def variant_table(report: Report) -> Table:
    """Checkpoints and modes side by side."""
    columns = (
        ("Variant", False), ("Status", False), ("Severity", False), ("Samples leaked", True), ("Best PSNR dB", True),
        ("Best margin dB", True), ("Labels right", True), ("Architecture risk", False), ("Time", True),
    )  # fmt: skip
    table = Table("variants-table", "Variants: the same samples, audited under each", columns)
    for entry in report.variants:
        audited = bool(entry.mode)
        reason = "" if audited else entry.reason or entry.headline
        hit = f"{entry.samples_leaked} of {entry.samples_attacked}" if audited else MISSING
        labels = f"{entry.labels_right} of {entry.labels_total}" if entry.labels_total else MISSING
        cells: list[Cell | str] = [
            clip(entry.label, 80) + (" (shown in full)" if entry.worst else ""),
            Cell(clip(entry.status, 60), mark="leak" if entry.status.startswith("LEAKS") else ""),
            entry.severity if audited else MISSING,
            table.value(entry.samples_leaked, hit, reason),
            table.value(entry.best_psnr, fixed(entry.best_psnr, 1)),
            table.value(entry.best_margin, signed(entry.best_margin, 1)),
            Cell(labels),
            entry.risk if audited else MISSING,
            table.value(entry.seconds, seconds(entry.seconds)) if audited else MISSING,
        ]
        table.add(cells)
    return table


def variant_attack_table(report: Report) -> Table:
    """The best margin of every attack under every variant."""
    audited = [entry for entry in report.variants if entry.mode]
    columns = (("Attack", False), *((clip(entry.label, 40), True) for entry in audited))
    table = Table("variants-attacks", "Best PSNR above the floors, in dB, by attack and variant", columns)
    titles = {a.name: a.title for entry in audited for a in entry.attacks if a.results}
    for name, title in titles.items():
        cells: list[Cell | str] = [clip(title, 60)]
        for entry in audited:
            attack = next(a for a in entry.attacks if a.name == name)
            samples = [s for result in attack.results for s in result.samples]
            best = max((s.margin for s in samples if s.margin is not None), default=None)
            leaked = any(s.leaked for s in samples)
            cells.append(table.value(best, signed(best, 1), attack.reason, "leak" if leaked else ""))
        table.add(cells, name)
    return table


def control_table(report: Report) -> Table:
    """The same attacks where the answer is known."""
    columns = (
        ("Control", False),
        ("Attack", False),
        ("Passed", False),
        ("PSNR dB", True),
        ("Margin dB", True),
        ("What happened", False),
    )
    table = Table("control-table", "Controls: the same attacks where the answer is known", columns)
    for item in report.controls:
        psnr, margin = item.numbers.get("psnr"), item.numbers.get("margin")
        passed = "not run" if item.passed is None else plain(item.passed)
        cells: list[Cell | str] = [
            CONTROLS[item.kind],
            clip(item.title or item.attack, 60),
            Cell(passed, mark="alert" if item.passed is False else ""),
            table.value(psnr, fixed(psnr, 1)),
            table.value(margin, signed(margin, 1)),
            clip(item.detail),
        ]
        table.add(cells, item.attack)
    return table


def knowledge_table(report: Report) -> Table:
    """What each attacker was given, by threat model."""
    columns = (
        ("Attack", False),
        ("Status", False),
        ("Letter", False),
        *((title, False) for title in KNOWLEDGE.values()),
    )
    table = Table("knowledge", "What each attacker was given", columns)
    for attack in report.attacks:
        status = words(attack.status) + (" (yardstick)" if attack.upper_bound else "")
        given = [clip(plain(attack.given[key])) if key in attack.given else MISSING for key in KNOWLEDGE]
        cells: list[Cell | str] = [clip(attack.title, 60), status, clip(attack.threat_model, 20), *given]
        table.add(cells, attack.name)
    return table


def reidentified(sample: SampleResult) -> str:
    """Whether the reconstruction points at its own original, and among how many."""
    if sample.reidentified is None:
        return MISSING
    among = f", among {number(sample.rank_among)}" if sample.rank_among else ""
    among += ", up to near-duplicates" if sample.near_duplicates else ""
    return f"{plain(sample.reidentified)}{among}"


def score_table(report: Report) -> Table:
    """Every reconstruction's metrics beside the best floor."""
    columns = (
        ("Sample", True), ("Attack", False), ("Victim", True), ("Result", False), ("PSNR dB", True),
        ("Best floor dB", True), ("Margin dB", True), ("SSIM", True), ("Best floor", True), ("LPIPS", True),
        ("MSE", True), ("Re-identified", False),
    )  # fmt: skip
    table = Table("scores", "Scores of every reconstruction beside its best floor", columns)
    for attack in report.attacks:
        for result in attack.results:
            for sample in result.samples:
                table.add(
                    _score_cells(table, clip(attack.title, 60), result.victim, sample), attack.name, str(result.victim)
                )
    return table


def _score_cells(table: Table, title: str, victim: int, sample: SampleResult) -> list[Cell | str]:
    floor_psnr, floor_ssim = best_floor(sample, "psnr"), best_floor(sample, "ssim")
    among = reidentified(sample)
    return [
        Cell(str(sample.index), str(sample.index)),
        title,
        Cell(str(victim), str(victim)),
        leak_cell(sample),
        metric(table, sample, "psnr"),
        table.value(floor_psnr, fixed(floor_psnr, 1)),
        table.value(sample.margin, signed(sample.margin, 1), sample.margin_reason),
        metric(table, sample, "ssim"),
        table.value(floor_ssim, fixed(floor_ssim, 3)),
        metric(table, sample, "lpips"),
        metric(table, sample, "mse"),
        table.value(
            None if sample.reidentified is None else int(sample.reidentified), among, sample.reidentified_reason
        ),
    ]


def floor_table(report: Report) -> Table:
    """What scores without any knowledge of the sample; equal rows of several attacks appear once."""
    columns = (("Sample", True), ("Floor", False), ("PSNR dB", True), ("SSIM", True), ("LPIPS", True), ("MSE", True))
    table = Table("floors", "Floors: what scores without knowing the sample", columns)
    seen: set[tuple[int, str, str]] = set()
    for attack in report.attacks:
        for result in attack.results:
            for sample in result.samples:
                for name, floor in sample.floors.items():
                    identity = (sample.index, name, floor.model_dump_json())
                    if identity not in seen:
                        seen.add(identity)
                        table.add(_floor_cells(table, sample.index, name, floor))
    return table


def _floor_cells(table: Table, index: int, name: str, floor: Metrics) -> list[Cell | str]:
    return [
        Cell(str(index), str(index)),
        FLOORS.get(name, words(name)),
        *(metric(table, floor, key) for key in UNITS),
    ]


def run_table(report: Report) -> Table:
    """What each attack did on each victim, without looking at the samples."""
    columns = (
        ("Attack", False), ("Victim", True), ("Seed", True), ("Iterations", True), ("First objective", True),
        ("Last objective", True), ("Match", True), ("Residual", True), ("Worst tensor", False),
        ("Certified", False), ("Time", True),
    )  # fmt: skip
    table = Table("runs", "Runs: how well the attacker's own evidence fits", columns)
    for attack in report.attacks:
        for result in attack.results:
            first, last = _ends([p.objective for p in result.history])
            certified = MISSING if result.certified is None else plain(result.certified)
            cells: list[Cell | str] = [
                clip(attack.title, 60),
                Cell(str(result.victim), str(result.victim)),
                Cell(str(result.seed), str(result.seed)),
                table.value(result.iterations, number(result.iterations)),
                table.value(first, number(first, 4)),
                table.value(last, number(last, 4)),
                table.value(result.match, number(result.match, 3)),
                table.value(result.residual, number(result.residual, 3), result.residual_reason),
                _worst_tensor(table, result),
                table.value(None, certified, result.certified_reason),
                table.value(result.seconds, seconds(result.seconds)),
            ]
            table.add(cells, attack.name, str(result.victim))
    return table


def _worst_tensor(table: Table, result: VictimResult) -> Cell:
    """The tensor whose regenerated gradient differs most."""
    known = {name: value for name, value in result.residuals.items() if value is not None}
    if not known:
        return table.value(None, MISSING, "no residual per tensor: the update was not regenerated tensor by tensor")
    name = max(known, key=lambda n: known[n])
    return Cell(f"{clip(name, 40)} {number(known[name], 2)}", repr(known[name]))


def _ends(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    return (known[0], known[-1]) if known else (None, None)


def class_name(report: Report, label: int | None) -> str:
    """A class index with its name, when there is one."""
    if label is None:
        return MISSING
    names = report.batch.class_names
    return (
        f"{label} ({clip(names[label], 40)})" if 0 <= label < len(names) and names[label] != str(label) else str(label)
    )


def _soft_label(report: Report, soft: list[float] | None) -> str:
    """The classes of a soft label with at least one percent, most likely first."""
    if soft is None:
        return ""
    order = sorted(range(len(soft)), key=lambda k: -soft[k])
    return ": " + ", ".join(f"{class_name(report, k)} {100 * soft[k]:.0f} %" for k in order if soft[k] >= 0.01)


def label_table(report: Report) -> Table:
    """True and inferred labels of every victim."""
    columns = (
        *(("Attack", False), ("Victim", True), ("True labels", False), ("Inferred", False), ("Right", True)),
        ("How it was read", False),
    )
    table = Table("labels", "Labels: what was in the batch, and what the update gave away", columns)
    for attack in report.attacks:
        for result in attack.results:
            labels = result.labels
            right = f"{labels.correct} of {labels.count}"
            cells: list[Cell | str] = [
                clip(attack.title, 60),
                Cell(str(result.victim), str(result.victim)),
                Cell(", ".join(class_name(report, label) for label in labels.true) or MISSING),
                Cell(", ".join(class_name(report, label) for label in labels.inferred) or MISSING),
                Cell(right, str(labels.correct), mark="leak" if labels.correct == labels.count else ""),
                labels.method + _soft_label(report, labels.soft),
            ]
            table.add(cells, attack.name, str(result.victim))
    return table


def rank_table(report: Report) -> Table:
    """Unknowns and constraints per layer."""
    columns = (
        ("Layer", False), ("Kind", False), ("Unknowns", True), ("Gradient", True), ("Weight", True), ("Virtual", True),
        ("Index", True), ("Rank", True), ("Deficit", True), ("Unique", False),
    )  # fmt: skip
    table = Table("rank", "Rank analysis: equations about each layer's input", columns)
    for layer in report.rank.layers:
        table.add(_rank_cells(table, layer))
    return table


def _rank_cells(table: Table, layer: RankLayer) -> list[Cell | str]:
    constraints = layer.constraints
    counts = [layer.unknowns, constraints.gradient, constraints.weight, constraints.virtual, layer.index, layer.rank]
    note = table.note(layer.note) if layer.note else None
    unique = "undecided" if layer.unique is None else "yes" if layer.unique else "no"
    return [
        Cell(clip(layer.name, 80), note=note),
        clip(layer.kind, 60),
        *(table.value(n, number(n).replace("-", "−")) for n in counts),
        table.value(layer.deficit, number(layer.deficit), mark="alert" if layer.deficit else ""),
        Cell(unique, mark="alert" if layer.unique is False else ""),
    ]
