"""``leakaudit sweep``: many audits, and one table of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.cli.options.packing import packed
from leakaudit.cli.options.policy import ENVIRONMENT, threshold_options
from leakaudit.cli.options.report import check_writable, writing_options
from leakaudit.cli.output import say

if TYPE_CHECKING:
    from leakaudit.document.sweep import SweepDocument

POSITIVE = click.FloatRange(min=0, min_open=True)
SOME = click.IntRange(min=1)
running_options = packed(
    "running",
    ("runner", "workers", "threads", "address", "gpus", "cell_time", "cell_memory", "retries", "retry_failed"),
    (
        click.option(
            "--runner",
            type=click.Choice(("here", "processes", "ray")),
            default="processes",
            show_default=True,
            help="Cells in this process one after the other, in processes of this machine, or on Ray.",
        ),
        click.option("--workers", type=SOME, help="Cells at a time; default one for each core."),
        click.option("--threads", type=SOME, help="Cores of each; default the cores divided by the workers."),
        click.option("--address", help="Ray cluster, as auto or ray://head:10001; default one of this machine's own."),
        click.option("--gpus", type=click.FloatRange(min=0), help="Graphics cards of each cell on Ray, or a part."),
        click.option("--cell-time", type=POSITIVE, metavar="SECONDS", help="End a cell that takes longer."),
        click.option("--cell-memory", type=POSITIVE, metavar="GIB", help="End a cell that holds more memory."),
        click.option(
            "--retries",
            type=click.IntRange(min=0),
            default=2,
            show_default=True,
            help="Times that a cell is begun again after its worker died.",
        ),
        click.option("--retry-failed", is_flag=True, help="Try cells again that the store has no report of."),
    ),
)


@click.command(context_settings=ENVIRONMENT)
@click.argument("file", type=click.Path(path_type=Path))
@running_options
@click.option("--store", metavar="FOLDER|URL", help="Where results are kept; default the folder store in --out.")
@click.option("--dry-run", is_flag=True, help="Print the cells and an estimate, and run nothing.")
@click.option("--quiet", "-q", is_flag=True, help="Only the outcome and the report's path.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@writing_options("leakaudit-sweep", "json and html, for each cell", variants=False)
@threshold_options
def sweep(
    file: Path,
    store: str | None,
    dry_run: bool,
    quiet: bool,
    debug: bool,
    running: dict[str, Any],
    writing: dict[str, Any],
    gate: dict[str, Any],
) -> None:
    """Audit every cell of FILE, a grid of models, modes, defences, seeds and any other option of scan.

    Results are kept in the store, so the same command goes on where an interrupted or killed sweep was, and several at
    once share the work.

    \b
    Exit codes: 0 nothing at or above --fail-on in any cell, 1 findings, 2 usage error,
    3 some cell could not be audited, 5 inconclusive, 130 interrupted (a table of what is done is written).
    """
    from leakaudit.sweeps.cells import FORMATS, Presentation
    from leakaudit.sweeps.grid import read_plan

    plan = read_plan(file)
    check_writable(writing["out"])
    shown = Presentation(
        formats=writing["formats"] or FORMATS,
        evidence=writing["evidence"],
        paths=writing["paths"],
        policy=replace(gate["policy"], fail_on=gate["fail_on"]),
    )
    where = store or writing["out"] / "store"
    if dry_run:
        _estimate(plan, shown, where, running)
        return
    _run(plan, shown, where, running, writing, quiet)


def _estimate(plan: Any, shown: Any, store: str | Path, running: dict[str, Any]) -> None:
    """Print what would be run, and how long that takes."""
    from leakaudit.sweeps.estimate import estimate

    for cell in plan.cells:
        say(f"{cell.number:>4}  {cell.title}")
    for line in estimate(plan, shown, store, running["workers"]).lines:
        say(line)


def _run(
    plan: Any, shown: Any, store: str | Path, running: dict[str, Any], writing: dict[str, Any], quiet: bool
) -> None:
    """Run the sweep, write its files, and exit with the documented code."""
    from leakaudit.cli.sweep_progress import SweepTerminal
    from leakaudit.sweeps.run import Running, run_sweep
    from leakaudit.sweeps.runners.base import Limits

    limits = Limits(seconds=running["cell_time"], memory=running["cell_memory"], retries=running["retries"])
    names = ("runner", "workers", "threads", "address")
    asked = Running(
        **{name: running[name] for name in names},
        cards=running["gpus"],
        limits=limits,
        again=running["retry_failed"],
    )
    terminal = SweepTerminal(quiet)
    with terminal.running():
        from leakaudit.api import scan

        found = run_sweep(plan, scan, asked, shown, store, terminal)
        if terminal.interrupted() and not any(cell.report for cell in found.cells):
            raise click.Abort
        terminal.stage("writing the report")
        written = found.save(writing["out"], writing["template_dir"])
    _conclude(found.document)
    for path in written:
        say(f"Report: {path}")
    sys.exit(found.exit_code)


def _conclude(document: SweepDocument) -> None:
    """Print the outcome, and why cells have no report."""
    from leakaudit.report.sweep import headline

    say(f"{headline(document)}.")
    for cell in document.cells:
        if cell.status.unaudited:
            which = f"{cell.model}, {cell.mode}, {cell.defence}"
            say(f"Cell {cell.number} ({which}): {cell.status}, {cell.reason}", err=True)
    failing = sorted({name for cell in document.cells for name in cell.failing})
    if failing:
        say(f"The policy fails {sum(bool(c.failing) for c in document.cells)} cells: {', '.join(failing)}")
    if document.partial:
        say(f"{document.partial}. The same command goes on from here.", err=True)
