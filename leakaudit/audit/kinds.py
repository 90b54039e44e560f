"""What a parameter of a request may hold: how a value is checked, how it is read from words, and how it is written.

One :class:`Kind` serves the three ways into a request, keywords, the command line and TOML, and the way back to the
words that reproduce it. It knows nothing of the parameter that it belongs to, and imports nothing heavy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

from leakaudit.tasks.loss_text import parse_loss

MOST = 10_000_000
"""Samples, epochs or steps at most; chosen, eight times the samples of ImageNet: places of samples are listed."""
LARGEST_SEED = (1 << 63) - 1
"""The largest, by definition of torch's generators: 64 bits with a sign."""


@dataclass(frozen=True)
class Kind:
    """What a parameter may hold.

    Args:
        metavar: What stands for a value in help texts.
    """

    metavar: str = ""
    several: ClassVar[bool] = False
    """Whether its option is repeated, a word each time."""

    def take(self, value: Any) -> Any:
        """The value as a request holds it.

        Raises:
            ValueError: It cannot be; says what was expected.
        """
        if not isinstance(value, str) or not value:
            raise ValueError("expected a text")
        return value

    def read(self, words: Any) -> Any:
        """The value of a word of the command line, or of several.

        Raises:
            ValueError: As of :meth:`take`.
        """
        return self.take(words)

    def words(self, value: Any) -> list[str]:
        """Words that are read as this value, one for each time that the option is given."""
        return [str(value)]


@dataclass(frozen=True)
class OneOf(Kind):
    """One of some names.

    Args:
        choices: The names.
    """

    choices: tuple[str, ...] = ()

    def take(self, value: Any) -> str:
        """The name."""
        if value not in self.choices:
            raise ValueError(f"expected {', '.join(self.choices[:-1])} or {self.choices[-1]}")
        return str(value)


