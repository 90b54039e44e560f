"""ONNX files as differentiable torch modules whose parameters carry their ONNX names."""

from leakaudit.target.onnx.module import OnnxModule
from leakaudit.target.onnx.read import read_model

__all__ = ["OnnxModule", "read_model"]
