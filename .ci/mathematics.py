"""Mathematics of the documentation as MathML, made when it is built, which a browser shows without script or network.

Between dollars in a page (``$x$``, ``$$x$$``), and in docstrings of generated pages as in reStructuredText. Formulas
are taken out before Markdown is read, which would change them, and put back into the finished page.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any

from latex2mathml.converter import convert

CODE = r"```.*?^ *```|`[^`\n]*`|^ {4}[^\n]*$"
FORMULA = re.compile(
    rf"(?P<code>{CODE})|\$\$(?P<block>.+?)\$\$|(?<![\w$])\$(?P<inline>[^$\s](?:[^$\n]*[^$\s])?)\$(?!\w)",
    re.DOTALL | re.M,
)
PLACE = "\u2060{page}\u2060{number}\u2060"
_found: dict[str, str] = {}
_numbers = count()


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Take the formulas out."""

    def placed(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        block = found["block"] is not None
        place = PLACE.format(page=page.file.src_uri, number=next(_numbers))
        _found[place] = convert(
            " ".join((found["block"] or found["inline"]).split()), display="block" if block else "inline"
        )
        return f"\n\n{place}\n\n" if block else place

    return FORMULA.sub(placed, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put them back."""
    own = [place for place in _found if place in html]
    for place in own:
        html = html.replace(f"<p>{place}</p>", _found[place]).replace(place, _found.pop(place))
    return html
