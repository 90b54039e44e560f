"""The model as a flat list of aten operators, whatever file it came from.

Claim: one run of ``target.logits`` on a random input under a dispatch mode records every tensor operation between input
and logits with its arguments and shapes; parameters and buffers enter as inputs, so each use of a tensor can be traced
back to its name. Module classes are not looked at, hence ONNX, exported and factory models read alike.
(``make_fx`` does the same but refuses the shape tensors that converted ONNX files compute with.)

Fails where the network decides on values of its input (data-dependent control flow): `TraceError` then names the
operator and the module. Control flow on *shapes* is fixed at the recorded batch size.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from leakaudit.errors import ModelError, first_line
from leakaudit.target.dispatch import DispatchMode
from leakaudit.target.target import Target

COPIED = 64 << 20
"""Bytes of parameters up to which a recording works on copies; chosen, far below networks whose memory matters."""


class TraceError(ModelError):
    """The model's operations could not be recorded."""


@dataclass(frozen=True)
class TensorUse:
    """A parameter or buffer as an operator sees it.

    Args:
        name: Qualified name in the module.
        shape: Shape at the operator.
        permuted: Whether its last two axes arrive swapped.
        part: Whether only a slice of it is used.
    """

    name: str
    shape: tuple[int, ...]
    permuted: bool = False
    part: bool = False


