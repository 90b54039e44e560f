"""How much of the rows of a table an update gives away: readers, TabLeak and IG on Adult and German Credit.

    python benchmarks/tables.py exact|search|trained|certified|alarms [--batches N] [--first N] [--data adult|german]
        [--attack lp]

*exact*: the first-layer reader, SPEAR and the linear-programming reader on an untrained FC 100-100-2 of ReLU units.
*search*: TabLeak and IG, the same steps and starts, against the floors. *trained*: the same after 1,000 steps of SGD.
*certified*: whether a row that the linear-programming reader certifies ever has a wrong cell. *alarms*: whole scans
whose update comes from other rows than those that are scored. Every batch has a network and a file of 200 rows of its
own; each line is a row of `benchmarks/results/tables.md`. Needs ``tables/`` in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
from false_alarms import mismatched
from tabular import Data, adult, german, network, target, trained

import leakaudit
from leakaudit.attacks.base import Attack
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.linear import LinearReader
from leakaudit.attacks.linear_program import LinearProgram
from leakaudit.attacks.spear import Spear
from leakaudit.attacks.tableak import TabLeak, TabLeakSettings
from leakaudit.audit.memory import Memory
from leakaudit.audit.victim import Knowledge, Outcome, attack_victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.errors import UpdateError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import SilentMonitor
from leakaudit.scoring.table import RowScore, TableMeasure
from leakaudit.target.target import Target

FILE, STEPS, STARTS = 200, 1500, 8
SETS: dict[str, Callable[[], Data]] = {"adult": adult, "german": german}
HEADER = (
    "| data | batch | attack | batches | cells right | best floor | rows whole | certified | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def drawn(data: Data, seed: int, part: int = 0) -> Batch:
    """The batch file of one victim; other parts of one seed have other rows."""
    order = torch.randperm(len(data.values), generator=torch.Generator().manual_seed(seed))
    return data.batch(order[part * FILE : (part + 1) * FILE].tolist())


@dataclass
class Row:
    """What several batches gave."""

    cells: float = 0.0
    floor: float = 0.0
    whole: int = 0
    rows: int = 0
    certified: int = 0
    batches: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome, seconds: float) -> None:
        """One more batch."""
        scores = [score for score in outcome.scores if isinstance(score, RowScore)]
        self.cells += sum(score.match.cell_accuracy for score in scores)
        self.floor += max(sum(s.floors[n].cell_accuracy for s in scores) for n in scores[0].floors)
        self.whole += sum(score.match.row_exact == 1 for score in scores)
        self.rows += len(scores)
        self.certified += outcome.certified
        self.batches, self.seconds = self.batches + 1, self.seconds + seconds

    def line(self, *first: object) -> str:
        """As a row of the page."""
        facts = (
            f"{self.cells / self.rows:.1%}", f"{self.floor / self.rows:.1%}", f"{self.whole} of {self.rows}",
            f"{self.certified} of {self.batches}", f"{self.seconds / self.batches:.1f}",
        )  # fmt: skip
        return "| " + " | ".join(map(str, (*first, self.batches, *facts))) + " |"


def attacked(data: Data, model: Target, attack: Attack, size: int, seed: int) -> tuple[Outcome, float] | None:
    """One attack on one batch; ``None`` where it does not apply."""
    file = drawn(data, seed)
    protocol = FedSGD(size, model.mode)
    victim = observe_victim(model, file.subset(range(size)), protocol, data.table, Knowledge(), 0)
    if attack.refusal(*victim.attacked_by(attack, model)) is not None:
        return None
    started = time.perf_counter()
    found = attack_victim(attack, model, victim, TableMeasure(file, data.table), 0, SilentMonitor(), Memory(None))
    return found, time.perf_counter() - started


def measured(name: str, data: Data, attack: Attack, size: int, seeds: range, steps: int = 0) -> None:
    """One line of the page."""
    row = Row()
    for seed in seeds:
        module = network(data, seed)
        found = attacked(data, target(data, trained(data, module, steps) if steps else module), attack, size, seed)
        if found is not None:
            row.add(*found)
    if row.batches:
        click.echo(row.line(name, size, attack.title))


def searches() -> list[Attack]:
    """TabLeak, and IG with its steps and starts."""
    common: dict[str, Any] = {"iterations": STEPS, "restarts": STARTS, "execution": "traced"}
    return [TabLeak(TabLeakSettings(**common)), IG(IGSettings(tv_weight=0.0, learning_rate=0.06, **common))]


def certified(name: str, data: Data, seeds: range) -> None:
    """Rows that are certified, and those of them with a wrong cell or a wrong category."""
    rows = wrong = 0
    category = [column.kind == "category" for column in data.table.columns]
    for seed in seeds:
        size = (4, 8, 12, 16, 20)[seed % 5]
        found = attacked(
            data, target(data, network(data, seed)), LinearProgram(LinearProgram.presets["quick"]), size, seed
        )
        assert found is not None
        confirmed = int(found[0].reconstruction.notes[0].split()[0])
        for score in found[0].scores:
            assert isinstance(score, RowScore)
            if score.reconstruction < confirmed:
                rows += 1
                wrong += not all(right for right, kind in zip(score.right, category, strict=True) if kind)
    click.echo(
        f"{name}: {rows} rows certified in {len(seeds)} batches of 4 to 20, {wrong} of them with a wrong category"
    )


def alarms(name: str, data: Data, seeds: range) -> None:
    """Scans whose update is of other rows than those that reconstructions are scored against.

    Of every eight, four have a recorded update and a file of the batch alone, and four a file of `FILE` rows.
    """
    verdicts: dict[str, int] = {}
    for seed in seeds:
        file, other = drawn(data, seed), drawn(data, seed, 1)
        size = (1, 4, 8, 16)[seed % 4]
        settings = {"tableak": {"iterations": "200"}, "ig": {"iterations": "200"}}
        common: dict[str, Any] = {"batch_size": size, "seed": seed, "preset": "quick", "settings": settings}
        audited = target(data, network(data, seed))
        try:
            if seed // 4 % 2:
                with mismatched(other.images, other.labels):
                    report = leakaudit.scan(audited, file, victims=1, **common)
            else:
                sent = observe(audited, other.subset(range(size)), FedSGD(size), data.table, seed).update
                report = leakaudit.scan(audited, file.subset(range(size)), update=sent, **common)
            found = str(report.verdict.status)
        except UpdateError:
            found = "refused, as it points against the gradient of the rows"
        verdicts[found] = verdicts.get(found, 0) + 1
        click.echo(f"{name} {seed}: {found}", err=True)
    click.echo(f"{name}: {len(seeds)} mismatched scans of batches of 1 to 16: {verdicts}")


@click.command()
@click.argument("part", type=click.Choice(["exact", "search", "trained", "certified", "alarms"]))
@click.option("--data", "names", multiple=True, type=click.Choice(sorted(SETS)))
@click.option("--batches", default=10)
@click.option("--first", default=0, help="Seed of the first batch.")
@click.option("--attack", "only", multiple=True, help="Attacks by name; all of the part by default.")
@click.option("--sizes", default="", help="Batch sizes, as 8,32.")
def main(part: str, names: tuple[str, ...], batches: int, first: int, only: tuple[str, ...], sizes: str) -> None:
    """Measure one part."""
    seeds = range(first, first + batches)
    torch.set_num_threads(1)
    chosen = [int(size) for size in sizes.split(",") if size]
    if part not in ("certified", "alarms"):
        click.echo(HEADER)
    for name in names or SETS:
        data = SETS[name]()
        if part == "exact":
            for size in chosen or (1, 4, 8, 12, 16, 20, 24):
                for kind in (LinearReader, Spear, LinearProgram):
                    if not only or kind.name in only:
                        measured(name, data, kind(kind.presets["standard"]), size, seeds)
        elif part == "certified":
            certified(name, data, seeds)
        elif part == "alarms":
            alarms(name, data, seeds)
        else:
            for size in chosen or (8, 32):
                for attack in searches():
                    if not only or attack.name in only:
                        measured(name, data, attack, size, seeds, 1000 if part == "trained" else 0)


if __name__ == "__main__":
    main()
