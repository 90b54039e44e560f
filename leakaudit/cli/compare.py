"""``leakaudit compare``: what changed between two reports."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leakaudit.cli.output import say


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--allow-different", is_flag=True, help="Also where protocol, defences or threat model differ.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def compare(before: Path, after: Path, allow_different: bool, debug: bool) -> None:
    """Compare the report.json AFTER with the one BEFORE, finding by finding.

    \b
    Exit codes: 0 nothing is new or worse, 1 something is, 2 not two reports
    or reports of different protocols, defences or threat models.
    """
    from leakaudit.document.schema import Report
    from leakaudit.policy.compare import Setup, compare_findings, differences, gone, refuse_different

    old, new = Report.load(before), Report.load(after)
    if not allow_different:
        refuse_different(Setup.of(old), Setup.of(new))
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
