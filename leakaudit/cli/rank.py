"""``leakaudit rank``: what the architecture alone gives away; needs no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.cli.options.model import model_options

if TYPE_CHECKING:
    from leakaudit.risk.rank import RankReport
    from leakaudit.risk.what_if import Variant


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--batch-size", default=1, show_default=True, type=click.IntRange(min=1), help="Samples per update.")
@click.option(
    "--what-if",
    "changes",
    multiple=True,
    metavar="CHANGE=LAYER:VALUE",
    help="Judge a changed model: stride=conv1:2, width=conv1:8, bias=fc1:off, pool=conv1:2. Repeatable.",
)
@click.option(
    "--jacobian/--no-jacobian",
    default=False,
    help="Also measure the map from image to update (RA_J); up to a minute.",
)
@click.option("--seed", default=0, show_default=True, help="Of the random inputs at which ranks are measured.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@model_options
def rank(
    model: Path,
    batch_size: int,
    changes: tuple[str, ...],
    jacobian: bool,
    seed: int,
    form: str,
    debug: bool,
    intake: dict[str, Any],
) -> None:
    """Analyse how much of its input MODEL's shared update determines, layer by layer."""
    from leakaudit.risk.rank import rank_analysis
    from leakaudit.risk.what_if import parse, smallest_changes, what_if
    from leakaudit.target import load

    wanted = tuple(parse(change) for change in changes)
    target = load(model, **intake)
    report = rank_analysis(target, batch_size=batch_size, jacobian=jacobian, seed=seed)
    variant = what_if(target, wanted, batch_size=batch_size) if wanted else None
    smallest = smallest_changes(target, batch_size=batch_size)
    if form == "json":
        click.echo(_json(report, variant, smallest))
    else:
        _text(report, variant, smallest)


def _json(report: RankReport, variant: Variant | None, smallest: tuple[Variant, ...]) -> str:
    import json

    document: dict[str, Any] = {"rank": report.to_document().model_dump()}
    document["propagated"] = [layer.propagated for layer in report.layers]
    document["seconds"] = report.seconds
    if report.spectrum is not None:
        spectrum = report.spectrum
        document["jacobian"] = {
            "unknowns": spectrum.unknowns,
            "rank": spectrum.rank,
            "measured": spectrum.measured,
            "condition": spectrum.condition,
        }
    if variant is not None:
        document["what_if"] = _variant_document(variant)
    document["smallest_changes"] = [_variant_document(v) for v in smallest]
    return json.dumps(document, indent=2)


def _variant_document(variant: Variant) -> dict[str, Any]:
    return {
        "changes": [str(change) for change in variant.changes],
        "implied": [str(change) for change in variant.implied],
        "cost": variant.cost,
        "rank": variant.report.to_document().model_dump(),
    }


def _text(report: RankReport, variant: Variant | None, smallest: tuple[Variant, ...]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    _print_report(console, report, "Rank analysis")
    if variant is not None:
        _print_report(console, variant.report, f"What if {variant.title()}")
    if smallest:
        console.print("Smallest changes that leave more of the image open, or close an exact reading:")
        for each in smallest:
            console.print(f"  {each.summary()}", markup=False, soft_wrap=True)


def _print_report(console: Any, report: RankReport, title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=6)
    for heading in ("x", "gradient", "weight", "virtual", "count", "rank", "deficit", "RA_prop"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    notes: dict[str, list[str]] = {}
    for row in report.layers:
        numbers = (
            row.unknowns,
            row.gradient,
            row.weight,
            row.virtual,
            row.index,
            row.rank,
            row.deficit,
            row.propagated,
        )
        table.add_row(escape(row.name), *("-" if number is None else str(number) for number in numbers))
        if row.note:
            notes.setdefault(row.note, []).append(row.name)
    console.print(table)
    for note, names in notes.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        console.print(f"  {shown}: {note}", markup=False, soft_wrap=True)
    for line in report.notes:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if report.score_reason:
        console.print(f"  no score: {report.score_reason}", markup=False, soft_wrap=True)
    console.print(f"{report.level}; risk {report.risk}; score {'-' if report.score is None else report.score}\n")
