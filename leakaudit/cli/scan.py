"""``leakaudit scan``: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from leakaudit.audit.request import Request
from leakaudit.cli.options.policy import ENVIRONMENT, judge, load_baseline, policy_options
from leakaudit.cli.options.report import (
    check_writable,
    failure_noted,
    report_options,
    spread,
    spreading_options,
    write,
)
from leakaudit.cli.options.request import refuse_absent, request_options, with_cache, with_told
from leakaudit.cli.options.sections import Sectioned
from leakaudit.cli.output import say


class _Scan(Sectioned):
    """Lets ``--checkpoints`` take several files, as ``--checkpoints init.onnx early.onnx late.onnx``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words: list[str] = []
        taking = False
        for word in args:
            if word.startswith("-"):
                taking = word == "--checkpoints"
            elif taking and words[-1] != "--checkpoints":
                words.append("--checkpoints")
            words.append(word)
        return super().parse_args(ctx, words)


@click.command(cls=_Scan, context_settings=ENVIRONMENT)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@request_options()
@click.option(
    "--dry-run",
    is_flag=True,
    allow_from_autoenv=False,
    help="Print the plan with an estimate of its time, and attack nothing.",
)
@click.option("--quiet", "-q", is_flag=True, help="Only the deciding finding and the report's path.")
@click.option("--verbose", "-v", is_flag=True, help="A line when an attack begins, too.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@spreading_options
@report_options
@policy_options
def scan(
    model: Path | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    debug: bool,
    asked: dict[str, Any],
    spreading: dict[str, Any],
    writing: dict[str, Any],
    gate: dict[str, Any],
) -> None:
    """Audit MODEL on a sample batch and write the report.

    \b
    Exit codes: 0 nothing at or above --fail-on, 1 findings, 2 usage error,
    3 could not audit, 5 inconclusive (no working attack could be run),
    130 interrupted (a partial report is written, of labels and rank analysis at least).

    Every option but --dry-run can also be set by LEAKAUDIT_OPTION in the environment, or in leakaudit.toml
    (see leakaudit init).
    """
    request = Request(model=model, **with_cache(with_told(asked), writing["evidence"]))
    refuse_absent(request)
    if dry_run:
        _plan(request, -1 if quiet else int(verbose))
        return
    from leakaudit.cli.conclusion import conclude
    from leakaudit.cli.progress import TerminalObserver

    check_writable(writing["out"])
    baseline = load_baseline(gate, request)
    observer = TerminalObserver(-1 if quiet else int(verbose))
    with observer.running(), failure_noted(writing, request.files[0], observer):
        observer.stage("starting")
        from leakaudit.api import scan as run
        from leakaudit.document.redact import redact

        report = run(request, observer=observer, **spread(spreading))
        observer.stage("rendering the report")
        report = redact(judge(report, gate, baseline), writing["evidence"])
        written = write(report, writing)
    sys.exit(conclude(report, written, brief=quiet))


def _plan(request: Request, verbosity: int) -> None:
    """Print what would be run, and how long that takes.

    Raises:
        click.Abort: The user interrupted.
    """
    from leakaudit.cli.progress import TerminalObserver

    observer = TerminalObserver(verbosity)
    with observer.running():
        observer.stage("starting")
        from leakaudit.api import plans

        found = plans(request, observer=observer)
        if observer.interrupted():
            raise click.Abort
    for plan in found:
        say(*plan.lines)
