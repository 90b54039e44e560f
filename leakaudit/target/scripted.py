"""A TorchScript program as a module of our own: its graph interpreted, its tensors under their names.

A ``ScriptModule`` takes no hooks, no other values for its parameters and no function modes, and its compiler builds
gradients that cannot be differentiated again. So the graph is read once, as plain data, and its operators are called
one by one: dropout can be recorded, BatchNorm follows the mode and keeps no statistics, and second derivatives exist.

Only torch's tensor operators and arithmetic on plain values are called (`leakaudit.target.exported.operators`), so a
program that reads or writes files is refused. Control flow is followed as it comes.

Fails, with the operator's name, on classes of the program's own and on operators outside torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.errors import ModelError
from leakaudit.target.composed import COMPOSED
from leakaudit.target.exported.module import BatchNorm
from leakaudit.target.exported.operators import resolve
from leakaudit.target.names import register, torch_names

_HINT = "export it with torch.export, or pass weights with --factory package.module:function"
_TAKEN = frozenset({"leakaudit_block", "leakaudit_norms", "leakaudit_functional", "_slots", "complete"})
"""Attributes of a `ScriptedModule`, which no tensor may have for a name."""


@dataclass(frozen=True)
class Step:
    """One node: what runs, the values that it reads and makes, by number, and the blocks inside."""

    run: Callable[..., Any] | str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    value: Any = None


@dataclass(frozen=True)
class Block:
    """Nodes in order, and the numbers of the values that they are given and give."""

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


class ScriptedModule(nn.Module):
    """An interpreted program; ``named_parameters()`` yields the program's names."""

    def __init__(self) -> None:
        super().__init__()
        self._slots: dict[str, tuple[nn.Module, str]] = {}
        self.leakaudit_block: Block | None = None

    def complete(self, block: Block, slots: Mapping[str, tuple[nn.Module, str]], norms: Sequence[nn.Module]) -> None:
        """Set what the module runs, the places of its tensors, and its BatchNorm layers."""
        self.leakaudit_block, self._slots = block, dict(slots)
        self.add_module("leakaudit_norms", nn.ModuleList(norms))

    def forward(self, x: Tensor) -> Any:
        """What the program computes of ``x``."""
        block = self.leakaudit_block
        assert block is not None
        values: dict[int, Any] = {block.inputs[1]: x}
        self._execute(block, values)
        return values[block.outputs[0]]

    def _execute(self, block: Block, values: dict[int, Any]) -> None:
        for step in block.steps:
            if callable(step.run):
                self._bind(step, step.run(*[values[i] for i in step.inputs]), values)
            else:
                getattr(self, f"_{step.run}")(step, values)

    @staticmethod
    def _bind(step: Step, result: Any, values: dict[int, Any]) -> None:
        if len(step.outputs) == 1:
            values[step.outputs[0]] = result
        else:
            values.update(zip(step.outputs, result or (), strict=True))

    def _constant(self, step: Step, values: dict[int, Any]) -> None:
        values[step.outputs[0]] = step.value

    def _tensor(self, step: Step, values: dict[int, Any]) -> None:
        holder, leaf = self._slots[step.value]
        found = getattr(holder, leaf)
        values[step.outputs[0]] = found if found.is_floating_point() else found.clone()

    def _tensors(self, step: Step, values: dict[int, Any]) -> None:
        values[step.outputs[0]] = [getattr(*self._slots[name]) for name in step.value]

    def _mode(self, step: Step, values: dict[int, Any]) -> None:
        values[step.outputs[0]] = self.training

    def _norm(self, step: Step, values: dict[int, Any]) -> None:
        x, scale, shift, mean, variance = (values[i] for i in step.inputs[:5])
        layer = self.get_submodule("leakaudit_norms")[step.value]  # type: ignore[index]
        values[step.outputs[0]] = layer(x, scale, shift, mean, variance)

    def _if(self, step: Step, values: dict[int, Any]) -> None:
        chosen = step.blocks[0 if bool(values[step.inputs[0]]) else 1]
        self._execute(chosen, values)
        values.update(zip(step.outputs, [values[i] for i in chosen.outputs], strict=True))

    def _loop(self, step: Step, values: dict[int, Any]) -> None:
        limit, go, carried = values[step.inputs[0]], values[step.inputs[1]], [values[i] for i in step.inputs[2:]]
        (block,) = step.blocks
        count = 0
        while go and count < limit:
            values.update(zip(block.inputs, [count, *carried], strict=True))
            self._execute(block, values)
            go, *carried = (values[i] for i in block.outputs)
            count += 1
        values.update(zip(step.outputs, carried, strict=True))