@dataclass(frozen=True)
class LossOf(Kind):
    """A loss with its settings, see `leakaudit.tasks.loss_text`."""

    def take(self, value: Any) -> str:
        """The text."""
        parse_loss(super().take(value))
        return str(value)


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number.

    Args:
        least: The smallest.
        most: The largest.
    """

    least: int = 0
    most: int = MOST

    def take(self, value: Any) -> int:
        """The number."""
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError("expected a whole number")
        if int(value) < self.least:
            raise ValueError(f"expected at least {self.least}")
        if int(value) > self.most:
            raise ValueError(f"expected at most {self.most}")
        return int(value)


@dataclass(frozen=True)
class Positive(Kind):
    """A number above zero."""

    def take(self, value: Any) -> float:
        """The number."""
        if not _number(value):
            raise ValueError("expected a number")
        if not value > 0:
            raise ValueError("expected more than 0")
        return float(value)


@dataclass(frozen=True)
class NotNegative(Kind):
    """A number from zero."""

    def take(self, value: Any) -> float:
        """The number."""
        if not _number(value):
            raise ValueError("expected a number")
        if not value >= 0:
            raise ValueError("expected 0 or more")
        return float(value)


@dataclass(frozen=True)
class Numbers(Kind):
    """Several numbers, on the command line with commas between them."""

    def take(self, value: Any) -> tuple[float, ...]:
        """The numbers."""
        found = (value,) if _number(value) else _listed(value)
        if found is None or not all(_number(item) for item in found):
            raise ValueError("expected a number or a list of numbers, as [0.5, 0.5, 0.5]")
        return tuple(float(item) for item in found)

    def read(self, words: Any) -> tuple[float, ...]:
        """The numbers of one word."""
        try:
            return self.take([float(part) for part in str(words).split(",")])
        except ValueError as error:
            raise ValueError("expected numbers separated by commas, as 0.5,0.5,0.5") from error

    def words(self, value: Any) -> list[str]:
        """One word."""
        return [",".join(map(repr, value))]


@dataclass(frozen=True)
class Shape(Kind):
    """Sizes of one sample, on the command line ``C,H,W``, ``C,L``, ``C,D,H,W`` or a number of tokens."""

    def take(self, value: Any) -> tuple[int, ...]:
        """The sizes."""
        found = _listed(value)
        whole = found and all(
            isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0 for size in found
        )
        if not found or not whole:
            raise ValueError("expected sizes of one sample, as (3, 224, 224)")
        return tuple(int(size) for size in found)

    def read(self, words: Any) -> tuple[int, ...]:
        """The sizes of one word."""
        parts = str(words).replace("x", ",").split(",")
        parts = ["1", "1", *parts] if len(parts) == 1 else parts
        if not 2 <= len(parts) <= 4 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            raise ValueError(
                "expected channels, height, width as 3,224,224, channels, length as 12,1000, channels, depth, height, "
                "width as 1,32,32,32, or a number of tokens"
            )
        return self.take([int(part) for part in parts])

    def words(self, value: Any) -> list[str]:
        """One word."""
        return [",".join(map(str, value))]


@dataclass(frozen=True)
class Flag(Kind):
    """Yes or no; its option takes no value."""

    def take(self, value: Any) -> bool:
        """Which."""
        if not isinstance(value, bool):
            raise ValueError("expected True or False")
        return value


@dataclass(frozen=True)
class Texts(Kind):
    """Several texts."""

    several: ClassVar[bool] = True

    def take(self, value: Any) -> tuple[str, ...]:
        """The texts; a single one that is not in a list is more likely a mistake than its letters."""
        found = _listed(value)
        if found is None or not all(isinstance(item, str) and item for item in found):
            raise ValueError("expected a list of texts")
        return tuple(found)

    def words(self, value: Any) -> list[str]:
        """One word a text."""
        return list(value)


@dataclass(frozen=True)
class Names(Texts):
    """Several of some names, each as a field; on the command line with dashes.

    Args:
        choices: The names.
    """

    choices: tuple[str, ...] = ()

    def take(self, value: Any) -> tuple[str, ...]:
        """The names, each once, in the order of the choices."""
        found = {text.replace("-", "_") for text in super().take(value)}
        if found - {*self.choices}:
            raise ValueError(f"expected some of {', '.join(self.choices)}")
        return tuple(name for name in self.choices if name in found)

    def words(self, value: Any) -> list[str]:
        """A word a name."""
        return [name.replace("_", "-") for name in value]


@dataclass(frozen=True)
class File(Kind):
    """The path of a file or folder."""

    def take(self, value: Any) -> Path:
        """The path."""
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            raise ValueError("expected a path")
        return Path(value)

    def words(self, value: Any) -> list[str]:
        """One word that is no option."""
        return [path_word(value)]


@dataclass(frozen=True)
class Arrays(File):
    """The path of a file of arrays; or arrays in memory, which only a keyword can say."""

    def take(self, value: Any) -> Any:
        """The path, or the arrays as a value that has a content."""
        if isinstance(value, str | os.PathLike):
            return super().take(value)
        from leakaudit.client.rounds.given import Given

        return value if isinstance(value, Given) else Given.of(value)


@dataclass(frozen=True)
class Files(Kind):
    """Several paths."""

    several: ClassVar[bool] = True

    def take(self, value: Any) -> tuple[Path, ...]:
        """The paths."""
        found = _listed(value)
        if found is None:
            raise ValueError("expected a list of paths")
        return tuple(File().take(item) for item in found)

    def words(self, value: Any) -> list[str]:
        """One word a path."""
        return [path_word(item) for item in value]


@dataclass(frozen=True)
class Chances(Kind):
    """Probabilities by node, on the command line ``NODE=P``."""

    several: ClassVar[bool] = True

    def take(self, value: Any) -> dict[str, float]:
        """The table."""
        fits = isinstance(value, Mapping) and all(
            isinstance(node, str) and node and _number(p) and 0 <= p < 1 for node, p in value.items()
        )
        if not fits:
            raise ValueError("expected probabilities from 0 to below 1 by node, as {'/relu/Relu': 0.5}")
        return {node: float(p) for node, p in value.items()}

    def read(self, words: Any) -> dict[str, float]:
        """The table of several words."""
        found: dict[str, float] = {}
        for word in words:
            node, _, number = str(word).rpartition("=")
            try:
                found |= self.take({node: float(number)})
            except ValueError as error:
                expected = "expected NODE=P with P from 0 to below 1, as /relu/Relu=0.5"
                raise ValueError(f"{word!r}: {expected}") from error
        return found

    def words(self, value: Any) -> list[str]:
        """A word a node."""
        return [f"{node}={p!r}" for node, p in value.items()]


@dataclass(frozen=True)
class Settings(Kind):
    """Settings by attack and name, as text; on the command line ``ATTACK.KEY=VALUE``."""

    several: ClassVar[bool] = True

    def take(self, value: Any) -> dict[str, dict[str, str]]:
        """The table; numbers become text."""
        nested = isinstance(value, Mapping) and all(
            isinstance(attack, str) and isinstance(own, Mapping) and all(map(_setting, own.items()))
            for attack, own in value.items()
        )
        if not nested:
            raise ValueError("expected settings by attack, as {'ig': {'iterations': '600'}}")
        return {attack: {key: str(item) for key, item in own.items()} for attack, own in value.items()}

    def read(self, words: Any) -> dict[str, dict[str, str]]:
        """The table of several words."""
        settings: dict[str, dict[str, str]] = {}
        for word in words:
            name, found, text = str(word).partition("=")
            attack, dot, key = name.partition(".")
            if not (found and dot and attack and key and text):
                raise ValueError(f"{word!r}: expected ATTACK.SETTING=VALUE, as ig.iterations=600")
            settings.setdefault(attack, {})[key] = text
        return settings

    def words(self, value: Any) -> list[str]:
        """A word a setting."""
        return [f"{attack}.{key}={text}" for attack, own in value.items() for key, text in own.items()]


def path_word(path: str | Path) -> str:
    """A path as a word of a command line, which does not begin like an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _setting(item: tuple[Any, Any]) -> bool:
    key, value = item
    return isinstance(key, str) and isinstance(value, str | int | float)


def _listed(value: Any) -> list[Any] | None:
    """The items of a list, an array or alike; ``None`` for a text and for what has no items."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return None
    return list(value)
