"""An ONNX graph as a torch module: parameters under their ONNX names, one folded program per input shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.target.dropout import Dropout
from leakaudit.target.names import register, torch_names
from leakaudit.target.onnx.read import all_nodes
from leakaudit.target.onnx.source import Source, node_names
from leakaudit.target.onnx.tracer import Tracer
from leakaudit.target.onnx.values import attributes
from leakaudit.target.program import Program

_MAX_PROGRAMS = 16
_TAKEN = frozenset({
    "source", "program", "leakaudit_dropout", "_order", "_torch_names", "_slots", "_dropouts", "_programs",
    "batch_statistics", "_normalises", "returned", "depends_on_mode", "tensors",
})  # fmt: skip
"""Attributes of the module, which no tensor may have for a name."""


class OnnxModule(nn.Module):
    """A differentiable ONNX model.

    ``named_parameters()`` yields the ONNX names (see `names`). ``forward`` takes the file's input (B, …) and returns
    logits (B, K). BatchNorm follows ``training``, dropout too. Twice differentiable.

    Args:
        source: The parts of the model.
        dropout: Probability by node name: dropout put behind nodes of an export that has lost it.
    """

    def __init__(self, source: Source, dropout: dict[str, float] | None = None) -> None:
        super().__init__()
        self.source = source
        tensors = {**source.parameters, **source.buffers}
        self._order = list(tensors)
        self._torch_names = torch_names(self._order, _TAKEN)
        self._slots: list[tuple[nn.Module, str]] = []
        for name in self._order:
            data = torch.from_numpy(np.array(tensors.pop(name), dtype=np.float32))
            source.let_go(name)
            kept = nn.Parameter(data) if name in source.parameters else data
            self._slots.append(register(self, self._torch_names[name], kept))
        self._dropouts = self._make_dropouts(dropout or {})
        self._normalises = any(node.op_type == "BatchNormalization" for node in all_nodes(list(source.nodes)))
        self._programs: dict[Any, Program] = {}
        self.returned: tuple[int, ...] = ()
        """Shape of the file's output for one sample, as last computed; :meth:`forward` flattens it."""
        self.batch_statistics: bool | None = None
        """Whether BatchNorm uses those of the batch; ``None``: as the mode says."""

    def _make_dropouts(self, inserted: dict[str, float]) -> dict[str, Dropout]:
        """A layer per Dropout node of the graph and per node of ``inserted``."""
        producers = {name: node for node in self.source.nodes for name in node.output}
        layers: dict[str, Dropout] = {}
        for node, name in zip(self.source.nodes, node_names(self.source.nodes), strict=True):
            p = inserted.get(name)
            if node.op_type == "Dropout":
                p = self._ratio(node) if p is None else p
            if p is None:
                continue
            before = producers.get(node.input[0]) if node.input else None
            softmax = node.op_type == "Softmax" or (before is not None and before.op_type == "Softmax")
            layers[name] = Dropout(p, "attention" if softmax else "element", name)
        holder = nn.Module()
        for index, layer in enumerate(layers.values()):
            holder.add_module(str(index), layer)
        if layers:
            self.add_module("leakaudit_dropout", holder)
        return layers

    def _ratio(self, node: Any) -> float:
        if "ratio" in attributes(node):
            return float(attributes(node)["ratio"])
        if len(node.input) > 1 and node.input[1] in self.source.host:
            return float(self.source.host[node.input[1]].reshape(-1)[0])
        return 0.5

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the file by their ONNX names."""
        return {name: getattr(holder, leaf) for name, (holder, leaf) in zip(self._order, self._slots, strict=True)}

    @property
    def depends_on_mode(self) -> bool:
        """Whether anything is computed otherwise in train mode: BatchNorm and dropout are all that could be."""
        return self._normalises or bool(self._dropouts)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the file's own input (B, …).

        Raises:
            ModelError: The graph cannot be computed for this shape.
        """
        program = self.program(x)
        result: Tensor = program(x, *[getattr(holder, leaf) for holder, leaf in self._slots])
        return result

    def program(self, x: Tensor) -> Program:
        """The folded program for inputs like ``x``; built once per shape, type, device and mode of BatchNorm."""
        batch_statistics = self.training if self.batch_statistics is None else self.batch_statistics
        dtype = x.dtype if x.is_floating_point() else getattr(*self._slots[0]).dtype
        batch_statistics = batch_statistics and self._normalises
        key = (tuple(x.shape), x.dtype, dtype, x.device, batch_statistics)
        if key not in self._programs:
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            layers: dict[str, nn.Module] = dict(self._dropouts)
            tracer = Tracer(self.source, self._order, layers, x, batch_statistics, dtype)
            self._programs[key] = tracer.build()
            self.returned = tracer.returned
        return self._programs[key]

    def shape_of(self, value: str, x: Tensor) -> tuple[int, ...]:
        """The shape of a value of the graph for one sample of inputs like ``x``.

        Raises:
            ModelError: It is no scores, or cannot be computed.
        """
        source = replace(self.source, output_name=value)
        dtype = getattr(*self._slots[0]).dtype
        tracer = Tracer(source, self._order, dict(self._dropouts), x.to("meta"), False, dtype)
        tracer.build()
        return tracer.returned

    def __getstate__(self) -> dict[str, Any]:
        """State without the programs, which are rebuilt on demand."""
        state = dict(self.__dict__)
        state["_programs"] = {}
        return state
