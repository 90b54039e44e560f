"""Which words of a command line, and which options' values, a report may show below ``--evidence full``.

By allow-list: values of options that take numbers, names of attacks, defences and the like. Everything else, such as
files, folders and what nobody listed, becomes a placeholder, so that the command still says what to put where.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence

VALUES = frozenset(
    {
        "attack", "attacks", "batch_size", "batchnorm", "cache", "claim", "claims", "controls", "d", "defence",
        "defences", "device", "distractors_needed", "evidence", "f", "fail_on", "format", "formats", "goal", "grid",
        "input_shape", "layout", "learning_rate", "loss", "lpips_margin", "mean", "mode", "paths", "pdf_variant",
        "preset", "psnr_margin", "resize", "seed", "set", "settings", "share_bn_statistics", "std", "steps", "target",
        "threat_model", "time_budget", "trust", "unknown", "unsafe_pickle", "values", "victims", "workers",
        "weight_decay",
    }
)  # fmt: skip
"""Options whose value is shown, as on the command line and as parameters."""
FLAGS = frozenset({"cache", "no_cache", "debug", "q", "quiet", "resize", "trust", "unsafe_pickle", "v", "verbose"})
"""Options without a value."""
COMMANDS = frozenset({"leakaudit", "defend", "render", "scan"})
_OPTION = re.compile(r"--?[a-z][a-z0-9-]*")


def shown_option(name: str) -> bool:
    """Whether the value of a parameter may be shown."""
    return name in VALUES


def shown_command(words: Sequence[str]) -> list[str]:
    """The words with placeholders for those that may name private data."""
    return list(_words(words))


def _words(words: Sequence[str]) -> Iterator[str]:
    option = ""
    for place, word in enumerate(words):
        if place < 2 and word in COMMANDS:
            yield word
        elif word.startswith("-") and not _number(word):
            option = yield from _option(word)
        else:
            yield _value(option, word)
            option = "" if option in VALUES else option


def _option(word: str) -> Generator[str, None, str]:
    """An option, with the value that stands in the same word; returns its name if a value is still to come."""
    name, equals, value = word.partition("=")
    if not name.startswith("--") and len(name) > 2:  # as -bFILE
        name, equals, value = name[:2], "", word[2:]
        yield name
        yield _value(name[1:], value)
        return ""
    if not _OPTION.fullmatch(name):
        yield "..."
        return ""
    key = name.lstrip("-").replace("-", "_")
    yield f"{name}={_value(key, value)}" if equals else name
    return "" if equals or key in FLAGS else key


def _value(option: str, word: str) -> str:
    """A word after an option, or a placeholder."""
    if option in VALUES and "/" not in word.replace("pdf/", "") and "\\" not in word:
        return word
    return {"": "MODEL", "b": "BATCH", "o": "OUT"}.get(option, option.upper())


def _number(word: str) -> bool:
    try:
        float(word.split(",")[0])
    except ValueError:
        return False
    return True
