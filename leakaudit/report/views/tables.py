"""The report's tables as data, see `leakaudit.report.views.cells`; metrics are those that the document lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from leakaudit.document.schema import AttackEntry, FindingEntry, RankLayer, Report, SampleResult, VictimResult
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Cell, Metric, Table, class_name, label_row, leak_cell, lowered, reidentified
from leakaudit.report.wording import MISSING, clip, number, plain, seconds, short, words

CONTROLS = {
    "positive": "positive: a network known to leak",
    "negative": "negative: another batch's update",
    "prior_only": "prior only: no update at all",
    "ladder": "ladder: known samples, at more and more local steps",
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


def variant_table(report: Report) -> Table:
    """Checkpoints and modes side by side."""
    card = card_for(report)
    shown = card.leading
    columns = (
        *(("Variant", False), ("Status", False), ("Severity", False), ("Samples leaked", True)),
        *((f"Best {lowered(spec)} {spec.unit}".strip(), True) for spec in shown),
        *(("Labels right", True), ("Architecture risk", False), ("Time", True)),
    )
    table = Table("variants-table", "Variants: the same samples, audited under each", columns)
    for entry in report.variants:
        audited = bool(entry.mode)
        reason = "" if audited else entry.reason or entry.headline
        hit = f"{entry.samples_leaked} of {entry.samples_attacked}" if audited else MISSING
        labels = f"{entry.labels_right} of {entry.labels_total}" if entry.labels_total else MISSING
        scored = [s for a in entry.attacks if not a.upper_bound for r in a.results for s in r.samples]
        cells: list[Cell | str] = [
            clip(entry.label, 80) + (" (shown in full)" if entry.worst else ""),
            Cell(clip(entry.status, 60), mark="leak" if entry.code.leaks else ""),
            entry.severity if audited else MISSING,
            table.value(entry.samples_leaked, hit, reason),
            *(table.metric(spec, card.best_of(scored, spec)) for spec in shown),
            Cell(labels),
            entry.risk if audited else MISSING,
            table.value(entry.seconds, seconds(entry.seconds)) if audited else MISSING,
        ]
        table.add(cells)
    return table


def variant_attack_table(report: Report) -> Table:
    """How far above its floors every attack came under every variant."""
    card = card_for(report)
    spec = card.strength
    audited = [entry for entry in report.variants if entry.mode]
    columns = (("Attack", False), *((clip(entry.label, 40), True) for entry in audited))
    what = "Result" if spec is None else f"Best {lowered(spec)}{' in ' + spec.unit if spec.unit else ''}"
    table = Table("variants-attacks", f"{what} by attack and variant", columns)
    titles = {a.name: a.title for entry in audited for a in entry.attacks if a.results}
    for name, title in titles.items():
        cells: list[Cell | str] = [clip(title, 60)]
        for entry in audited:
            attack = next(a for a in entry.attacks if a.name == name)
            samples = [s for result in attack.results for s in result.samples]
            mark = "leak" if any(s.leaked for s in samples) else ""
            if spec is not None:
                cells.append(table.metric(spec, card.best_of(samples, spec), attack.reason, mark))
        table.add(cells, name)
    return table


def control_table(report: Report) -> Table:
    """The same attacks where the answer is known."""
    known = {name for item in report.controls for name, value in item.numbers.items() if value is not None}
    shown = [spec for spec in card_for(report).leading if spec.name in known]
    columns = (
        *(("Control", False), ("Attack", False), ("Passed", False)),
        *((spec.heading, True) for spec in shown),
        ("What happened", False),
    )
    table = Table("control-table", "Controls: the same attacks where the answer is known", columns)
    for item in report.controls:
        passed = "not run" if item.passed is None else plain(item.passed)
        cells: list[Cell | str] = [
            CONTROLS[item.kind],
            short(item.title or item.attack),
            Cell(passed, mark="alert" if item.passed is False else ""),
            *(table.metric(spec, item.numbers.get(spec.name)) for spec in shown),
            clip(item.detail),
        ]
        table.add(cells, item.attack)
    return table


def knowledge_table(report: Report) -> Table:
    """What each attacker was given, by threat model; those that were given the same have one row."""
    columns = (
        ("Attack", False),
        ("Status", False),
        ("Letter", False),
        *((title, False) for title in KNOWLEDGE.values()),
    )
    table = Table("knowledge", "What each attacker was given", columns)
    together: dict[tuple[str, ...], list[AttackEntry]] = {}
    for attack in (entry for entry in report.attacks if entry.status is RunStatus.RUN):
        status = words(attack.status) + (" (yardstick)" if attack.upper_bound else "")
        given = [clip(plain(attack.given[key])) if key in attack.given else MISSING for key in KNOWLEDGE]
        together.setdefault((status, clip(attack.threat_model, 20), *given), []).append(attack)
    for given_all, attacks in together.items():
        names = Cell("; ".join(short(attack.title) for attack in attacks))
        table.add([names, *given_all], " ".join(attack.name for attack in attacks))
    return table


def minor(finding: FindingEntry) -> bool:
    """Whether a finding gets a row only: it is of low severity, or a note, and does not fail."""
    return finding.severity in ("low", "none") and not finding.fails


def minor_table(report: Report) -> Table:
    """The minor findings, a row each."""
    columns = (("Finding", False), ("Severity", False), ("What was found", False), ("What to do", False))
    table = Table("minor", "Minor findings and notes", columns)
    for finding in filter(minor, report.findings):
        name = f"{clip(finding.id, 40)} {clip(finding.title, 80)}"
        severity = f"{finding.severity}, {finding.confidence}{', suppressed' if finding.suppressed else ''}"
        table.add([name, severity, clip(finding.message, 1000), clip(finding.remedy, 600)])
    return table


def left_table(report: Report) -> Table:
    """The attacks that did not run, with the reason; those that share it have one row."""
    table = Table("left", "Attacks that were not run", (("Attack", False), ("Status", False), ("Why", False)))
    together: dict[tuple[RunStatus, str], list[AttackEntry]] = {}
    for attack in (entry for entry in report.attacks if entry.status is not RunStatus.RUN):
        together.setdefault((attack.status, attack.reason), []).append(attack)
    for (status, reason), attacks in together.items():
        names = "; ".join(clip(attack.title, 60) for attack in attacks)
        table.add([Cell(names), words(status), clip(reason)], " ".join(attack.name for attack in attacks))
    return table


def score_table(report: Report) -> Table:
    """Every reconstruction's metrics, some beside the best floor."""
    card = card_for(report)
    columns: list[tuple[str, bool]] = [("Sample", True), ("Attack", False), ("Victim", True), ("Result", False)]
    specs = [spec for spec in card.specs if spec.title not in card.undefined]
    for spec in specs:
        columns.append((spec.heading, True))
        if spec.beside:
            columns.append((f"Best floor {spec.unit}".strip(), True))
    caption = f"Scores of every {card.thing} beside its best floor"
    table = Table("scores", caption, (*columns, ("Re-identified", False)))
    for attack, result in card.results():
        for sample in result.samples:
            cells = [*_who(attack, result, sample), *_score_cells(table, card, specs, sample)]
            table.add(cells, attack.name, str(result.victim))
    return table


