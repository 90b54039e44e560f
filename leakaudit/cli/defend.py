"""``leakaudit defend``: measure defences and name the cheapest that is enough."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from leakaudit.cli.conclusion import conclude_trials as concluded
from leakaudit.cli.options.policy import ENVIRONMENT
from leakaudit.cli.options.report import (
    check_writable,
    failure_noted,
    refuse_empty,
    report_options,
    spread,
    spreading_options,
    write,
)
from leakaudit.cli.options.request import refuse_absent, request_options, with_cache
from leakaudit.cli.options.sections import Sectioned
from leakaudit.sweeps.request import DefendRequest


@click.command(cls=Sectioned, context_settings=ENVIRONMENT)
@click.argument("model", type=click.Path(path_type=Path))
@request_options(DefendRequest)
@click.option("--quiet", "-q", is_flag=True, help="Only the recommendation and the report's path.")
@click.option("--verbose", "-v", is_flag=True, help="A line when an attack begins, too.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@spreading_options
@report_options
def defend(
    model: Path,
    quiet: bool,
    verbose: bool,
    debug: bool,
    asked: dict[str, Any],
    spreading: dict[str, Any],
    writing: dict[str, Any],
) -> None:
    """Attack and train with every setting of a grid of defences, and name the cheapest that meets the goal.

    Finished attacks are kept in the cache, and reports in --store, so the same command resumes an interrupted run.

    \b
    Exit codes: 0 a setting meets the goal, 1 none does, 2 usage error,
    3 could not audit, 130 interrupted (a partial report is written if anything was measured).
    """
    request = DefendRequest(model=model, **with_cache(asked, writing["evidence"]))
    refuse_absent(request)
    from leakaudit.cli.progress import TerminalObserver

    check_writable(writing["out"])
    observer = TerminalObserver(-1 if quiet else int(verbose))
    with observer.running(), failure_noted(writing, model, observer):
        observer.stage("starting")
        from leakaudit.api import defend as run
        from leakaudit.document.redact import redact

        report = run(request, observer=observer, **spread(spreading))
        refuse_empty(report)
        observer.stage("rendering the report")
        written = write(redact(report, writing["evidence"]), writing)
    sys.exit(concluded(report, written, brief=quiet))
