"""Own implementations of ONNX operators; importing this package registers them."""

from leakaudit.target.onnx.ops import elementwise, layers, normalize, recurrent, reduce, resize, shapes

__all__ = ["elementwise", "layers", "normalize", "recurrent", "reduce", "resize", "shapes"]
