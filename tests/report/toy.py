"""A format of a plug-in, in one file: the verdict as one line of text."""

from __future__ import annotations

from leakaudit import Format
from leakaudit.report.formats.base import Rendering


def render(rendering: Rendering) -> str:
    return f"{rendering.report.verdict.status}\n"


def failed(model: str, message: str) -> str:
    return f"{model}: {message}"


FORMAT = Format(name="plain", file="report.txt", title="the verdict", render=render, default=True, failure=failed)
