"""``leakaudit verify``: whether a report, its model and its batch are what they were."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leakaudit.cli.output import say
from leakaudit.errors import UsageError

SAID = {True: "ok", False: "DIFFERS", None: "note"}
"""How a line begins, by what was found."""


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="The audited model file.")
@click.option("--batch", type=click.Path(path_type=Path), help="The audited .npz file or folder.")
@click.option("--update", type=click.Path(path_type=Path), help="The recorded update, or folder of rounds.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def verify(report: Path, model: Path | None, batch: Path | None, update: Path | None, debug: bool) -> None:
    """Check the hash that REPORT holds of itself, and those of its model, batch and update if given.

    REPORT is a report.json, or the report.html or report.pdf that carries it; of a page its own hash is checked too.
    A hash shows accidental or careless changes. It is no signature: whoever can write the file can write its hash.

    \b
    Exit codes: 0 all as they were, 2 usage error, 3 something differs.
    """
    from leakaudit.document.verify import check_batch, check_model, check_page, check_self, check_update

    for path in (p for p in (model, batch, update) if p is not None and not p.exists()):
        raise UsageError(f"no such file: {path}")
    checks = [check_self(report), *check_page(report)]
    if model is not None:
        checks.append(check_model(report, model))
    if batch is not None:
        checks.append(check_batch(report, batch))
    if update is not None:
        checks.append(check_update(report, update))
    for check in checks:
        say(f"{SAID[check.holds]:<8}{check.what}: {check.detail}")
    sys.exit(3 if any(check.holds is False for check in checks) else 0)
