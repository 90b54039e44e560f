"""``leakaudit attacks``: what there is and what each needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import click


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def attacks(debug: bool) -> None:
    """List the attacks, what each needs, and their presets."""
    from rich.console import Console

    from leakaudit.attacks.registry import PRESETS, available

    console = Console(highlight=False)
    for name, attack in available().items():
        rows = {"threat model": attack.threat_model, "needs": attack.needs, "reference": attack.reference}
        rows |= {f"--preset {preset}": _changed(attack.presets[preset]) for preset in PRESETS}
        console.print(f"[bold]{name}[/bold]  {attack.title}", soft_wrap=True)
        for key, value in rows.items():
            console.print(f"    {key:<17} {value}", soft_wrap=True)


def _changed(settings: Any) -> str:
    """The settings of a preset that differ from the attack's defaults, as ``--set`` takes them."""
    changed = [
        f"{f.name}={getattr(settings, f.name)}"
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != f.default
    ]
    return ", ".join(changed) or "the defaults"
