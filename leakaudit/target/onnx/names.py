"""ONNX tensor names as torch parameter names, exactly where torch allows it, reversibly otherwise.

A parameter ``conv1.weight`` lives in a submodule ``conv1`` under the name ``weight``, so that `named_parameters` gives
back the ONNX name. Where torch forbids that (an empty component, a component that is already an attribute of
`torch.nn.Module`, a name that is also the prefix of another), the offending character is percent-encoded;
`onnx_name` is always the inverse.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from torch import nn

_RESERVED = frozenset(dir(nn.Module()))
_TOP = frozenset(
    {
        "source",
        "program",
        "leakaudit_dropout",
        "_order",
        "_torch_names",
        "_slots",
        "_dropouts",
        "_programs",
        "batch_statistics",
    }
)
"""Attributes of the module itself, which only the first component can meet."""


def onnx_name(torch_name: str) -> str:
    """The ONNX name behind a torch parameter name."""
    return unquote(torch_name)


def torch_names(names: Iterable[str]) -> dict[str, str]:
    """Map ONNX names to torch parameter names; equal wherever torch allows it."""
    chosen: dict[str, str] = {}
    leaves: set[str] = set()
    for name in sorted(set(names), key=lambda n: (n.count("."), n)):
        encoded = _encode(name)
        while any(prefix in leaves for prefix in _prefixes(encoded)):
            head, _, tail = encoded.rpartition(".")
            encoded = f"{head}%2E{tail}"
        leaves.add(encoded)
        chosen[name] = encoded
    return chosen


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _encode(name: str) -> str:
    """Percent-encode what cannot be a component of a torch name."""
    escaped = name.replace("%", "%25")
    if "" in escaped.split("."):
        escaped = escaped.replace(".", "%2E") or "%00"
    return ".".join(_component(part, index == 0) for index, part in enumerate(escaped.split(".")))


def _component(part: str, top: bool) -> str:
    return f"%{ord(part[0]):02X}{part[1:]}" if part in _RESERVED or (top and part in _TOP) else part
