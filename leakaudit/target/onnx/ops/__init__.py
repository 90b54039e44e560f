"""Own implementations of ONNX operators; importing this package registers them."""

from leakaudit.target.onnx.ops import elementwise, layers, normalize, recurrent, reduce, resize, shapes
from leakaudit.target.onnx.registry import OPERATORS, Operator

__all__ = ["elementwise", "find_own", "layers", "normalize", "recurrent", "reduce", "resize", "shapes"]


def find_own(op_type: str, version: int) -> Operator | None:
    """The own implementation in force at an operator version."""
    candidates = [entry for entry in OPERATORS.get(op_type, []) if entry.since <= version]
    return candidates[-1] if candidates else None
