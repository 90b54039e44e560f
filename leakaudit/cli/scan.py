"""``leakaudit scan``: the main job."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.cli.options.audit import audit_keywords, audit_options
from leakaudit.cli.options.model import model_options
from leakaudit.cli.options.policy import ENVIRONMENT, judge, load_baseline, policy_options
from leakaudit.cli.options.report import check_writable, failure_noted, refuse_empty, report_options, write
from leakaudit.cli.output import say
from leakaudit.errors import UsageError

if TYPE_CHECKING:
    from leakaudit.document.schema import Report
    from leakaudit.policy.compare import Setup
    from leakaudit.protocols.base import Mode
    from leakaudit.sweep.variants import Variant


class _Scan(click.Command):
    """Lets ``--checkpoints`` take several files, as ``--checkpoints init.onnx early.onnx late.onnx``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        taking = False
        for word in args:
            if word.startswith("-"):
                taking = word == "--checkpoints"
            elif taking and spread[-1] != "--checkpoints":
                spread.append("--checkpoints")
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=_Scan, context_settings=ENVIRONMENT)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--checkpoints",
    multiple=True,
    metavar="FILE...",
    type=click.Path(path_type=Path),
    help="Stages of the training, as init.onnx early.onnx late.onnx, compared in one report; beside MODEL or instead.",
)
@click.option(
    "--batch",
    "-b",
    required=True,
    type=click.Path(path_type=Path),
    help=".npz with inputs and labels, or a folder with one sub-folder of images per class.",
)
@click.option(
    "--defence",
    "defences",
    multiple=True,
    metavar="SPEC",
    help="What clients do to their updates, as clip=1.0,noise=0.01 or prune=0.9; repeatable. See leakaudit defences: "
    "noise is a standard deviation on the mean gradient, multiplier= is Opacus' and Flower's noise multiplier.",
)
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="SPEC",
    help="What clients believe is done to their updates; compared with what they share under --defence. Repeatable.",
)
@click.option(
    "--update",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Update that a real client shared for exactly the samples of --batch: .npz or .safetensors, an array per "
    "trainable tensor. Attacked in place of a computed one, and compared with it and with --defence or --claim.",
)
@audit_options()
@click.option("--quiet", "-q", is_flag=True, help="Only the deciding finding and the report's path.")
@click.option("--verbose", "-v", is_flag=True, help="A line per result.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@report_options
@policy_options
@model_options
def scan(
    model: Path | None,
    checkpoints: tuple[Path, ...],
    batch: Path,
    quiet: bool,
    verbose: bool,
    debug: bool,
    intake: dict[str, Any],
    writing: dict[str, Any],
    gate: dict[str, Any],
    **options: Any,
) -> None:
    """Audit MODEL on a sample batch and write the report.

    \b
    Exit codes: 0 nothing at or above --fail-on, 1 findings, 2 usage error,
    3 could not audit, 5 inconclusive (no working attack could be run),
    130 interrupted (a partial report is written if anything was measured).

    Every option can also be set by LEAKAUDIT_OPTION in the environment, or in leakaudit.toml (see leakaudit init).
    """
    paths = [*([model] if model else []), *checkpoints]
    if not paths:
        raise UsageError("no MODEL and no --checkpoints", "leakaudit scan model.onnx --batch batch.npz")
    for path in paths:
        if not path.exists():
            raise UsageError(f"no such model file: {path}")
    if not batch.exists():
        raise UsageError(f"no such batch file or folder: {batch}", "pass --batch FILE.npz or a folder of images")
    from leakaudit.cli.progress import TerminalObserver

    check_writable(writing["out"])
    baseline = load_baseline(gate, lambda before: _setup(before, intake, options))
    observer = TerminalObserver(-1 if quiet else int(verbose))
    with observer.running(), failure_noted(writing, paths[0], observer):
        observer.stage("starting")
        from leakaudit.api import scan as run
        from leakaudit.document.redact import redact

        command = ["leakaudit", *sys.argv[1:]]
        keywords = audit_keywords(options, writing["evidence"])
        report = run(_variants(paths, intake), batch, observer=observer, command=command, **keywords)
        refuse_empty(report)
        observer.stage("rendering the report")
        report = redact(judge(report, gate, baseline), writing["evidence"])
        written = write(report, writing)
    _conclude(report, written)


def _variants(paths: Sequence[Path], intake: Mapping[str, Any]) -> list[Variant]:
    """Every file in every mode asked for."""
    from leakaudit.sweep.variants import Variant, name_variants
    from leakaudit.target import load

    modes: tuple[Mode, ...] = ("eval", "train") if intake["mode"] == "both" else (intake["mode"],)
    named = name_variants(paths, modes)
    return [Variant(label, partial(load, path, **{**intake, "mode": mode})) for label, path, mode in named]


def _setup(before: Report, intake: Mapping[str, Any], options: Mapping[str, Any]) -> Setup:
    """What the options say of the audit to come; of a recorded update, the size of its batch is that of the file."""
    from leakaudit.defences.spec import parse_defences
    from leakaudit.policy.compare import Setup

    return Setup(
        mode=("eval", "train") if intake["mode"] == "both" else (intake["mode"],),
        batch_size=before.batch.batch_size if options["update"] else options["batch_size"],
        defences=tuple(str(defence) for defence in parse_defences(options["defences"])),
        threat_model=options["threat_model"],
    )


def _conclude(report: Report, written: list[Path]) -> None:
    """Print the deciding finding and the paths, and exit with the documented code."""
    failing = [finding for finding in report.findings if finding.fails]
    shown = (failing or report.findings)[:1]
    say(f"{report.verdict.status}: {report.verdict.headline}")
    if any(defence.accounting or defence.withheld for defence in report.defences):
        say(f"At most: {report.verdict.at_most}")
    for finding in shown:
        say(f"{finding.id} [{finding.severity}, {finding.confidence}] {finding.message}")
    expired = report.policy.suppressions if report.policy else []
    for entry in (s for s in expired if s.state == "expired"):
        say(f"Expired: the suppression of {entry.rule} ended on {entry.expires}: {entry.reason}")
    for path in written:
        say(f"Report: {path}")
    if report.partial:
        sys.exit(130)
    if failing:
        sys.exit(1)
    sys.exit(5 if report.verdict.inconclusive else 0)