def _who(attack: AttackEntry, result: VictimResult, sample: SampleResult) -> list[Cell | str]:
    """Whose sample by which attack, and whether it leaked."""
    victim, index = str(result.victim), str(sample.index)
    leaked = leak_cell(sample, yardstick=attack.upper_bound)
    return [Cell(index, index), short(attack.title), Cell(victim, victim), leaked]


def _score_cells(table: Table, card: Card, specs: Sequence[Metric], sample: SampleResult) -> list[Cell | str]:
    cells: list[Cell | str] = []
    for spec in specs:
        cells.append(table.metric(spec, card.value(sample, spec), card.reason(sample, spec.name)))
        if spec.beside:
            cells.append(table.metric(spec, card.floor(sample, spec)))
    key = None if sample.reidentified is None else int(sample.reidentified)
    return [*cells, table.value(key, reidentified(sample), sample.reidentified_reason)]


def floor_table(report: Report) -> Table:
    """What scores without any knowledge of the sample; equal rows of several attacks appear once."""
    card = card_for(report)
    specs = [spec for spec in card.specs if spec.floored]
    columns = (("Sample", True), ("Floor", False), *((spec.heading, True) for spec in specs))
    table = Table("floors", "Floors: what scores without knowing the sample", columns)
    seen: set[tuple[int, str, str]] = set()
    for sample in card.samples():
        for name, floor in card.floors(sample).items():
            identity = (sample.index, name, repr(floor))
            if identity not in seen:
                seen.add(identity)
                numbers = [table.metric(spec, floor.get(spec.name)) for spec in specs]
                title = card.floor_titles.get(name, words(name))
                table.add([Cell(str(sample.index), str(sample.index)), title, *numbers])
    return table


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
                short(attack.title),
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


