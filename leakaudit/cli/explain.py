"""``leakaudit explain``: what a finding means and what to do about it."""

from __future__ import annotations

import click

from leakaudit.cli.output import Terminal


@click.command()
@click.argument("identifier", required=False, metavar="[ID]")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def explain(identifier: str | None, debug: bool) -> None:
    """Explain the finding ID, as LA201, or list all of them."""
    from leakaudit.findings import RULES, rule_named

    terminal = Terminal()
    if identifier is None:
        for known in sorted(RULES):
            terminal.line(f"{known}  {RULES[known].title}")
        return
    found = rule_named(identifier)
    terminal.line("", head=f"{found.id}  {found.title}")
    worst = f"at worst {found.worst}" if found.worst != "none" else "a note, never a finding by itself"
    terminal.paragraph(f"Severity: {worst}", after=1)
    for paragraph in found.page.split("\n\n"):
        terminal.paragraph(" ".join(paragraph.split()), after=1)
    terminal.paragraph(f"What to do: {found.remedy}")
