"""The command line: ``leakaudit scan|attacks|…``. Thin: parse, call, print, exit code.

Exit codes: 0 nothing at or above ``--fail-on``; 1 findings; 2 usage error; 3 could not audit; 5 inconclusive;
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import click

from leakaudit.cli.output import cut_off, guarded, say, say_error
from leakaudit.errors import UsageError, nearest

# Name -> one-line help. Modules are imported when their command runs or its help is asked for.
COMMANDS = {
    "attacks": "List the attacks, and what each needs.",
    "compare": "Compare two reports: what is new, worse, the same, or gone.",
    "defend": "Measure defences on a model and name the cheapest that is enough.",
    "defences": "List the defences that an audit can assume, and the attacker who knows each.",
    "doctor": "Check what this machine has, and what each part enables.",
    "explain": "Explain a finding, as LA201: what it means and what to do.",
    "init": "Write a commented policy file.",
    "inspect": "Show what the auditor sees in a model file.",
    "rank": "Analyse how much of its input the architecture gives away; needs no data.",
    "render": "Write other formats of a report.json.",
    "scan": "Audit a model on a sample batch and write the report.",
    "sweep": "Audit many models, modes, defences and seeds, on one machine or a cluster.",
    "verify": "Check that a report, its model and its batch are what they were.",
}


WRITING = frozenset({"scan", "defend", "render", "init", "sweep"})
"""Commands whose result is in files."""


class _Group(click.Group):
    """Imports a command's module only when it is used, so that ``--help`` stays fast."""

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line; standing alone, it writes safe lines only and ends with the documented code."""
        inherited: Callable[..., Any] = super().main
        run = partial(inherited, args, *more, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        words = sys.argv[1:] if args is None else list(args)
        with guarded():
            code = _exit_code("--debug" in words, run)
            code = _told_of_cuts(code, words)
        sys.exit(code)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The command of a name; one that there is not is named with the nearest that there is."""
        if args and args[0][:1] != "-" and self.get_command(ctx, args[0]) is None:
            hint = nearest(args[0], COMMANDS, "leakaudit --help lists the commands", "'leakaudit {}'")
            raise UsageError(f"no command named {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"leakaudit.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="leakaudit", prog_name="leakaudit")
def cli() -> None:
    """Audit what one shared update of a federated model gives away about its training samples.

    \b
    leakaudit scan model.onnx --batch batch.npz
    """


def main() -> None:
    """Entry point: turns errors into one line, a hint and the documented exit code."""
    _open_streams()
    # Idle OpenMP threads spin by default: on a machine that does anything else, small networks get 20 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli()


def _open_streams() -> None:
    """Open standard streams that the program was started without: the first files would take their place."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _told_of_cuts(code: int, words: Sequence[str]) -> int:
    """The code, or 2 where the command prints its result, and not all of it could be written.

    A reader that has seen enough, as ``head``, is no failure.
    """
    failure = cut_off()
    if failure is None or failure.errno == errno.EPIPE:
        return code
    say(f"Warning: not all lines could be written to standard output: {failure.strerror}", err=True)
    command = next((word for word in words if word in COMMANDS), "")
    return code if command in WRITING else code or 2


def _exit_code(debug: bool, run: Callable[[], object]) -> int:
    """Run the command; an error is a line, a hint and a code, and with ``--debug`` also a traceback."""
    try:
        code = run()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort):
        say("Interrupted; no report was written, and an older one is as it was.", err=True)
        return 130
    except Exception as error:
        if debug and not isinstance(error, click.ClickException):
            say(*traceback.format_exc().splitlines(), err=True)
        return say_error(error)
