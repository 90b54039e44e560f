"""What to write and where: the options of a command that makes a report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from leakaudit.cli.options.packing import packed
from leakaudit.errors import UsageError


class FormatName(click.ParamType):  # type: ignore[type-arg]
    """The name of an installed format of the report; which there are is asked when it is needed."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """All names."""
        from leakaudit.report.formats.registry import format_names

        return f"[{'|'.join(format_names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if there is such a format."""
        from leakaudit.report.formats.registry import format_names

        if value not in format_names():
            self.fail(f"{value!r} is not one of {', '.join(format_names())}.", param, ctx)
        return str(value)


def _evidence(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    in_ci = os.environ.get("CI", "").lower() in ("true", "1")
    return value or ("blurred" if in_ci else "full")


report_options = packed(
    "writing",
    ("out", "formats", "evidence", "template_dir", "pdf_variant"),
    (
        click.option(
            "--out",
            "-o",
            default="leakaudit-report",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Folder for the report.",
        ),
        click.option(
            "--format",
            "-f",
            "formats",
            multiple=True,
            type=FormatName(),
            help="Repeatable; default json, html, pdf, and what other packages write by default.",
        ),
        click.option(
            "--evidence",
            type=click.Choice(("full", "blurred", "none")),
            callback=_evidence,
            help="How private images appear; default full, and blurred where CI=true.",
        ),
        click.option(
            "--template-dir",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Folder whose templates override the bundled ones.",
        ),
        click.option(
            "--pdf-variant",
            type=click.Choice(("pdf/ua-1", "pdf/a-3u")),
            default="pdf/ua-1",
            show_default=True,
            help="Accessible, or for archives with report.json attached.",
        ),
    ),
)


def check_writable(out: Path) -> None:
    """Refuse an impossible ``--out`` before an hour of work; leaves nothing behind.

    Raises:
        UsageError: It is a file, or nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, expected a folder", "choose another folder")
    nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".leakaudit-", dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out {out} is not writable: {reason}", "choose another folder") from error


def write(report: Any, writing: dict[str, Any]) -> list[Path]:
    """Write the report as asked for, and the summary of a GitHub job; warnings go to stderr."""
    import warnings

    from leakaudit.report.write import ReportWarning

    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", ReportWarning)
        written: list[Path] = report.save(
            writing["out"], writing["formats"], writing["template_dir"], writing["pdf_variant"]
        )
    for notice in notices:
        if issubclass(notice.category, ReportWarning):
            click.echo(f"Warning: {notice.message}", err=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append_summary(Path(summary), report)
    return written


@contextmanager
def failure_noted(writing: dict[str, Any], model: Path) -> Iterator[None]:
    """Where an audit fails, the machine-readable formats that were asked for say so; other files stay as they are."""
    try:
        yield
    except (UsageError, click.ClickException):
        raise
    except Exception as error:
        from leakaudit.report.formats.failure import write_failure

        write_failure(writing["out"], writing["formats"], model, error)
        raise


def _append_summary(path: Path, report: Any) -> None:
    from leakaudit.report.formats.markdown import render_markdown

    try:
        with path.open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(render_markdown(report))
    except OSError as error:
        click.echo(f"Warning: no summary in $GITHUB_STEP_SUMMARY ({path}): {error.strerror}", err=True)
