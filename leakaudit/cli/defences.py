"""``leakaudit defences``: what clients can be audited with."""

from __future__ import annotations

import dataclasses

import click

from leakaudit.cli.output import Terminal


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def defences(debug: bool) -> None:
    """List the defences, how to write them, and what an attacker who knows them does."""
    from leakaudit.defences.spec import DEFENCES

    terminal = Terminal()
    for kind in dict.fromkeys(DEFENCES.values()):
        keys = ", ".join(
            f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in dataclasses.fields(kind)
        )
        terminal.line(f"  {kind.title}", head=" ".join(k for k, v in DEFENCES.items() if v is kind))
        terminal.line(f"    settings          {keys or 'none'}")
        terminal.line(f"    adaptive attack   {kind.adaptive}")
        terminal.line(f"    reference         {kind.reference}")
