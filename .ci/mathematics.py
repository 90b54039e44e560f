"""Mathematics of the documentation as MathML, made when it is built, which a browser shows without script or network.

``pymdownx.arithmatex`` finds the formulas between dollars (``$x$``, ``$$x$$``); those of docstrings are made such by
`generated_pages`.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Each formula as MathML in place of what a script would be given."""
    return FORMULA.sub(lambda found: _converted(found[2], found[1] == "div"), html)


def _converted(formula: str, block: bool) -> str:
    return convert(" ".join(unescape(formula).split()), display="block" if block else "inline")
