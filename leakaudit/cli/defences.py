"""``leakaudit defences``: what clients can be audited with."""

from __future__ import annotations

import dataclasses

import click

from leakaudit.cli.output import Terminal


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def defences(debug: bool) -> None:
    """List the defences, how to write them, and what an attacker who knows them does."""
    from leakaudit.attacks.registry import available
    from leakaudit.defences.registry import keys_of
    from leakaudit.observation import HANDED

    terminal = Terminal()
    for kind, leading in keys_of().items():
        keys = ", ".join(_written(f) for f in dataclasses.fields(kind))
        known = (kind.name, HANDED) if kind.has_counterpart() else (kind.name,)
        through = [name for name, attack in available().items() if set(known) & set(attack.adapts)]
        terminal.line(f"  {kind.title}", head=" ".join(leading))
        terminal.line(f"    settings          {keys or 'none'}")
        if kind.units:
            terminal.line(f"    units             {kind.units}")
        terminal.line(f"    adaptive attack   {kind.adaptive}")
        terminal.line(f"    attacks through   {', '.join(through) or 'none'}")
        terminal.line(f"    reference         {kind.reference}")


def _written(setting: dataclasses.Field[object]) -> str:
    """A setting as it is written in a defence's text, with its default."""
    name = setting.name.replace("_", "-")
    return name if setting.default is dataclasses.MISSING else f"{name}={setting.default}"