def from_script(script: Any, label: str) -> ScriptedModule:
    """The program of a ``ScriptModule``'s forward.

    Raises:
        ModelError: It takes several inputs, or calls what is no tensor operator.
    """
    graph = script.inlined_graph
    if len(list(graph.inputs())) != 2:
        raise ModelError(f"{label} takes {len(list(graph.inputs())) - 1} inputs, expected one", "export it with one")
    module = ScriptedModule()
    tensors = _tensors(script)
    names = torch_names(list(tensors), _TAKEN)
    slots = {name: register(module, names[name], tensor) for name, tensor in tensors.items()}
    reader = _Reader(script, set(tensors), label)
    module.complete(reader.block(graph, list(graph.outputs())), slots, reader.norms)
    return module


def _tensors(script: Any) -> dict[str, Tensor]:
    """Copies of the parameters and buffers by name; a parameter that has two names is one."""
    made: dict[tuple[int, torch.Size], nn.Parameter] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in script.named_parameters(remove_duplicate=False):
        key = (tensor.data_ptr(), tensor.shape)
        if key not in made:
            made[key] = nn.Parameter(tensor.detach().clone(), tensor.requires_grad)
        found[name] = made[key]
    return {**found, **{name: tensor.detach().clone() for name, tensor in script.named_buffers(remove_duplicate=False)}}


@dataclass(frozen=True)
class _Ordered:
    """An operator with all arguments by position, as a graph gives them."""

    run: Callable[..., Any]
    keywords: tuple[str, ...]

    def __call__(self, *values: Any) -> Any:
        """Call it; the last arguments are those that it takes by keyword only."""
        count = len(values) - len(self.keywords)
        return self.run(*values[:count], **dict(zip(self.keywords, values[count:], strict=True)))


class _Reader:
    """Reads graphs of one program; values are numbered as they come."""

    def __init__(self, script: Any, tensors: set[str], label: str) -> None:
        self.script, self.tensors, self.label = script, tensors, label
        self.numbers: dict[str, int] = {}
        self.objects: dict[int, str] = {}
        """Paths of the modules that values are."""
        self.norms: list[nn.Module] = []

    def number(self, value: Any) -> int:
        """The number of a value of the graph."""
        return self.numbers.setdefault(value.debugName(), len(self.numbers))

    def block(self, graph: Any, outputs: Sequence[Any]) -> Block:
        """A graph or the inner block of a node."""
        inputs = tuple(map(self.number, graph.inputs()))
        if not self.objects:
            self.objects[inputs[0]] = ""
        steps = tuple(step for node in graph.nodes() if (step := self.step(node)) is not None)
        return Block(inputs, steps, tuple(map(self.number, outputs)))

    def step(self, node: Any) -> Step | None:
        """A node; ``None`` where it only names a module."""
        kind = node.kind()
        inputs, outputs = tuple(map(self.number, node.inputs())), tuple(map(self.number, node.outputs()))
        if kind == "prim::GetAttr":
            return self._attribute(node.s("name"), inputs[0], outputs)
        if kind == "prim::Constant":
            return Step("constant", (), outputs, value=node.output().toIValue())
        if kind in ("prim::If", "prim::Loop"):
            blocks = tuple(self.block(inner, list(inner.outputs())) for inner in node.blocks())
            return Step("if" if kind == "prim::If" else "loop", inputs, outputs, blocks)
        if kind == "aten::batch_norm":
            self.norms.append(BatchNorm(float(list(node.inputs())[7].toIValue())))
            return Step("norm", inputs, outputs, value=len(self.norms) - 1)
        return Step(self._function(node, kind), inputs, outputs)

    def _attribute(self, name: str, owner: int, outputs: tuple[int, ...]) -> Step | None:
        path = f"{self.objects[owner]}.{name}" if self.objects.get(owner) else name
        if owner not in self.objects:
            raise ModelError(f"{self.label} uses a class of its own ({name!r})", _HINT)
        if path in self.tensors:
            return Step("tensor", (), outputs, value=path)
        if name == "training":
            return Step("mode", (), outputs)
        value = self.script
        for part in path.split("."):
            value = getattr(value, part)
        if isinstance(value, nn.Module):
            self.objects[outputs[0]] = path
            return None
        if isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
            return Step("tensors", (), outputs, value=self._names(value))
        return Step("constant", (), outputs, value=value)

    def _names(self, listed: list[Tensor]) -> tuple[str, ...]:
        """Of the tensors in a list: recurrent layers keep their weights in one."""
        of = {tensor.data_ptr(): name for name, tensor in self.script.named_parameters()}
        missing = [tensor for tensor in listed if tensor.data_ptr() not in of]
        if missing:
            raise ModelError(f"{self.label} keeps a list of tensors that are no parameters", _HINT)
        return tuple(of[tensor.data_ptr()] for tensor in listed)

    def _function(self, node: Any, kind: str) -> Callable[..., Any]:
        schema = node.schema() if kind.startswith("aten::") else ""
        plain = _LISTS.get(schema.partition("(")[0]) or _PLAIN.get(kind)
        if plain is not None:
            return plain
        name = schema.partition("(")[0].replace("aten::", "torch.ops.aten.")
        found: Any = resolve(name) if schema and schema != "(no schema)" else None
        if found is None:
            raise ModelError(f"{self.label} calls {kind}, which is no tensor operator", _HINT)
        run = _FUNCTIONS.get(kind) or COMPOSED.get(found)
        return (
            run if run is not None else _Ordered(found, tuple(a.name for a in found._schema.arguments if a.kwarg_only))
        )


