"""``leakaudit attacks``: what there is and what each needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from leakaudit.cli.output import Terminal


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def attacks(debug: bool) -> None:
    """List the attacks, what each needs, and their presets."""
    from leakaudit.attacks.registry import PRESETS, available

    terminal = Terminal()
    for name, attack in available().items():
        rows = {"threat model": attack.threat_model, "needs": attack.needs, "reference": attack.reference}
        rows |= {"samples": ", ".join(attack.reads), "labels": ", ".join(attack.tasks)}
        rows |= {f"--preset {preset}": _changed(attack.presets[preset]) for preset in PRESETS}
        terminal.line(f"  {attack.title}", head=name)
        for key, value in rows.items():
            terminal.line(f"    {key:<17} {value}")


def _changed(settings: Any) -> str:
    """The settings of a preset that differ from the attack's defaults, as ``--set`` takes them."""
    changed = [
        f"{f.name}={getattr(settings, f.name)}"
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != f.default
    ]
    return ", ".join(changed) or "the defaults"
