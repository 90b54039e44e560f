"""One pass over an ONNX graph for one input shape: shapes are folded, tensors become a `Program`.

Integers that follow from shapes (Shape, Gather, Concat, …) are computed here and now by `onnx.reference`, so that
the program has no shape arithmetic and no data-dependent control flow: it can be recorded by ``make_fx`` and mapped by
``torch.func.vmap``. Tensors are on torch's device ``meta``: nothing is computed and no memory is spent. (Its fake
tensors would do as well, but the first of them imports torch's compiler, which takes longer than all of ``inspect``.)

Fails where a shape or a branch depends on the values of the input.
"""

from __future__ import annotations

import logging
import operator as python
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from leakaudit.errors import LeakauditError, ModelError
from leakaudit.target.onnx.allowance import made, results
from leakaudit.target.onnx.gelu import with_gelu
from leakaudit.target.onnx.host import GROWING, evaluate
from leakaudit.target.onnx.inferred import inferred_shape
from leakaudit.target.onnx.ops import find_own
from leakaudit.target.onnx.registry import Operator, find_borrowed, since_version
from leakaudit.target.onnx.source import Array, Source, node_names
from leakaudit.target.onnx.values import array, attributes, size_of
from leakaudit.target.outputs import check_outputs, resembles
from leakaudit.target.program import Builder, Program, Slot

