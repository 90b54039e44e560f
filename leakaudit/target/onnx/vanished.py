"""Modules that left nothing in a file: what an export in eval mode removes, seen by the numbers that are missing.

torch's exporters write for every node which modules it came from. Children of a ``Sequential`` are numbered, so one
that did nothing when the file was made, as dropout in eval mode, leaves a gap: ``classifier.0`` before
``classifier.1``. A layer that never does anything (``Identity``) leaves the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise

from onnx import NodeProto

from leakaudit.target.onnx.exporter import scopes
from leakaudit.target.onnx.source import Source

_NUMBER = "[0-9]{1,4}"
"""As far as children of a module are counted: a file may name one of any number."""
_NUMBERED = re.compile(rf"(?:(.*)\.)?({_NUMBER})")
_LEGACY = re.compile(r"/(?:.*/)?[A-Z]\w*")
"""A node's name as torch's exporter through TorchScript writes it: modules, and the operator last."""


def vanished(source: Source) -> tuple[str, ...] | None:
    """Names of numbered modules that left neither a node nor a tensor; ``None`` where the file names no modules."""
    paths = [path for node in source.nodes if (path := _modules(node))]
    if not paths:
        return None
    exporter = source.exporter
    held = {*source.parameters, *source.buffers, *source.host, *exporter.parameters, *exporter.others}
    numbers: dict[tuple[tuple[str, ...], str], set[int]] = defaultdict(set)
    for path in paths:
        for depth, name in enumerate(path):
            if found := _NUMBERED.fullmatch(name):
                numbers[path[:depth], found[1] or ""].add(int(found[2]))
    found_names = []
    for (_, prefix), own in numbers.items():
        present = own | _numbers_in(held, prefix)
        for before, after in pairwise([-1, *sorted(present)]):
            found_names += [f"{prefix}.{number}".lstrip(".") for number in range(before + 1, after)]
    return tuple(dict.fromkeys(found_names))


def _modules(node: NodeProto) -> tuple[str, ...]:
    """The modules that a node came from, the innermost last; nothing where the file does not say."""
    said = scopes(node)
    if said:
        return said[1:]  # the first is the network itself, without a name
    name = node.name
    return tuple(name.split("/")[1:-1]) if _LEGACY.fullmatch(name) else ()


def _numbers_in(names: set[str], prefix: str) -> set[int]:
    """Numbers of the children of a module that hold tensors of these names."""
    begin = f"{prefix}." if prefix else ""
    rest = (name.removeprefix(begin) for name in names if name.startswith(begin))
    return {int(number) for name in rest if re.fullmatch(_NUMBER, number := name.partition(".")[0])}
