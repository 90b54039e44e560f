"""The parts of an ONNX model that a torch module is built from.

Every float tensor of the file becomes one of three things: a *parameter* (what the client trains), a *buffer* (running
statistics, masks, normalisation of the input) or a *host value* (shapes, indices, single numbers), which is folded into
the graph. `prepare.py` makes them, `roles.py` decides which is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from onnx import NodeProto

from leakaudit.target.onnx.exporter import Exporter

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Source:
    """The parts of a model.

    Args:
        nodes: What the logits depend on, in order of execution.
        opset: Version of the default operator set.
        input_name: The graph input that takes the samples.
        input_shape: Its shape; ``None`` where a dimension is symbolic.
        output_name: The value that holds the logits.
        parameters: Trainable arrays by ONNX name.
        buffers: Other float arrays by ONNX name.
        host: Integers, booleans and single numbers by name.
        head: Activation that was removed from behind the logits: softmax, logsoftmax, sigmoid or "".
        half: Whether the file's numbers are half precision.
        promoted: Trainable tensors that the file holds as constants.
        excluded: Buffers that look like weights to a reader, with the reason.
        copied: Parameters that the exporter had merged with another of equal value.
        shared: Parameters that feed several nodes.
        outputs: All float outputs of the file.
        integer: Type of the input where it takes integers, such as token ids; ``None`` for real numbers.
        filled: Further inputs that were replaced by constants, with what fills them.
        exporter: What wrote the file.
        scalars: Trainable single numbers, which no layer's place shows to be weights.
        constants: Tensors that are part of the program, not stored beside it.
        trusted: Whether the caller vouches for the file, so that its sizes are not held against its weights.
    """

    nodes: tuple[NodeProto, ...]
    opset: int
    input_name: str
    input_shape: tuple[int | None, ...]
    output_name: str
    parameters: dict[str, Array]
    buffers: dict[str, Array]
    host: dict[str, Array]
    head: str = ""
    half: bool = False
    promoted: tuple[str, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)
    copied: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    integer: Literal["int32", "int64"] | None = None
    filled: dict[str, str] = field(default_factory=dict)
    exporter: Exporter = field(default_factory=Exporter)
    scalars: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()
    trusted: bool = False

    @property
    def weight_bytes(self) -> int:
        """Of all tensors."""
        return sum(value.nbytes for part in (self.parameters, self.buffers, self.host) for value in part.values())

    def let_go(self, name: str) -> None:
        """Keep the size of a parameter or buffer only: its values are the module's from now on."""
        part = self.parameters if name in self.parameters else self.buffers
        part[name] = np.broadcast_to(np.zeros((), part[name].dtype), part[name].shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        """Itself: nothing of it changes while a module runs or its weights do."""
        return self

    @property
    def batch(self) -> int | None:
        """The batch size that the file was exported with, ``None`` if it takes any."""
        return self.input_shape[0]


def node_names(nodes: Sequence[NodeProto]) -> list[str]:
    """A unique name per node: its own, or operator type and position."""
    names: list[str] = []
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        names.append(name)
    return names
