"""Names from files, made harmless: what could command a terminal, a CI system or a reader's eye is shown as an escape.

:func:`clean` is for pages, where a new line does no harm; :func:`shown` for lines of a terminal or a log.
"""

from __future__ import annotations

import re
from typing import Any

_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad"  # C0 and C1 controls without tab and new lines; soft hyphen
    "\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, zero width, separators
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"  # surrogates, no characters, tags
)
_LINES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
_COLONS = re.compile(r"():(?=:)")
_LEADING_COLONS = re.compile(r"^(\s*):(?=:)")
_INNER_COMMAND = re.compile(r"##(?=\w*\[)")


def encodable(value: Any) -> Any:
    r"""The value, in texts of which what UTF-8 has no code for is shown as ``\udcff``: bytes of a file's name.

    Lists and dictionaries are looked through; anything else is left as it is.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return [encodable(item) for item in value]
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return value


def clean(text: str) -> str:
    r"""Show control and invisible characters, direction overrides and lone surrogates as ``\x1b`` or ``\u202e``.

    Tabs and new lines stay.
    """
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(text: str, *, wrapped: bool = False) -> str:
    r"""One line of a terminal or a log, in which nothing that a name holds is a command to the terminal or to CI.

    Beyond :func:`clean`, tabs and new lines are shown as ``\t`` and ``\n``. A leading ``::`` is shown as ``:\:``: such
    a line is a workflow command of GitHub, also behind spaces. ``##[``, ``##vso[`` and the like are commands of GitHub
    and Azure anywhere in a line, and are shown as ``#\#[``.

    Args:
        text: The line.
        wrapped: It may be broken anywhere when it is printed, so each ``::`` could come to lead a line.
    """
    flat = _INNER_COMMAND.sub(r"#\\#", clean(text).translate(_LINES))
    return (_COLONS if wrapped else _LEADING_COLONS).sub(r"\1:\\", flat)
