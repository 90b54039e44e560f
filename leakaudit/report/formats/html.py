"""The HTML view: one self-contained file that loads nothing, runs without JavaScript, and trusts no name in it.

Autoescape is on, an undefined name in a template is an error, and a content security policy allows the page's own
style sheet and script by their hash and images from ``data:`` only.

Templates are rendered in Jinja's sandbox, the bundled ones too: they read what they are given and reach no private
attribute, and the only functions that they can call are macros, Jinja's own, and methods of texts, lists and the like.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import (
    BaseLoader,
    BytecodeCache,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
    pass_eval_context,
)
from jinja2.bccache import Bucket
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from markupsafe import Markup, escape

from leakaudit.document.carried import embed
from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.report.formats.base import HEAD, Format, Rendering
from leakaudit.report.views.view import build_view
from leakaudit.report.wording import clip
from leakaudit.safety.text import clean

Medium = Literal["screen", "pdf"]
SKELETON = "report.html.j2"


def bundled_templates() -> Path:
    """The folder of the templates: inside the installed package, or at the top of a source tree."""
    package = Path(__file__).resolve().parents[2]
    folders = (package / "report_templates", package.parent / "report_templates")
    for folder in folders:
        if (folder / SKELETON).is_file():
            return folder
    raise UsageError(f"report templates not found in {folders[0]} or {folders[1]}", "reinstall leakaudit")


def render_html(report: Report, template_dir: Path | None = None, medium: Medium = "screen") -> str:
    """Render a report as one HTML page.

    Args:
        report: The document.
        template_dir: Folder whose templates replace bundled ones of the same name; they reach the bundled ones as
            ``bundled/NAME``.
        medium: ``pdf`` adds the contents with page numbers and leaves out what only a screen can show.

    Raises:
        UsageError: ``template_dir`` is no folder, or a template in it is wrong or reaches for what it may not.
    """
    return render_view(report, build_view(report), template_dir, medium)


def render_view(
    report: Report, view: Any, template_dir: Path | None, medium: Medium, *, long_cover: bool = False
) -> str:
    """Like :func:`render_html`, with a view that is already built; a long cover goes on where a page ends."""
    environment = make_environment(template_dir)
    if medium == "pdf":
        environment.finalize = _when_printed(_finalize_for_paper)
    try:
        return _rendered(environment, report, view, medium, long_cover)
    except UsageError:
        raise
    except Exception as error:  # a template is a program of the user's; whatever it raises, the way out is the same
        if template_dir is None:
            raise
        raise UsageError(
            f"template in {template_dir} failed: {error or type(error).__name__}",
            "compare it with the bundled template of the same name",
        ) from error


def _rendered(environment: Environment, report: Report, view: Any, medium: Medium, long_cover: bool) -> str:
    style = Markup(source_of(environment, "report.css" if medium == "screen" else "pdf.css", "</style"))
    script = Markup(source_of(environment, "report.js", "</script")) if medium == "screen" else Markup("")
    context = {
        "report": report,
        "view": view,
        "pdf": medium == "pdf",
        "long_cover": long_cover,
        "style": style,
        "script": script,
        "policy": content_policy(style, script),
        "command": command_line(report.command),
    }
    page = environment.get_template(SKELETON).render(context)
    return embed(page, report.to_json()) if medium == "screen" else page


LONGEST_COMMAND = 2000
"""Characters of a command that is printed, at most; chosen."""


def command_line(command: Sequence[str]) -> str:
    """The command as a shell reads it; one that is too long is not shown in part, since it would do something else."""
    line = shlex.join(command)
    if len(line) <= LONGEST_COMMAND:
        return line
    return f"# the command has {len(line):,} characters and stands in report.json, under command"


_TEMPLATES_OWN = (Macro, LoopContext, BlockReference, Cycler, Joiner, Namespace)
_PLAIN = (str, bytes, int, float, list, tuple, dict)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which not even a public method of the report can be called: one of them writes files."""

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether a template may call this: what templates define, Jinja's own functions, methods of plain values."""
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)  # the sandbox wraps str.format
        own = isinstance(obj, _TEMPLATES_OWN) or isinstance(owner, (*_TEMPLATES_OWN, *_PLAIN))
        known = any(obj is function for function in self.globals.values())
        return (own or known) and super().is_safe_callable(obj)


