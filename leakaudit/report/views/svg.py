"""Turn matplotlib's SVG into markup that may stand inline in a page.

What matplotlib writes cannot be inlined as it is: its ``<style>`` would apply to the whole page, its ids repeat from
figure to figure, its ``style`` attributes are refused by a strict content security policy, and it has neither title nor
description. Colours become presentation attributes plus a class each, so that a style sheet can replace them in dark
mode while a renderer without that style sheet (the PDF) still has them.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

_FONT = re.compile(r"^(?P<rest>.*?)(?P<size>[\d.]+)px\s+(?P<family>.+)$")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(markup: str, *, prefix: str, title: str, description: str, classes: dict[str, str]) -> str:
    """Make one figure fit to stand inside an HTML page.

    Args:
        markup: What matplotlib's SVG backend wrote.
        prefix: Unique in the page; put before every id.
        title: Short name, read by screen readers and PDF readers.
        description: What the figure shows, for those who cannot see it.
        classes: Colour (``#rrggbb``) to the name that a style sheet knows it by.
    """
    root = ElementTree.fromstring(markup)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")  # prefixes registered by other libraries must not appear
    root.set("xmlns", SVG)
    _drop(root, {"metadata", "style"})
    for element in root.iter():
        _unstyle(element)
        _rename_ids(element, prefix)
        _classify(element, classes)
    _label(root, prefix, title, description)
    return ElementTree.tostring(root, encoding="unicode")


def _drop(root: ElementTree.Element, names: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in names:
                parent.remove(child)


def _unstyle(element: ElementTree.Element) -> None:
    """Move every declaration of the ``style`` attribute into an attribute of its own."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":
            _font(element, value)
        elif name:
            element.set(name, value)


def _font(element: ElementTree.Element, value: str) -> None:
    """The ``font`` shorthand has no attribute: write size, weight and family instead."""
    if match := _FONT.match(value):
        element.set("font-size", match["size"])
        if weight := match["rest"].strip():
            element.set("font-weight", weight)
        element.set("font-family", match["family"].replace('"', "'"))


def _rename_ids(element: ElementTree.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        if name == "id":
            element.set("id", f"{prefix}-{value}")
        elif name in (f"{{{XLINK}}}href", "href"):
            del element.attrib[name]
            element.set("href", f"#{prefix}-{value.removeprefix('#')}")
        elif "url(#" in value:
            element.set(name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))


def _classify(element: ElementTree.Element, classes: dict[str, str]) -> None:
    names = [f"{paint}-{classes[color]}" for paint in ("fill", "stroke") if (color := element.get(paint)) in classes]
    if element.tag == "text" and element.get("fill") is None:
        names.append("fill-ink")
    if names:
        element.set("class", " ".join(names))


def _label(root: ElementTree.Element, prefix: str, title: str, description: str) -> None:
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("class", "figure")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    for position, (name, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(name, {"id": f"{prefix}-{name}"})
        child.text = text
        root.insert(position, child)
