"""``leakaudit compare``: what changed between two reports."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leakaudit.cli.output import say


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def compare(before: Path, after: Path, debug: bool) -> None:
    """Compare the report.json AFTER with the one BEFORE, finding by finding.

    \b
    Exit codes: 0 nothing is new or worse, 1 something is, 2 not two reports.
    """
    from leakaudit.document.schema import Report
    from leakaudit.policy.compare import compare_findings, differences, gone

    old, new = Report.load(before), Report.load(after)
    say(f"before  {old.verdict.status}: {old.verdict.headline}")
    say(f"after   {new.verdict.status}: {new.verdict.headline}")
    for line in differences(old, new):
        say(f"differs {line}")
    titles = {finding.id: finding.title for finding in (*old.findings, *new.findings)}
    changes = [*compare_findings(old.findings, new.findings), *gone(old.findings, new.findings)]
    for change in changes:
        say(f"{change.kind:<7} {change.id} {titles[change.id]}: {change.detail}")
    if not changes:
        say("Neither report has a finding.")
    sys.exit(1 if any(change.kind in ("new", "worse") for change in changes) else 0)
