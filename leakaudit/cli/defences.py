"""``leakaudit defences``: what clients can be audited with."""

from __future__ import annotations

import dataclasses

import click


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def defences(debug: bool) -> None:
    """List the defences, how to write them, and what an attacker who knows them does."""
    from rich.console import Console

    from leakaudit.attacks.registry import available
    from leakaudit.defences.registry import keys_of
    from leakaudit.observation import HANDED

    console = Console(highlight=False)
    for kind, leading in keys_of().items():
        keys = ", ".join(
            f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in dataclasses.fields(kind)
        )
        console.print(f"[bold]{' '.join(leading)}[/bold]  {kind.title}", soft_wrap=True)
        console.print(f"    settings          {keys or 'none'}", soft_wrap=True)
        console.print(f"    adaptive attack   {kind.adaptive}", soft_wrap=True)
        known = (kind.name, HANDED) if kind.has_counterpart() else (kind.name,)
        through = [name for name, attack in available().items() if set(known) & set(attack.adapts)]
        console.print(f"    attacks through   {', '.join(through) or 'none'}", soft_wrap=True)
        console.print(f"    reference         {kind.reference}", soft_wrap=True)