def _soft_label(report: Report, soft: list[float] | None) -> str:
    """The classes of a soft label with at least one percent, most likely first."""
    if soft is None:
        return ""
    order = sorted(range(len(soft)), key=lambda k: -soft[k])
    return ": " + ", ".join(f"{class_name(report, k)} {100 * soft[k]:.0f} %" for k in order if soft[k] >= 0.01)


def _named(report: Report, classes: Sequence[int], rows: Sequence[Sequence[float]] | None) -> str:
    """The labels of a batch: its classes, each as often as it occurs, or its numbers."""
    if classes or not rows:
        times = Counter(classes)
        return ", ".join(_times(class_name(report, label), times[label]) for label in sorted(times)) or MISSING
    return clip("; ".join(label_row(report, row) for row in rows))


def _times(name: str, times: int) -> str:
    """A class as often as it occurs."""
    return name if times == 1 else f"{times} × {name}"


def label_table(report: Report) -> Table:
    """True and inferred labels of every victim; attacks that read the same of it have one row."""
    columns = (
        *(("Attack", False), ("Victim", True), ("True labels", False), ("Inferred", False), ("Right", True)),
        ("How it was read", False),
    )
    table = Table("labels", "Labels: what was in the batch, and what the update gave away", columns)
    together: dict[tuple[Cell, ...], list[AttackEntry]] = {}
    for attack in report.attacks:
        for result in attack.results:
            labels = result.labels
            right = f"assumed, {labels.count}" if labels.assumed else f"{labels.correct} of {labels.count}"
            right = right if labels.known else "not known"
            inferred = MISSING if labels.assumed else _named(report, labels.inferred, labels.inferred_rows)
            whole = labels.known and not labels.assumed and labels.correct == labels.count
            cells = (
                Cell(str(result.victim), str(result.victim)),
                Cell(_named(report, labels.true, labels.rows)),
                Cell(inferred),
                Cell(right, str(labels.correct), mark="leak" if whole else ""),
                Cell(clip(labels.method + _soft_label(report, labels.soft))),
            )
            together.setdefault(cells, []).append(attack)
    for read, attacks in together.items():
        names = Cell("; ".join(short(attack.title) for attack in attacks))
        table.add([names, *read], " ".join(attack.name for attack in attacks), read[0].text)
    return table


def round_table(report: Report) -> Table:
    """Recorded rounds: which client each victim is, and what leaked of it."""
    columns = (
        *(("Victim", True), ("Round", False), ("Client", False), ("Samples", True), ("Scored", False)),
        *(("Leaked", True), ("Weights", False), ("Shared", False)),
    )
    table = Table("rounds", "Recorded rounds, a victim each", columns)
    scored = [(v.victim, s) for a in report.attacks if not a.upper_bound for v in a.results for s in v.samples]
    for entry in report.protocol.rounds:
        leaked = {s.index for victim, s in scored if victim == entry.victim and s.leaked}
        cells: list[Cell | str] = [
            Cell(str(entry.victim), str(entry.victim)),
            clip(entry.round, 40) or MISSING,
            clip(entry.client or entry.label, 60) or MISSING,
            Cell(str(entry.samples), str(entry.samples)),
            "yes" if entry.known else "no: nobody has the samples",
            Cell(f"{len(leaked)} of {entry.samples}", str(len(leaked)), mark="leak" if leaked else "held"),
            "of its own" if entry.own_weights else "the model's",
            entry.kind,
        ]
        table.add(cells, "", str(entry.victim))
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


def _bound(sign: str, layer: RankLayer, value: int | None) -> str:
    """A number, with the sign of a bound where it is one."""
    return f"{sign} {number(value)}" if layer.bound and value is not None else number(value)


def _rank_cells(table: Table, layer: RankLayer) -> list[Cell | str]:
    constraints = layer.constraints
    counts = [layer.unknowns, constraints.gradient, constraints.weight, constraints.virtual, layer.index]
    note = table.note(layer.note) if layer.note else None
    unique = "undecided" if layer.unique is None else "yes" if layer.unique else "no"
    return [
        Cell(clip(layer.name, 80), note=note),
        clip(layer.kind, 60),
        *(table.value(n, number(n).replace("-", "−")) for n in counts),
        table.value(layer.rank, _bound("≤", layer, layer.rank)),
        table.value(layer.deficit, _bound("≥", layer, layer.deficit), mark="alert" if layer.deficit else ""),
        Cell(unique, mark="alert" if layer.unique is False else ""),
    ]