class _Compiled(BytecodeCache):
    """Templates as they are compiled, by their text: a scan renders most of them three times."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """What there is of a template of this text."""
        if (known := self._known.get(bucket.key + bucket.checksum)) is not None:
            bucket.bytecode_from_string(known)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep one."""
        self._known[bucket.key + bucket.checksum] = bucket.bytecode_to_string()


_COMPILED = _Compiled()


def make_environment(template_dir: Path | None = None) -> Environment:
    """Jinja2 with autoescape, no undefined names, and a user's folder before ours."""
    if template_dir is not None and not template_dir.is_dir():
        raise UsageError(f"--template-dir {template_dir} is not a folder", "give the folder that holds your templates")
    bundled = FileSystemLoader(bundled_templates())
    loaders: list[BaseLoader] = [bundled, PrefixLoader({"bundled": bundled})]
    if template_dir is not None:
        loaders.insert(0, FileSystemLoader(template_dir))
    environment = _Sandbox(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_when_printed(_finalize),
        bytecode_cache=_COMPILED,
    )
    environment.filters["clip"] = clip
    environment.filters["verbatim"] = _verbatim
    return environment


def _when_printed(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Applied to all that a template prints, never while it is compiled: what is compiled serves every medium."""

    @pass_eval_context
    def finalize(_: Any, value: Any) -> Any:
        return function(value)

    return finalize


def _finalize(value: Any) -> Any:
    """Every plain string that a template prints is rid of control characters; markup is ours and stays."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_OPTION = re.compile(r"(?<![\w-])--(?=[a-z])")
PIECE, BREAK = 12, "\u200b"
"""Characters of a long name between which a line may end, and what says so; chosen, less than the narrowest column."""
_LONG_NAME = re.compile(r"(?<![^\s\u2060])(?![0-9a-f]{64}\b)[^\s\u2060]{28,}")
"""A word longer than any of ours, for which a table would grow beyond the page; hashes are left, to be copied."""
_ADDRESS = re.compile(r"(data|https?|mailto):\S+")
"""What stands in an attribute, pictures among them: anything between its letters makes it another address."""
JOINED = "-\u2060-\u2060"
"""Two hyphens after which no line ends: an option stays in one piece."""


def _finalize_for_paper(value: Any) -> Any:
    """Like :func:`_finalize`; options are not broken at the end of a line, and long names can be."""
    value = _finalize(value)
    if not isinstance(value, str) or isinstance(value, Markup) or _ADDRESS.fullmatch(value):
        return value
    return _LONG_NAME.sub(_breakable, _OPTION.sub(JOINED, value))


def _breakable(name: re.Match[str]) -> str:
    return BREAK.join(name[0][start : start + PIECE] for start in range(0, len(name[0]), PIECE))


def _verbatim(value: str) -> Markup:
    """Text to be copied, without anything between its letters."""
    return escape(clean(value))


def source_of(environment: Environment, name: str, forbidden: str) -> str:
    """A style sheet or script as it will stand in the page."""
    if environment.loader is None:
        raise TypeError("the environment has no loader")
    text = environment.loader.get_source(environment, name)[0].strip().replace("\r\n", "\n")
    if forbidden in text.lower():
        raise UsageError(f"{name} must not contain {forbidden!r}", "remove it from your template folder's copy")
    return text


def content_policy(style: str, script: str) -> str:
    """A content security policy under which the page can load and run nothing but what is in it."""
    scripts = f"'{_hash(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _render(rendering: Rendering) -> str:
    return render_view(rendering.report, rendering.view, rendering.template_dir, "screen")


def _ours(content: bytes) -> bool:
    return b'<meta name="generator" content="leakaudit ' in content[:HEAD]


FORMAT = Format(
    name="html",
    file="report.html",
    title="one page for people",
    render=_render,
    default=True,
    pictures=True,
    ours=_ours,
)