def _raise(message: Any, *_: Any) -> None:
    raise RuntimeError(str(message))


def _formatted(text: str, *values: Any) -> str:
    return text.format(*values)


def _appended(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return items


def _sliced(items: Any, *where: Any) -> Any:
    return items[slice(*where)] if isinstance(items, list) else torch.ops.aten.slice.Tensor(items, *where)


def _same(value: Any, *_: Any) -> Any:
    return value


def _listed(*items: Any) -> list[Any]:
    return list(items)


def _tupled(*items: Any) -> tuple[Any, ...]:
    return items


def _paired(*items: Any) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _nothing(*_: Any) -> None:
    return None


def _isnot(one: Any, other: Any) -> bool:
    return one is not other


def _is(one: Any, other: Any) -> bool:
    return one is other


_CODES = {
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5, torch.float32: 6,
    torch.float64: 7, torch.complex32: 8, torch.complex64: 9, torch.complex128: 10, torch.bool: 11, torch.bfloat16: 15,
}  # fmt: skip
"""Number types as TorchScript writes them (c10/core/ScalarType.h)."""
_PLAIN: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": _listed, "prim::TupleConstruct": _tupled, "prim::DictConstruct": _paired,
    "prim::ListUnpack": _same, "prim::TupleUnpack": _same, "prim::TupleIndex": operator.getitem,
    "prim::RaiseException": _raise, "prim::Uninitialized": _nothing, "prim::unchecked_cast": _same,
    "prim::dtype": lambda x: _CODES[x.dtype], "prim::device": lambda x: x.device, "prim::layout": lambda x: x.layout,
    "prim::is_cuda": lambda x: x.is_cuda, "prim::is_nested": lambda x: x.is_nested, "prim::data": lambda x: x.detach(),
    "prim::requires_grad": lambda x: x.requires_grad, "prim::type": lambda device: device.type,
    "prim::NumToTensor": torch.tensor, "prim::min": min, "prim::max": max, "aten::format": _formatted,
    "aten::append": _appended, "aten::len": len, "aten::slice": _sliced, "aten::list": list,
    "aten::__contains__": operator.contains, "aten::__not__": operator.not_,
    "aten::__getitem__": operator.getitem, "aten::__is__": _is, "aten::__isnot__": _isnot,
    "aten::warn": _nothing, "aten::Bool": bool, "aten::Int": int, "aten::Float": float, "aten::IntImplicit": int,
    "aten::is_grad_enabled": lambda: True, "aten::is_autocast_enabled": lambda *_: False,
    "aten::is_floating_point": lambda x: x.is_floating_point(), "aten::dim": lambda x: x.dim(),
    "aten::size": lambda x, *axis: x.size(*axis) if axis else list(x.shape),
    **{f"aten::{name}": getattr(operator, name) for name in ("floordiv", "ne", "eq", "lt", "gt", "le", "ge", "neg")},
    "aten::remainder": operator.mod, "aten::__and__": operator.and_, "aten::__or__": operator.or_,
}  # fmt: skip
"""Calls on plain values, lists and shapes."""
_LISTS: dict[str, Callable[..., Any]] = {
    "aten::add.t": operator.add, "aten::add_.t": operator.iadd, "aten::copy.t": list, "aten::mul.left_t": operator.mul,
    "aten::mul.right_": operator.mul, "aten::extend.t": operator.iadd,
    "aten::reverse.t": lambda items: items.reverse(),
    "aten::_set_item.t": operator.setitem, "aten::clear.t": lambda items: items.clear(),
    "aten::insert.t": lambda items, place, item: items.insert(place, item),
    "aten::pop.t": lambda items, i: items.pop(i),
    "aten::index.list_int": lambda items, item: items.index(item),
    "aten::count.int": lambda items, item: items.count(item),
}  # fmt: skip
"""Calls on lists, by their full name: torch would work on a copy."""
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "aten::dropout": torch.dropout, "aten::dropout_": torch.dropout, "aten::feature_dropout": F.dropout2d,
    "aten::scaled_dot_product_attention": _Ordered(F.scaled_dot_product_attention, ("scale", "enable_gqa")),
}  # fmt: skip
"""Functions that `leakaudit.target.functional` knows, in place of their operators."""
