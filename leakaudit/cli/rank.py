"""``leakaudit rank``: what the architecture alone gives away; needs no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.audit.request import Request
from leakaudit.cli.options.request import request_options
from leakaudit.cli.options.sections import Sectioned
from leakaudit.cli.output import Terminal, say_json

if TYPE_CHECKING:
    from leakaudit.risk.ranked import LayerRank, RankReport
    from leakaudit.risk.what_if import Variant


@click.command(cls=Sectioned)
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
@request_options(group="intake")
def rank(
    model: Path,
    batch_size: int,
    changes: tuple[str, ...],
    jacobian: bool,
    seed: int,
    form: str,
    debug: bool,
    asked: dict[str, Any],
) -> None:
    """Analyse how much of its input MODEL's shared update determines, layer by layer."""
    from leakaudit.audit.intake import read_model
    from leakaudit.risk.rank import rank_analysis
    from leakaudit.risk.what_if import parse, smallest_changes, what_if

    wanted = tuple(parse(change) for change in changes)
    target = read_model(Request(model=model, **asked))
    report = rank_analysis(target, batch_size=batch_size, jacobian=jacobian, seed=seed)
    variant = what_if(target, wanted, batch_size=batch_size) if wanted else None
    smallest = smallest_changes(target, batch_size=batch_size)
    if form == "json":
        say_json(_document(report, variant, smallest))
    else:
        _text(report, variant, smallest)


def _document(report: RankReport, variant: Variant | None, smallest: tuple[Variant, ...]) -> dict[str, Any]:
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
    return document


def _variant_document(variant: Variant) -> dict[str, Any]:
    return {
        "changes": [str(change) for change in variant.changes],
        "implied": [str(change) for change in variant.implied],
        "cost": variant.cost,
        "rank": variant.report.to_document().model_dump(),
    }


def _text(report: RankReport, variant: Variant | None, smallest: tuple[Variant, ...]) -> None:
    terminal = Terminal()
    _print_report(terminal, report, "Rank analysis")
    if variant is not None:
        _print_report(terminal, variant.report, f"What if {variant.title()}")
    if smallest:
        terminal.line("Smallest changes that leave more of the input open, or close an exact reading:")
        for each in smallest:
            terminal.line(f"  {each.summary()}")


def _print_report(terminal: Terminal, report: RankReport, title: str) -> None:
    notes: dict[str, list[str]] = {}
    for row in report.layers:
        if row.note:
            notes.setdefault(row.note, []).append(row.name)
    headings = ("layer", "x", "gradient", "weight", "virtual", "count", "rank", "deficit", "RA_prop")
    terminal.table(title, headings, [_row(layer) for layer in report.layers])
    for note, names in notes.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        terminal.line(f"  {shown}: {note}")
    for line in report.notes:
        terminal.line(f"  {line}")
    if report.score_reason:
        terminal.line(f"  no score: {report.score_reason}")
    terminal.line(f"{report.level}; risk {report.risk}; score {'-' if report.score is None else report.score}")
    terminal.line("")


def _row(layer: LayerRank) -> tuple[object, ...]:
    numbers = (layer.unknowns, layer.gradient, layer.weight, layer.virtual, layer.index, layer.rank, layer.deficit)
    return (layer.name, *numbers, layer.propagated)
