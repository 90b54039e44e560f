"""ONNX files, recognised by being nothing else: protocol buffers have no mark at their beginning."""

from __future__ import annotations

from pathlib import Path

from leakaudit.target.readers import Asked, Content, Reader
from leakaudit.target.target import Target


def _recognises(content: Content) -> bool:
    return content.members is None


def _read(path: Path, asked: Asked) -> Target:
    from leakaudit.target.onnx.load import from_onnx

    return from_onnx(
        path, asked.output, asked.frozen, asked.image_shape, dict(asked.dropout), asked.mode, asked.trained, asked.trust
    )


READER = Reader(kind="onnx", called="an ONNX model", recognises=_recognises, read=_read, order=90)
