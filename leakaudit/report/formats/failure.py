"""What the machine-readable formats say when an audit could not be done: an error, never an empty success."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from leakaudit import __version__
from leakaudit.audit.environment import timestamp
from leakaudit.document.paths import shortener
from leakaudit.errors import LeakauditError
from leakaudit.report.formats.sarif import SCHEMA
from leakaudit.report.wording import clip
from leakaudit.report.write import FILES, write_beside
from leakaudit.safety.text import shown


def write_failure(
    directory: Path,
    formats: tuple[str, ...],
    model: Path,
    error: Exception,
    paths: Iterable[str] = (),
    *,
    discreet: bool = False,
) -> list[Path]:
    """Write the formats of these that can say it (SARIF and JUnit); older files of a report stay as they are.

    Args:
        directory: For the report; where it holds one, the sub-folder ``partial`` is written instead.
        formats: Those asked for.
        model: Its file.
        error: What happened.
        paths: Files and folders whose place is not to be said.
        discreet: Leave out messages that may quote samples, as below full evidence.

    Returns:
        The files written.
    """
    message = shown(clip(_message(error, paths, discreet), 900))
    views = {"sarif": failure_sarif(message), "junit": failure_junit(model.name, message)}
    files = {FILES[name]: text.encode() for name, text in views.items() if name in formats}
    return write_beside(directory, files) if files else []


def _message(error: Exception, paths: Iterable[str], discreet: bool) -> str:
    """What may be said of an error, without folders."""
    quoting = error.quotes_samples if isinstance(error, LeakauditError) else True
    if discreet and quoting:
        return error.discreet if isinstance(error, LeakauditError) else type(error).__name__
    text = str(error) or type(error).__name__
    return shortener([*paths, *re.findall(r"(?:[A-Za-z]:)?[/\\][^\s'\":,;]+", text)])(text)


def failure_sarif(message: str) -> str:
    """A run without results whose invocation failed."""
    invocation = {
        "executionSuccessful": False,
        "endTimeUtc": timestamp().replace("+00:00", "Z"),
        "toolExecutionNotifications": [{"level": "error", "message": {"text": message}}],
    }
    driver = {"name": "leakaudit", "version": __version__, "semanticVersion": __version__, "rules": []}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": []}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def failure_junit(model: str, message: str) -> str:
    """One test case that is an error."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"}
    root = Element("testsuites", {"name": "leakaudit", **counts})
    suite = SubElement(root, "testsuite", {"name": "leakaudit.verdict", **counts})
    case = SubElement(
        suite, "testcase", {"classname": "leakaudit.verdict", "name": f"audit of {shown(clip(model, 200))}"}
    )
    SubElement(case, "error", {"type": "could not audit", "message": message})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