_ALWAYS_TENSOR = frozenset({"RandomUniformLike", "RandomNormalLike", "Bernoulli", "Shape", "Size"})


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor of the program: its place there, and a tensor of its shape and type that has no values."""

    slot: Slot
    meta: Any


@dataclass(frozen=True)
class Undefined:
    """A result that an operator does not give here (an index, a mask); an error only if the logits need it."""

    reason: str


Value = Traced | Array | None


class Tracer:
    """Builds the program of one `Source` for one input.

    Args:
        source: The model.
        names: All tensors that the program takes, in order: parameters, then buffers.
        dropouts: Dropout layer per node name; called as submodules of the program.
        x: A sample input (only shape, dtype and device are used).
        training: Whether BatchNorm uses the statistics of the batch.
        dtype: Of the weights and constants; that of ``x`` by default, needed where ``x`` holds token ids.
    """

    def __init__(
        self,
        source: Source,
        names: list[str],
        dropouts: dict[str, nn.Module],
        x: Tensor,
        training: bool,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.source = source
        self.names = names
        self.dropouts = dropouts
        self.training = training
        self.dtype, self.device, self.input_dtype = dtype or x.dtype, x.device, x.dtype
        self.shape = tuple(x.shape)
        self.program = Builder()
        self.env: dict[str, Value | Undefined] = {}
        self.returned: tuple[int, ...] = ()
        """Shape of the output of one sample."""
        self.executed: list[NodeProto] = []
        """The nodes that ran, branches replaced by what they contain."""
        self.constants: dict[tuple[bytes, str, tuple[int, ...]], Slot] = {}
        self.results = results(
            source.weight_bytes, self.shape[0], source.trusted, asked_by_file=source.batch is not None
        )
        self.made = made(source.trusted)

    def build(self) -> Program:
        """The program: ``program(x, *tensors) -> logits (B, K)``.

        Raises:
            ModelError: A node cannot be computed for this input.
        """
        with _outside_modes(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._placeholders()
            self._run(list(self.source.nodes), node_names(self.source.nodes))
            result = self.env[self.source.output_name]
            if isinstance(result, Undefined):
                raise ModelError(result.reason, "export the model again without it")
            if not isinstance(result, Traced):
                raise ModelError("the output does not depend on the input", "choose another with --output NAME")
            self._check_logits(result)
            self.returned = tuple(result.meta.shape[1:]) or (1,)
            slot = result.slot
            if result.meta.dim() == 1:
                slot = self.program.call(torch.unsqueeze, (slot, 1))
            elif result.meta.dim() > 2:
                slot = self.program.call(torch.flatten, (slot, 1))
        return self.program.build(slot, with_gelu)

    def _check_logits(self, result: Traced) -> None:
        shape = tuple(result.meta.shape)
        if shape[:1] == self.shape[:1] and resembles(shape[1:], self.shape[1:]):
            return  # held against the domain where the file is loaded
        if shape[:1] != self.shape[:1] or sum(size > 1 for size in shape[1:]) > 1:
            raise ModelError(
                f"output {self.source.output_name!r} has shape {list(shape)} for {self.shape[0]} samples, expected one "
                "score per class and sample, or one at each of its places: detection, and maps of another size than "
                "the sample, are not supported",
                "it needs logits; choose another output with --output NAME"
                + (f": {', '.join(self.source.outputs)}" if len(self.source.outputs) > 1 else ""),
            )
        check_outputs(shape, self.shape[0], f"output {self.source.output_name!r}", ())

    def _placeholders(self) -> None:
        def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        self.env[self.source.input_name] = Traced(self.program.input(), tensor(self.shape, self.input_dtype))
        tensors = {**self.source.parameters, **self.source.buffers}
        for name in self.names:
            self.env[name] = Traced(self.program.input(), tensor(tensors[name].shape, self.dtype))
        self.env.update(self.source.host)
        self.env[""] = None

    def _run(self, nodes: list[NodeProto], names: list[str]) -> None:
        for node, name in zip(nodes, names, strict=True):
            try:
                self._step(node, name)
            except LeakauditError:
                raise
            except MemoryError:
                raise
            except Exception as error:  # operators of three libraries are given what a file says
                raise ModelError(
                    f"node {name!r} ({node.op_type}) cannot be computed for an input of shape {list(self.shape)}: "
                    f"{error}",
                    "check the input shape and the batch size; values that depend on data are not supported",
                ) from error

    def _step(self, node: NodeProto, name: str) -> None:
        if node.op_type != "If":
            self.executed.append(node)
        given = [self.env[key] for key in node.input]
        undefined = next((value for value in given if isinstance(value, Undefined)), None)
        if undefined is not None:
            self.env.update(dict.fromkeys(node.output, undefined))
            return
        inputs: list[Value] = [value for value in given if not isinstance(value, Undefined)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        if node.op_type == "If":
            self._branch(node, name, inputs[0])
        elif node.op_type not in _ALWAYS_TENSOR and all(not isinstance(value, Traced) for value in inputs):
            self._bind(node, self._host(node, inputs))
        elif node.op_type == "Dropout":
            self._bind(node, self._dropout(name, inputs[0]))
        else:
            self._bind(node, self._tensor_node(node, name, inputs))
        if name in self.dropouts and node.op_type != "Dropout":
            first = self.env[node.output[0]]
            if isinstance(first, Traced):
                self.env[node.output[0]] = self._dropout(name, first)

    def _bind(self, node: NodeProto, result: Any) -> None:
        """Name the results; an operator that gives fewer than the node declares leaves the rest undefined."""
        results = result if isinstance(result, tuple) else (result,)
        for index, key in enumerate(node.output):
            if key and index < len(results):
                self.env[key] = results[index]
            elif key:
                reason = f"output {index} ({key!r}) of a {node.op_type} node is used, which is not supported"
                self.env[key] = Undefined(reason)

    def _branch(self, node: NodeProto, name: str, condition: Value) -> None:
        if isinstance(condition, Traced) or condition is None:
            raise ModelError(
                f"node {name!r} (If) branches on the values of the input", "remove the data-dependent control flow"
            )
        key = "then_branch" if bool(np.asarray(condition).reshape(-1)[0]) else "else_branch"
        graph = next((attribute.g for attribute in node.attribute if attribute.name == key), None)
        if graph is None:
            raise ModelError(f"node {name!r} (If) has no {key}", "the file is damaged: export or copy it again")
        for tensor in graph.initializer:
            self.env[tensor.name] = array(tensor, tensor.name)
            self.executed.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        inner = list(graph.node)
        self._run(inner, [f"{name}/{label}" for label in node_names(inner)])
        for outer, info in zip(node.output, graph.output, strict=True):
            self.env[outer] = self.env[info.name]
            self.executed.append(helper.make_node("Identity", [info.name], [outer]))

    def _dropout(self, name: str, x: Value) -> Value:
        layer = self.dropouts.get(name)
        if layer is None or not isinstance(x, Traced):
            return x
        return Traced(self.program.call(layer, (x.slot,)), x.meta)

    def _tensor_node(self, node: NodeProto, name: str, inputs: list[Value]) -> Any:
        given = attributes(node)
        if self.source.batch is not None and self.shape[0] != self.source.batch:
            inputs = self._other_batch(node, inputs)
        version = since_version(node.op_type, self.source.opset)
        own = None if node.domain else find_own(node.op_type, version)
        if own is None or own.unknown_attributes(given):
            return self._borrowed(node, name, version, inputs)
        if own.training:
            given["training"] = self.training
        if own.count:
            given["outputs"] = len(node.output)
        arguments = [self._argument(value, index, own, inputs, name) for index, value in enumerate(inputs)]
        return self._emit(own.run, arguments, given, self._inferred(node, inputs))

    def _inferred(self, node: NodeProto, inputs: list[Value]) -> tuple[int, ...] | None:
        """The shape of the result of a node that takes and gives real numbers, where onnx tells it."""
        if any(isinstance(value, Traced) and value.meta.dtype != self.dtype for value in inputs):
            return None
        known = [tuple(value.meta.shape) if isinstance(value, Traced) else value for value in inputs]
        return inferred_shape(node, self.source.opset, known)

    def _argument(self, value: Value, index: int, own: Operator, inputs: list[Value], name: str) -> Any:
        if value is None or isinstance(value, Traced):
            if index in own.host and value is not None:
                raise ModelError(
                    f"input {index} of node {name!r} depends on the values of the input",
                    "shapes must not depend on data",
                )
            return value
        if index in own.host:
            return value.tolist()
        rank = max((v.meta.dim() for v in inputs if isinstance(v, Traced)), default=0)
        if own.scalars and value.size == 1 and value.ndim <= rank:
            return value.reshape(()).item()
        return self._constant(value)

    def _emit(
        self,
        run: Callable[..., Any],
        arguments: list[Any],
        keywords: dict[str, Any],
        shape: tuple[int, ...] | None = None,
    ) -> Any:
        """An operator of the program; run on tensors without values, unless the shape of its result is known."""

        def pick(part: str) -> list[Any]:
            return [getattr(a, part) if isinstance(a, Traced) else a for a in arguments]

        known = None if shape is None else torch.empty(shape, dtype=self.dtype, device="meta")
        result = run(*pick("meta"), **keywords) if known is None else known
        if isinstance(result, np.ndarray):
            return result
        return self._results(self.program.call(run, pick("slot"), keywords), result, pick("meta"))

    def _results(self, slot: Slot, result: Any, given: Sequence[Any]) -> Any:
        parts = result if isinstance(result, tuple | list) else (result,)
        self.results.take(sum(_new_bytes(part, given) for part in parts), "a node")
        if not isinstance(result, tuple | list):
            return Traced(slot, result)
        return tuple(Traced(self.program.call(python.getitem, (slot, i)), part) for i, part in enumerate(result))

    def _constant(self, value: Array) -> Traced:
        """A host value as a tensor of the program."""
        dtype = self.dtype if value.dtype.kind == "f" else None
        key = (value.tobytes(), value.dtype.str, value.shape)
        tensor = torch.tensor(value.tolist() if value.ndim == 0 else np.ascontiguousarray(value), device=self.device)
        tensor = tensor.to(dtype) if dtype is not None else tensor
        if key not in self.constants:
            self.constants[key] = self.program.constant(tensor)
        return Traced(self.constants[key], torch.empty_like(tensor, device="meta"))

    def _other_batch(self, node: NodeProto, inputs: list[Value]) -> list[Value]:
        """Read shapes that were exported for one batch size as meant for this one.

        A Reshape or Expand whose leading size is the exported batch gets ours, and a constant of one sample that
        is joined to samples is repeated. `leakaudit.target` checks the result sample by sample before it is used.
        """
        exported, batch = self.source.batch, self.shape[0]
        first = inputs[0]
        if node.op_type in ("Reshape", "Expand") and len(inputs) > 1 and isinstance(inputs[1], np.ndarray):
            sizes = inputs[1]
            moved = isinstance(first, Traced) and first.meta.dim() > 0 and first.meta.shape[0] == batch
            if sizes.size and int(sizes[0]) == exported and (moved or node.op_type == "Expand"):
                return [first, np.concatenate([[batch], sizes[1:]]).astype(np.int64), *inputs[2:]]
        if node.op_type == "Concat" and exported == 1:
            return [self._repeated(value, batch) for value in inputs]
        return inputs

    def _repeated(self, value: Value, batch: int) -> Value:
        value = self._constant(value) if isinstance(value, np.ndarray) else value
        if value is None or value.meta.dim() < 2 or value.meta.shape[0] != 1:
            return value
        sizes = (batch, *(-1,) * (value.meta.dim() - 1))
        return Traced(self.program.call(Tensor.expand, (value.slot, *sizes)), value.meta.expand(*sizes))

    def _host(self, node: NodeProto, inputs: list[Value]) -> Any:
        """A node that depends on no tensor: folded, or, where its result may grow, computed by the program."""
        if node.op_type not in GROWING:
            return evaluate(node, self.source.opset, [v for v in inputs if not isinstance(v, Traced)], self.made)
        first = self._as_tensor(inputs[0])
        result = self._tensor_node(node, node.name, [first, *inputs[1:]])
        for part in result if isinstance(result, tuple) else (result,):
            self.made.take(size_of(part.meta.shape, 8), f"node {node.name!r} ({node.op_type})")
        return result

    def _borrowed(self, node: NodeProto, name: str, version: int, inputs: list[Value]) -> Any:
        """Run a node by onnx2torch's converter, given the shapes and constants of its inputs."""
        converter = None if node.domain else find_borrowed(node.op_type, version)
        if converter is None:
            raise ModelError(
                f"operator {node.domain + '.' if node.domain else ''}{node.op_type}-{version} (node {name!r}) is not "
                "supported",
                "export the model again without it, or pass weights with --factory package.module:function",
            )
        module, mapping = converter(*_single_node_graph(node, inputs))
        module = module.to(self.device)
        by_name = dict(zip(node.input, inputs, strict=False))
        arguments = [self._as_tensor(by_name[key]) for key in mapping.inputs if key]
        metas = [value.meta for value in arguments]
        result = _without_values(module, metas, self.device)
        return self._results(self.program.call(module, [value.slot for value in arguments]), result, metas)

    def _as_tensor(self, value: Value) -> Traced:
        if value is None:
            raise ModelError("an operator lacks an input that it needs", "export the model again")
        return value if isinstance(value, Traced) else self._constant(value)


