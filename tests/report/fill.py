"""A document whose every text, number and image is unique, so that each can be looked for wherever it may turn up."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from itertools import count
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel

from leakaudit.document.disclosure import disclosure_of
from leakaudit.document.schema import Report
from tests.report.builder import png


@dataclass
class Filled:
    """A document and what stands in its private fields, by the field's name."""

    report: Report
    private: dict[str, list[str]]


@dataclass
class Filler:
    """Fills models field by field."""

    private: dict[str, list[str]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(700_000_001, 7))

    def model(self, kind: type[BaseModel], depth: int = 0) -> BaseModel:
        """An instance in which nothing is left at its default."""
        return kind.model_validate({n: self.field(kind, n, depth) for n in kind.model_fields})

    def field(self, kind: type[BaseModel], name: str, depth: int) -> Any:
        described = kind.model_fields[name]
        fixed = {"schema_version": 1, "evidence": "full", "created": "2026-01-02T03:04:05+00:00", "partial": ""}
        if kind is Report and name in fixed:
            return fixed[name]
        where = f"{kind.__name__}.{name}"
        hidden = disclosure_of(described).kind not in ("public", "file name")
        value = self.value(described.annotation, name, depth)
        if hidden:
            self.private.setdefault(where, []).extend(_leaves(value))
        return value

    def value(self, kind: Any, name: str, depth: int) -> Any:
        """A value of a type; of unions the first member that is not None."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self.value(next(a for a in args if a is not type(None)), name, depth)
        if origin is Literal:
            return "run" if "run" in args else next(a for a in args if a)
        if origin is list:
            return [self.value(args[0], name, depth + 1) for _ in range(2 if name.endswith("interval") else 1)]
        if origin is dict:
            key = 7 if args[0] is int else f"key{next(self.numbers)}"
            return {key: self.value(args[1], name, depth + 1)}
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return self.model(kind, depth + 1)
        if is_dataclass(kind):
            return {n: self.value(t, n, depth + 1) for n, t in get_type_hints(kind).items()}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return next(iter(kind)).value
        return self.plain(kind, name)

    def plain(self, kind: Any, name: str) -> Any:
        if name.endswith("_png"):
            return png(np.random.default_rng(next(self.numbers)).random((20, 20, 3)))
        number = next(self.numbers)
        if kind is bool:
            return True
        if kind is int:
            return number
        return float(number) if kind is float else f"canary{number}"


def _leaves(value: Any) -> list[str]:
    """Everything in a value, as it is written."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [str(value).partition("base64,")[2] or str(value)]


def filled() -> Filled:
    """A whole report."""
    filler = Filler()
    report = filler.model(Report)
    assert isinstance(report, Report)
    return Filled(report, filler.private)
