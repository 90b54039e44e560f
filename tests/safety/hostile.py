"""Text that would command a terminal or a log, and the check that it does not."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import strategies as st

INVISIBLE = {*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x061C, 0xFEFF, 0xAD, 0x180E}
PARTS = (
    *("::", ":", "#", "##[", "##vso[", "error", "::error::pwned", "::stop-commands::x", "##[error]", "[red]", "[/]"),
    *(
        " ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\x00",
        "\x07",
        "\x08",
        "\x0b",
        "\x0c",
        "\x1b",
        "\x1b[31m",
        "\x1b]8;;file:///\x07",
    ),
    *("\x1b]0;t\x1b\\", "\x7f", "\x85", "\x9b31m", "\x9d", "\xa0", "\xad", "\u061c", "\u180e", "\u200b", "\u200d"),
    *("\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2060", "\u2066", "\u2069", "\ufeff", "\ufffe"),
    *("\U000e0041", "conv", "é", "層", "\\"),
)
hostile_text = st.lists(st.one_of(st.sampled_from(PARTS), st.characters()), max_size=12).map("".join)


def check_lines(text: str) -> None:
    """No line of a log is a workflow command, and no character does more than stand there."""
    for line in text.split("\n"):
        assert not line.lstrip().startswith("::"), repr(line)
        assert not re.search(r"##\w*\[", line), repr(line)
        bad = [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or ord(c) in INVISIBLE]
        assert not bad, repr(line)
