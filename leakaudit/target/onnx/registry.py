"""Which function computes an ONNX operator, and from which operator version on.

Own operators come first. For the rest, onnx2torch's registry is asked; a version that it does not know is served by a
version that it knows if `onnx.defs` says that both have the same inputs, outputs and attributes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from onnx import defs

Runner = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """One own implementation.

    Args:
        run: Takes the node's inputs by position and its attributes by keyword.
        since: First operator version that it implements.
        host: Positions of inputs that must be known without running the model (shapes, axes); given as Python numbers
            or nested lists. ``None``: all of them.
        scalars: Whether single numbers may be given as Python numbers.
        outputs: Number of outputs that it returns; 1 stands for the bare tensor.
        layer: Name of the module that runs it, ``""`` for a plain function.
        training: Whether it takes the keyword ``training``.
        count: Whether it takes the keyword ``outputs``, the number of outputs wanted.
    """

    run: Runner
    since: int
    host: frozenset[int] = frozenset()
    scalars: bool = False
    training: bool = False
    count: bool = False

    def unknown_attributes(self, attributes: dict[str, Any]) -> list[str]:
        """Attributes that `run` does not understand."""
        try:
            parameters = inspect.signature(self.run).parameters
        except ValueError:  # a built-in of torch: takes tensors only
            return list(attributes)
        return [name for name in attributes if name not in parameters]


OPERATORS: dict[str, list[Operator]] = {}


def operator(name: str, since: int = 1, **settings: Any) -> Callable[[Runner], Runner]:
    """Register a function as the implementation of operator ``name`` from version ``since`` on."""

    def register(run: Runner) -> Runner:
        OPERATORS.setdefault(name, []).append(Operator(run, since, **settings))
        OPERATORS[name].sort(key=lambda entry: entry.since)
        return run

    return register


def since_version(op_type: str, opset: int, domain: str = "") -> int:
    """The version of the operator that is in force at an opset; the opset itself for unknown operators."""
    try:
        return int(defs.get_schema(op_type, domain=domain, max_inclusive_version=opset).since_version)
    except defs.SchemaError:
        return opset


@lru_cache(maxsize=1)
def _borrowed() -> dict[tuple[str, int], Any]:
    from onnx2torch.node_converters.registry import _CONVERTER_REGISTRY

    return {(key.operation_type, key.version): run for key, run in _CONVERTER_REGISTRY.items() if key.domain == ""}


def find_borrowed(op_type: str, version: int) -> Any | None:
    """onnx2torch's converter for the operator at this version or at one with an identical schema."""
    registry = _borrowed()
    if (op_type, version) in registry:
        return registry[op_type, version]
    known = sorted((v for name, v in registry if name == op_type), key=lambda v: abs(v - version))
    same = [v for v in known if _same_schema(op_type, v, version)]
    return registry[op_type, same[0]] if same else None


@lru_cache(maxsize=512)
def _same_schema(op_type: str, first: int, second: int) -> bool:
    """Whether two versions of an operator differ in nothing but the element types they allow."""
    try:
        return _signature(op_type, first) == _signature(op_type, second)
    except defs.SchemaError:
        return False


def _signature(op_type: str, version: int) -> tuple[Any, ...]:
    schema = defs.get_schema(op_type, domain="", max_inclusive_version=version)
    attributes = sorted(
        (name, str(a.type), a.required, a.default_value.SerializeToString()) for name, a in schema.attributes.items()
    )
    inputs = [(value.name, str(value.option)) for value in schema.inputs]
    return tuple(attributes), tuple(inputs), tuple((v.name, str(v.option)) for v in schema.outputs)
