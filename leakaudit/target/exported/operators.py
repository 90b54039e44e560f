"""The functions that a ``.pt2`` graph may call: torch's tensor operators and arithmetic on sizes, by exact name.

A name that is not listed here is never looked up, so ``torch.os.system`` is a word and nothing more.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

_NAME = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.([A-Za-z0-9_]+)(?:\.([A-Za-z0-9_]+))?")
_NEVER = re.compile(r"from_file|save|load|set_?|set_data|record_stream|_print|_cslt_\w+|\w*(quantized|packed)\w*")
"""Operators that reach files, foreign memory or packed formats."""
_SIZES: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "eq", "ne", "lt", "le", "gt",
            "ge", "and_", "or_", "not_", "getitem",
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt", "log2", "pow")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_float", "sym_int", "sym_not")},
    "torch.sym_ite": torch.sym_ite,
    "torch._sym_sqrt": math.sqrt,
}  # fmt: skip
"""Arithmetic on sizes, which are plain integers when the program runs."""


def resolve(target: str) -> Callable[..., Any] | None:
    """The function behind a name in a graph, or ``None`` where it is no tensor operator."""
    if target in _SIZES:
        return _SIZES[target]
    match = _NAME.fullmatch(target)
    if match is None or _NEVER.fullmatch(match[2]):
        return None
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    if not isinstance(packet, OpOverloadPacket):
        return None
    overload = getattr(packet, match[3] or "default", None)
    return overload if isinstance(overload, OpOverload) else None
