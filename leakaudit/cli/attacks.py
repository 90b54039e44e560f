"""``leakaudit attacks``: what there is and what each needs."""

from __future__ import annotations

import click


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def attacks(debug: bool) -> None:
    """List the attacks, what each needs, and their presets."""
    from rich.console import Console

    from leakaudit.attacks.registry import PRESETS, available

    console = Console(highlight=False)
    for name, attack in available().items():
        console.print(f"[bold]{name}[/bold]  {attack.title}")
        console.print(f"    threat model  {attack.threat_model}")
        console.print(f"    needs         {attack.needs}")
        console.print(f"    reference     {attack.reference}")
        for preset in PRESETS:
            console.print(f"    {preset:<13} {attack.presets[preset]}", soft_wrap=True)
