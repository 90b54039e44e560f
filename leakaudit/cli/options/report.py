"""What to write and where: the options of a command that makes a report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leakaudit.cli.options.packing import packed
from leakaudit.cli.output import say
from leakaudit.errors import AuditError, UsageError
from leakaudit.plugins import FORMATS, names

if TYPE_CHECKING:
    from leakaudit.observer import Observer
    from leakaudit.report.saving import Report


Function = TypeVar("Function", bound=Callable[..., Any])
UNWATCHED = ("CI", "PRE_COMMIT")
"""Variables that say that nobody asked for the report at hand: a job of CI, a hook of git that pre-commit runs."""
WITHOUT = "install that, or leave out --format {}"


class FormatName(click.ParamType):  # type: ignore[type-arg]
    """The name of an installed format of the report; which there are is asked when it is needed."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """All names."""
        return f"[{'|'.join(names(FORMATS))}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if there is such a format."""
        if value not in names(FORMATS):
            self.fail(f"{value!r} is not one of {', '.join(names(FORMATS))}.", param, ctx)
        return str(value)


def _usable(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Formats that were asked for, if all can be written here: an hour of audit is too late to learn it."""
    if not values or ctx.resilient_parsing:
        return values
    from leakaudit.report.formats.base import FormatUnavailable
    from leakaudit.report.formats.registry import chosen

    for kind in chosen(values):
        try:
            kind.needs()
        except FormatUnavailable as notice:
            raise UsageError(
                f"--format {kind.name} cannot be written here. {notice}", WITHOUT.format(kind.name)
            ) from notice
    return values


def _evidence(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    unwatched = any(os.environ.get(name, "").lower() in ("true", "1") for name in UNWATCHED)
    return value or ("blurred" if unwatched else "full")


def writing_options(out: str, formats: str, variants: bool = True) -> Callable[[Function], Function]:
    """Options of a command that writes reports, which gets their values as one argument `writing`.

    Args:
        out: The folder by default.
        formats: What is written by default, in words.
        variants: Whether variants of the PDF can be chosen.
    """
    names = ("out", "formats", "evidence", "template_dir", "pdf_variant", "paths")
    options = (
        click.option(
            "--out",
            "-o",
            default=out,
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
            callback=_usable,
            help=f"Repeatable; default {formats}.",
        ),
        click.option(
            "--evidence",
            type=click.Choice(("full", "blurred", "none")),
            callback=_evidence,
            help="What the report shows of private samples; default full, and blurred where CI=true or in "
            "a hook of pre-commit.",
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
            help="Accessible, or for archives.",
        ),
        click.option(
            "--paths",
            type=click.Choice(("short", "full")),
            default="short",
            show_default=True,
            help="Paths in the report: without folders outside the working folder, or as they were given.",
        ),
    )
    kept = [place for place, name in enumerate(names) if variants or name != "pdf_variant"]
    return packed("writing", [names[place] for place in kept], [options[place] for place in kept])


spreading_options = packed(
    "spreading",
    ("workers", "store"),
    (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Audit several at a time (checkpoints, modes, settings of defences) in so many processes, which share "
            "the cores; default one after the other.",
        ),
        click.option(
            "--store",
            metavar="FOLDER|URL",
            help="Keep the report of each, with its reconstructions, where the same command goes on from; see sweep.",
        ),
    ),
)
"""Options of a command whose audits are cells of a sweep."""
report_options = writing_options("leakaudit-report", "json, html, pdf, and what other packages write by default")


def spread(asked: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `leakaudit.scan` and `leakaudit.defend` for the options of :data:`spreading_options`."""
    if asked["workers"] is None:
        return {"store": asked["store"]}
    from leakaudit.sweeps.run import Running

    return {"store": asked["store"], "running": Running(runner="processes", workers=asked["workers"])}


def check_writable(out: Path) -> None:
    """Refuse an impossible ``--out`` before an hour of work; leaves nothing behind.

    Raises:
        UsageError: It is a file, or nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, expected a folder", "choose another folder")
    nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):  # without a name, so that a kill leaves nothing
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out {out} is not writable: {reason}", "choose another folder") from error


def write(report: Any, writing: dict[str, Any]) -> list[Path]:
    """Write the report as asked for, and the summary of a GitHub job; warnings go to stderr."""
    import warnings

    from leakaudit.document.paths import short_paths
    from leakaudit.report.formats.base import ReportWarning

    report = short_paths(report) if writing["paths"] == "short" else report
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", ReportWarning)
        written: list[Path] = report.save(
            writing["out"],
            writing["formats"],
            writing["template_dir"],
            writing["pdf_variant"],
            writing["paths"],
        )
    for notice in notices:
        if issubclass(notice.category, ReportWarning):
            say(f"Warning: {notice.message}", err=True)
    _refuse_missing(writing["formats"], written)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        from leakaudit.report.formats.markdown import render_markdown

        _append_summary(render_markdown(report))
    return written


def _refuse_missing(formats: Sequence[str], written: Sequence[Path]) -> None:
    """End with an error where a format that was asked for is not among the files; the others are complete.

    Raises:
        UsageError: So it is.
    """
    from leakaudit.report.formats.registry import chosen

    names = {path.name for path in written}
    lacking = [kind for kind in chosen(formats) if kind.file not in names] if formats else []
    if lacking:
        raise UsageError(f"{lacking[0].file} was asked for and could not be written", WITHOUT.format(lacking[0].name))


@contextmanager
def failure_noted(writing: dict[str, Any], model: Path, observer: Observer) -> Iterator[None]:
    """Where an audit fails, the machine-readable formats that were asked for say so; other files stay as they are.

    An audit that was interrupted before anything could be audited has not failed: it ends as interrupted.
    """
    try:
        yield
    except (UsageError, click.ClickException, click.Abort):
        raise
    except Exception as error:
        from leakaudit.report.formats.failure import failure_summary, write_failure

        if observer.interrupted() and isinstance(error, AuditError):
            raise click.Abort from error
        discreet = writing["evidence"] != "full"
        for path in write_failure(writing["out"], writing["formats"], model, error, _given(), discreet=discreet):
            say(f"Report of the failure: {path}", err=True)
        _append_summary(failure_summary(model, error, _given(), discreet=discreet))
        raise


def _given() -> list[str]:
    """Every path on the command line, in the environment or in the policy."""
    values = click.get_current_context().params.values()
    paths = (item for value in values for item in (value if isinstance(value, tuple) else (value,)))
    return [str(path) for path in paths if isinstance(path, Path)]


def refuse_empty(report: Report) -> None:
    """End an audit that was interrupted before anything was measured: nothing is written, an older report stays.

    Raises:
        click.Abort: It has no result.
    """
    if report.partial and not report.measured:
        raise click.Abort


def _append_summary(text: str) -> None:
    """Add to the summary of a GitHub job, if this is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
    except OSError as error:
        say(f"Warning: no summary in $GITHUB_STEP_SUMMARY ({path}): {error.strerror}", err=True)
