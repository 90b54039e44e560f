"""The document itself, ``report.json``, from which every other format can be made again."""

from __future__ import annotations

from leakaudit.report.formats.base import Format, Rendering


def _render(rendering: Rendering) -> str:
    return rendering.report.to_json()


FORMAT = Format(
    name="json",
    file="report.json",
    title="the document, for programs",
    render=_render,
    default=True,
    pictures=True,
    document=True,
)
