"""The document itself, ``report.json``, from which every other format can be made again."""

from __future__ import annotations

import json
from typing import Any

from leakaudit.report.formats.base import Format, Rendering


def _render(rendering: Rendering) -> str:
    return rendering.report.to_json()


def _ours(content: bytes) -> bool:
    tool = parsed(content).get("tool")
    return isinstance(tool, dict) and tool.get("name") == "leakaudit"


def parsed(content: bytes) -> dict[str, Any]:
    """The JSON object of a file; empty for anything else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


FORMAT = Format(
    name="json",
    file="report.json",
    title="the document, for programs",
    render=_render,
    default=True,
    pictures=True,
    document=True,
    ours=_ours,
)