_SWAPS = {"t", "transpose", "permute", "numpy_T"}
_SLICES = {"select", "slice", "split", "split_with_sizes", "unbind", "chunk", "getitem", "index_select", "narrow"}
_SAME = {
    *("detach", "alias", "clone", "contiguous", "lift_fresh_copy", "lift_fresh", "_to_copy", "expand", "view"),
    *("reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "to"),
}
_VALUE_FREE = {
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"),
    *("new_empty", "new_full", "new_empty_strided"),
}
"""Operators that take only the shape of their tensor."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The recorded operators of a target.

    Args:
        graph: The aten-level graph; its inputs are the image batch, then the floating-point parameters and buffers.
        constants: Tensors that belong to neither, by attribute name.
        inputs: Name of the parameter or buffer that each further input is.
        data: The nodes whose value depends on the image batch.
        values: Parameters and buffers by name.
        batch_size: Batch size of the recording.
        buffers: Names of the buffers, so never trained.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    inputs: dict[fx.Node, str]
    data: set[fx.Node]
    values: dict[str, Tensor]
    batch_size: int
    buffers: frozenset[str] = frozenset()

    @property
    def nodes(self) -> list[fx.Node]:
        """All nodes in order of execution."""
        return list(self.graph.nodes)

    @property
    def input(self) -> fx.Node:
        """The image batch."""
        return self.nodes[0]

    @property
    def output(self) -> fx.Node:
        """The node whose value the logits are."""
        (result,) = self.nodes[-1].all_input_nodes
        return result

    def is_data(self, node: Any) -> bool:
        """Whether a node's value depends on the image batch."""
        return node in self.data

    def live(self) -> set[fx.Node]:
        """The data nodes that the logits depend on."""
        seen: set[fx.Node] = set()
        stack = [self.output]
        while stack:
            node = stack.pop()
            if node not in seen and self.is_data(node):
                seen.add(node)
                stack.extend(node.all_input_nodes)
        return seen

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's value, batch axis included; of the first value where there are several."""
        return tuple(node.meta["shape"])

    def tensor_use(self, node: Any) -> TensorUse | None:
        """The parameter or buffer that a node is a view of, or ``None`` where it is computed from several or none."""
        permuted = part = False
        start = node
        while isinstance(node, fx.Node) and node not in self.inputs:
            name = op_name(node)
            if node.op != "call_function" or name not in _SWAPS | _SLICES | _SAME:
                return None
            permuted ^= _swaps_last_axes(node, len(self.shape(node)))
            part |= name in _SLICES
            node = node.args[0]
        if not isinstance(node, fx.Node):
            return None
        return TensorUse(self.inputs[node], self.shape(start), permuted, part)

    def constant(self, node: Any) -> Tensor | None:
        """Value of a number, a constant or a view of a buffer; ``None`` for what is trained or depends on the input."""
        if isinstance(node, (int, float)):
            return torch.tensor(float(node), dtype=torch.float64)
        if not isinstance(node, fx.Node) or self.is_data(node):
            return None
        if node in self.inputs:
            name = self.inputs[node]
            return self.values[name] if name in self.buffers else None
        if node.op == "get_attr":
            return self.constants[str(node.target)]
        if op_name(node) not in _SAME | _SWAPS:
            return None
        source = self.constant(node.args[0])
        if source is None or not callable(node.target):
            return None
        result = node.target(source, *node.args[1:], **node.kwargs)
        return result if isinstance(result, Tensor) else None


def op_name(node: fx.Node) -> str:
    """Bare operator name: ``relu`` for ``aten.relu_.default``; "" for anything that is not a call."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "_opname", None) or getattr(node.target, "__name__", str(node.target))
    name = str(packet).split(".")[0]
    return name.rstrip("_") if not name.startswith("__") else name


def _swaps_last_axes(node: fx.Node, rank: int) -> bool:
    name = op_name(node)
    if name in ("t", "numpy_T"):
        return True
    if name == "transpose":
        return {int(a) % rank for a in node.args[1:3]} == {rank - 1, rank - 2}  # type: ignore[arg-type]
    if name == "permute":
        order = [int(a) % rank for a in node.args[1]]  # type: ignore[union-attr, arg-type]
        return order[-2:] == [rank - 1, rank - 2]
    return False


class _Recorder(DispatchMode):
    """Writes every operator on a tracked tensor into a graph; what depends on no tracked tensor stays a constant."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.nodes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.data: set[fx.Node] = set()
        self.last = ""
        self.assigned: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.written: dict[int, tuple[int, fx.Node]] = {}
        self.kept: list[Tensor] = []  # written storages stay alive, so that their addresses are not used again
        self.clock = 0

    def placeholder(self, tensor: Tensor, name: str) -> fx.Node:
        """Track an input."""
        node = self.graph.placeholder(name)
        self._assign(tensor, node)
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.last = str(func)
        result = func(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in tensors:
            self._refresh(tensor)
        tracked = [self.nodes[t] for t in tensors if t in self.nodes]
        if not tracked:
            return result
        if not any(isinstance(t, Tensor) for t in tree_leaves(result)):
            if any(node in self.data for node in tracked):
                raise _DataDependentError(f"it takes a decision on a value that depends on the input ({func})")
            return result
        mapped = tree_map(self._argument, (args, kwargs))
        node = self.graph.call_function(func, *mapped)
        if op_name(node) not in _VALUE_FREE and any(n in self.data for n in tracked):
            self.data.add(node)
        self._assign(result, node)
        if func._schema.is_mutable and node in self.data and isinstance(result, Tensor):
            self.kept.append(result)
            self.written[_address(result)] = (self.clock, node)
        return result

    def _refresh(self, tensor: Tensor) -> None:
        """A tensor whose memory was written through another view no longer is what its node says."""
        if not self.written or _address(tensor) not in self.written:
            return
        moment, writer = self.written[_address(tensor)]
        if self.assigned.get(tensor, 0) < moment:  # type: ignore[no-untyped-call]
            node = self.graph.call_function(in_place_write, (writer,))
            self.data.add(node)
            self._assign(tensor, node)

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value not in self.nodes:
            name = f"constant{len(self.constants)}"
            self.constants[name] = value.detach().clone()
            self._assign(value, self.graph.create_node("get_attr", name))
        return self.nodes[value]

    def _assign(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self.clock += 1
            self.nodes[result] = node
            self.assigned[result] = self.clock
            node.meta["shape"] = tuple(result.shape)
            return
        node.meta["shape"] = tuple(result[0].shape)
        node.meta["several"] = True
        for position, part in enumerate(result):
            if isinstance(part, Tensor):
                item = self.graph.call_function(operator.getitem, (node, position))
                if node in self.data:
                    self.data.add(item)
                self._assign(part, item)


def in_place_write(*_: Any) -> Tensor:
    """Stands for memory that was partly overwritten; recorded so that it is named, not evaluated."""
    raise NotImplementedError("memory written in place through a view cannot be evaluated again")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _DataDependentError(Exception):
    """Control flow that depends on the input's values."""


def usable_batch_size(target: Target) -> int:
    """1 where the file takes it, else the smallest batch size that it takes."""
    if target.batch_sizes is None or 1 in target.batch_sizes:
        return 1
    return min(target.batch_sizes)


def trace(target: Target, *, batch_size: int | None = None, seed: int = 0) -> Trace:
    """Record the operators of ``target.logits``.

    Args:
        target: In the mode (train or eval) that is to be described; left as it is, buffers included.
        batch_size: Batch size of the recording; 1 where the target takes it, by default.
        seed: Of the random input. Its values do not matter.

    Raises:
        TraceError: An operator cannot be recorded; the message names it and the module that calls it.
    """
    batch = batch_size or usable_batch_size(target)
    tensors = _apart(target.module)
    values = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    reference = next(iter(values.values()), torch.zeros(1))
    generator = torch.Generator("cpu").manual_seed(seed)
    image = target.random_inputs(batch, generator).to(reference.device)
    image = image.to(reference.dtype) if image.is_floating_point() else image
    recorder = _Recorder()
    recorder.data.add(recorder.placeholder(image, "image"))
    inputs = {recorder.placeholder(tensor, f"tensor{i}"): name for i, (name, tensor) in enumerate(values.items())}
    entered: list[str] = []
    hooks = [m.register_forward_pre_hook(_entering(entered, n, m)) for n, m in target.module.named_modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), unfused_attention(), recorder:
            logits = target.logits(image, tensors)
    except Exception as error:  # anything a foreign forward may raise; re-raised as one typed error
        raise _trace_error(target, recorder.last, entered, error) from error
    finally:
        for hook in hooks:
            hook.remove()
    if recorder.nodes.get(logits) not in recorder.data:  # type: ignore[no-untyped-call]
        raise TraceError(f"{target.name}: the output does not depend on the input", "is it the right output?")
    recorder.graph.output(recorder.nodes[logits])
    buffers = frozenset(name for name, _ in target.module.named_buffers())
    clean = {name: tensor.detach() for name, tensor in _tensors(target.module) if name in values}
    return Trace(recorder.graph, recorder.constants, inputs, recorder.data, clean, batch, buffers)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Transformer layers as their operators; in eval mode without gradients torch runs each as one opaque operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _apart(module: nn.Module) -> dict[str, Tensor]:
    """Its tensors by name, copies of those that a forward may write: buffers, and parameters that limit their norm.

    Of a large network the parameters are not copied; there a forward writes what every other forward writes as well.
    """
    large = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters()) > COPIED
    shared = {name for name, _ in module.named_parameters()} if large else set()
    return {name: t.detach() if name in shared else t.detach().clone() for name, t in _tensors(module)}


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _entering(entered: list[str], name: str, module: nn.Module) -> Any:
    def hook(*_: Any) -> None:
        entered[:] = [f"'{name}' ({type(module).__name__})" if name else type(module).__name__]

    return hook


def _trace_error(target: Target, last: str, entered: list[str], error: Exception) -> TraceError:
    where = entered[0] if entered else "the model"
    reason = first_line(error, 160)
    return TraceError(
        f"{target.name}: operator {last or 'unknown'} in {where} cannot be recorded: {reason}",
        "control flow that depends on tensor values cannot be analysed; export the model with fixed shapes",
    )