def _new_bytes(result: Any, given: Sequence[Any]) -> int:
    """Bytes that a result needs beyond those of its arguments; a view of one needs none."""
    if not isinstance(result, Tensor):
        return 0
    stored = result.untyped_storage()
    shared = any(isinstance(item, Tensor) and item.untyped_storage()._cdata == stored._cdata for item in given)
    return 0 if shared else stored.nbytes()


def _single_node_graph(node: NodeProto, inputs: list[Value]) -> tuple[Any, Any]:
    from onnx2torch.onnx_graph import OnnxGraph

    known = {key: value for key, value in zip(node.input, inputs, strict=False) if key}
    infos = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, list(value.meta.shape))
        for key, value in known.items()
        if isinstance(value, Traced)
    ]
    tensors = [
        helper.make_tensor(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.tobytes(), raw=True)
        for key, value in known.items()
        if isinstance(value, np.ndarray)
    ]
    outputs = [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in node.output]
    graph = OnnxGraph(helper.make_graph([node], "single", infos, outputs, tensors))
    return next(iter(graph.nodes.values())), graph


def _without_values(module: nn.Module, given: Sequence[Tensor], device: torch.device) -> Any:
    """What a module that has tensors of its own makes of tensors without values; its result has none either."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    logger = logging.getLogger("torch._subclasses.fake_tensor")  # it logs what is raised as well
    disabled, logger.disabled = logger.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            result = module(*[torch.empty(value.shape, dtype=value.dtype, device=device) for value in given])
    finally:
        logger.disabled = disabled
    return tree_map_only(Tensor, lambda part: torch.empty(part.shape, dtype=part.dtype, device="meta"), result)


@contextmanager
def _outside_modes() -> Iterator[None]:
    """Tensors as they are, also while somebody records (make_fx) or counts operators."""
    with _disable_current_modes():
        yield
