"""``leakaudit defend``: measure defences and name the cheapest that is enough."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from leakaudit.cli.options.audit import audit_keywords, audit_options
from leakaudit.cli.options.model import model_options
from leakaudit.cli.options.policy import ENVIRONMENT
from leakaudit.cli.options.report import check_writable, failure_noted, refuse_empty, report_options, write
from leakaudit.cli.output import say
from leakaudit.errors import UsageError


@click.command(context_settings=ENVIRONMENT)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--batch", "-b", required=True, type=click.Path(path_type=Path), help="As for leakaudit scan.")
@click.option(
    "--target",
    "goal",
    default="leaked=0",
    show_default=True,
    metavar="GOAL",
    help="What a setting must reach: leaked=0, reidentified=0, or a limit on a metric, as PSNR<15 or accuracy<0.2.",
)
@click.option(
    "--defence",
    "grid",
    multiple=True,
    metavar="SPEC",
    help="A setting to try, as prune=0.99 (see leakaudit defences); repeatable. Default a grid over all.",
)
@click.option(
    "--utility-data",
    type=click.Path(path_type=Path),
    help="Samples to train and evaluate with, as --batch; default those of the batch file.",
)
@click.option("--steps", default=30, show_default=True, type=click.IntRange(1), help="Training steps for the cost.")
@click.option("--learning-rate", default=0.05, show_default=True, type=click.FloatRange(0, min_open=True))
@audit_options(preset="quick")
@click.option("--quiet", "-q", is_flag=True, help="Only the recommendation and the report's path.")
@click.option("--verbose", "-v", is_flag=True, help="A line per result.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@report_options
@model_options
def defend(
    model: Path,
    batch: Path,
    quiet: bool,
    verbose: bool,
    debug: bool,
    intake: dict[str, Any],
    writing: dict[str, Any],
    **options: Any,
) -> None:
    """Attack and train with every setting of a grid of defences, and name the cheapest that meets the goal.

    Finished settings are kept in the cache, so the same command resumes an interrupted sweep.

    \b
    Exit codes: 0 a setting meets the goal, 1 none does, 2 usage error,
    3 could not audit, 130 interrupted (a partial report is written if anything was measured).
    """
    for path, kind in ((model, "model file"), (batch, "batch file or folder")):
        if not path.exists():
            raise UsageError(f"no such {kind}: {path}")
    from leakaudit.cli.progress import TerminalObserver

    check_writable(writing["out"])
    observer = TerminalObserver(-1 if quiet else int(verbose))
    with observer.running(), failure_noted(writing, model, observer):
        observer.stage("starting")
        from leakaudit.api import defend as run
        from leakaudit.document.redact import redact
        from leakaudit.target import load

        command = ["leakaudit", *sys.argv[1:]]
        keywords = audit_keywords(options, writing["evidence"])
        observer.stage("loading the model")
        report = run(load(model, **intake), batch, observer=observer, command=command, **keywords)
        refuse_empty(report)
        observer.stage("rendering the report")
        written = write(redact(report, writing["evidence"]), writing)
    say(report.recommendation)
    for path in written:
        say(f"Report: {path}")
    if report.partial:
        sys.exit(130)
    sys.exit(0 if report.trials[0].meets or any(trial.recommended for trial in report.trials) else 1)
