"""The JSON graph of a ``.pt2`` as a `Program`.

Every name of the file is a key of a dictionary here and nothing else; a value is a place in the program's table.
Functions come from `leakaudit.target.exported.operators`; arguments are values, numbers, strings and the few constants
of torch that have a code. Size expressions are never read: sizes are those of the tensors when the program runs.

Format: ``torch/_export/serde/schema.py``, major version 8.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._ops import OpOverload

from leakaudit.errors import ModelError
from leakaudit.target.composed import COMPOSED
from leakaudit.target.dropout import Dropout, Kind
from leakaudit.target.exported.module import Autocast, BatchNorm, Branch, Grad, Part
from leakaudit.target.exported.operators import resolve
from leakaudit.target.exported.read import DTYPES
from leakaudit.target.program import Builder, Slot

aten = torch.ops.aten
_DROPOUT: dict[Any, Kind] = {
    aten.dropout.default: "element",
    aten.dropout_.default: "element",
    aten.native_dropout.default: "element",
    aten.feature_dropout.default: "channel",
    aten.feature_dropout_.default: "channel",
}
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_HIGHER = "torch.ops.higher_order."
_AS_THEY_ARE: dict[str, type | tuple[type, ...]] = {
    "as_int": int, "as_float": (int, float), "as_bool": bool, "as_string": str,
}  # fmt: skip
_BEYOND = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
"""Numbers that JSON lacks."""
_LISTS: dict[str, type | tuple[type, ...]] = {
    "as_ints": int, "as_floats": (int, float), "as_bools": bool, "as_strings": str, "as_int_lists": list,
    "as_float_lists": list,
}  # fmt: skip


def single(union: Mapping[str, Any]) -> tuple[str, Any]:
    """Kind and content of a value that the file writes as ``{kind: content}``.

    Raises:
        ValueError: It has several kinds or none.
    """
    ((kind, content),) = union.items()
    return kind, content


class GraphReader:
    """Appends the nodes of one graph to a program.

    Args:
        builder: Of the program.
        device: Place of the device that the program runs on.
        layers: Dropout and BatchNorm layers in order; those of the graph are appended.
    """

    def __init__(self, builder: Builder, device: Slot, layers: list[nn.Module]) -> None:
        self.builder, self.device, self.layers = builder, device, layers
        self.values: dict[str, Any] = {}
        """Slots, and constants given as inputs, by name."""

    def bind(self, name: str, value: Any) -> None:
        """Give a value its name.

        Raises:
            ValueError: The name is taken.
        """
        if not isinstance(name, str) or name in self.values:
            raise ValueError(f"the value {name!r} is defined twice")
        self.values[name] = value

    def run(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Append the nodes of a graph, in order.

        Raises:
            ModelError: One calls what is no tensor operator.
        """
        for node in nodes:
            self._node(node)

    def value(self, argument: Mapping[str, Any]) -> Any:
        """An argument as a slot, plain data or a list of both."""
        kind, content = single(argument)
        if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._symbol(content)
        if kind in ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._symbol(item) for item in content]
        if kind == "as_optional_tensors":
            return [self.value(item) for item in content]
        if kind == "as_optional_tensor":
            return self.value(content)
        if kind == "as_nested_tensors":
            return [[self._symbol(item) for item in inner] for inner in content]
        return self._plain(kind, content)

    def _plain(self, kind: str, content: Any) -> Any:
        if kind == "as_none":
            return None
        if kind == "as_device":
            return self.device  # a program runs where its input is, wherever it was exported
        if kind == "as_scalar_type":
            return DTYPES[content]
        if kind == "as_memory_format":
            return _FORMATS[content]
        if kind == "as_layout" and content == 7:
            return torch.strided
        if kind == "as_complex":
            return complex(content["real"], content["imag"])
        if kind == "as_float" and content in _BEYOND:
            return _BEYOND[content]
        if kind in _AS_THEY_ARE and isinstance(content, _AS_THEY_ARE[kind]):
            return content
        if kind in _LISTS and isinstance(content, list) and all(isinstance(item, _LISTS[kind]) for item in content):
            return content
        raise ModelError(f"an argument of the kind {kind!r} is not supported", "export the model without it")

    def _symbol(self, content: Mapping[str, Any]) -> Any:
        """A tensor ``{"name": …}``, or a size ``{"as_name": …}`` or ``{"as_int": …}``."""
        kind, given = single(content)
        if kind in ("name", "as_name"):
            return self.values[given]
        return self._plain(kind, given)

    def _node(self, node: Mapping[str, Any]) -> None:
        target = node["target"]
        if isinstance(target, str) and target.startswith(_HIGHER):
            self._bind_outputs(node, self._higher(target[len(_HIGHER) :], node), higher=True)
            return
        function = resolve(target) if isinstance(target, str) else None
        if function is None:
            raise ModelError(
                f"a node calls {str(target)[:80]!r}, which is no tensor operator",
                "export the model without custom operators, or pass weights with --factory package.module:function",
            )
        if not isinstance(function, OpOverload):
            arguments = [self.value(entry["arg"]) for entry in node["inputs"]]
            self._bind_outputs(node, self.builder.call(function, arguments))
            return
        given = {entry["name"]: self.value(entry["arg"]) for entry in node["inputs"]}
        self._bind_outputs(node, self._operator(function, given, node))

    def _operator(self, function: OpOverload, given: dict[str, Any], node: Mapping[str, Any]) -> Slot:
        if function in _DROPOUT:
            layer: nn.Module = Dropout(
                float(given["p"]), _DROPOUT[function], _label(node) or f"dropout{len(self.layers)}"
            )
            dropped = self._layer(layer, [given["self" if "self" in given else "input"]])
            return self.builder.call(_twice, [dropped]) if function is aten.native_dropout.default else dropped
        if function is aten.batch_norm.default:
            names = ("input", "weight", "bias", "running_mean", "running_var")
            return self._layer(BatchNorm(float(given["eps"])), [given[name] for name in names])
        if function is aten._native_batch_norm_legit_functional.default:
            raise ModelError("it was decomposed for training", "export it without run_decompositions()")
        run = F.scaled_dot_product_attention if function is aten.scaled_dot_product_attention.default else function
        run = COMPOSED.get(function, run)
        arguments, keywords = _by_schema(function, given)
        return self.builder.call(run, arguments, keywords, effect=function._schema.is_mutable)

    def _layer(self, layer: nn.Module, arguments: list[Any]) -> Slot:
        self.layers.append(layer)
        return self.builder.call(layer, arguments)

    def _bind_outputs(self, node: Mapping[str, Any], result: Slot, higher: bool = False) -> None:
        outputs = node["outputs"]
        if len(outputs) != 1:
            self._bind_each(outputs, result)
            return
        kind, content = single(outputs[0])
        if kind == "as_none":
            return
        if higher and node.get("is_hop_single_tensor_return") is False:
            self._bind_each(outputs, result)
        elif isinstance(content, list):
            self._bind_each(content, result)
        else:
            self.bind(_name(content), result)

    def _bind_each(self, outputs: Sequence[Mapping[str, Any]], result: Slot) -> None:
        """Give every entry of a result its name, those of lists inside it too."""
        for position, entry in enumerate(outputs):
            kind, content = single(entry)
            if kind == "as_none":
                continue
            part = self.builder.call(operator.getitem, [result, position])
            if isinstance(content, list):
                self._bind_each(content, part)
            else:
                self.bind(content if kind in ("name", "as_name") else _name(content), part)

    def _higher(self, name: str, node: Mapping[str, Any]) -> Slot:
        """A call that runs graphs inside: without gradients, in another precision, or one of two branches."""
        entries = [entry["arg"] for entry in node["inputs"]]
        parts = [self._part(single(entry)[1]) for entry in entries if "as_graph" in entry]
        plain = [self.value(entry) for entry in entries if "as_graph" not in entry]
        run: Callable[..., Any]
        if name == "wrap_with_set_grad_enabled" and len(parts) == 1:
            run, arguments = Grad(bool(plain[0]), parts[0]), plain[1:]
        elif name == "wrap_with_autocast" and len(parts) == 1:
            run, arguments = (
                Autocast(str(plain[0]), plain[1], plain[2] is True, plain[3] is not False, parts[0]),
                plain[4:],
            )
        elif name == "cond" and len(parts) == 2:
            run, arguments = Branch(parts[0], parts[1]), [plain[0], *plain[1]]
        else:
            raise ModelError(f"the control flow {name[:80]!r} is not supported", "export the model without it")
        return self.builder.call(run, [self.device, *arguments])

    def _part(self, content: Mapping[str, Any]) -> Part:
        """A graph inside a call, which reads nothing but its inputs."""
        graph = content["graph"]
        builder = Builder()
        device = builder.input()
        reader = GraphReader(builder, device, self.layers)
        for entry in graph["inputs"]:
            reader.bind(_name(single(entry)[1]), builder.input())
        reader.run(graph["nodes"])
        outputs = [reader.value(entry) for entry in graph["outputs"]]
        alone = graph.get("is_single_tensor_return") is True
        return Part(builder.build(builder.call(_first if alone else _all, outputs)))


def _twice(x: Any) -> tuple[Any, None]:
    """As `native_dropout` returns: the values and a mask, which nobody reads."""
    return x, None


def _first(value: Any) -> Any:
    return value


def _all(*values: Any) -> tuple[Any, ...]:
    return values


def _name(content: Mapping[str, Any]) -> str:
    name = content["name"] if "name" in content else content["as_name"]
    if not isinstance(name, str):
        raise TypeError("a name is no text")
    return name


def _by_schema(function: OpOverload, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by position as far as none is left out, and the rest by keyword; unknown ones are refused."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    gap = False
    for entry in function._schema.arguments:
        if entry.name not in given:
            gap = True
        elif gap or entry.kwarg_only:
            keywords[entry.name] = given[entry.name]
        else:
            arguments.append(given[entry.name])
    if len(arguments) + len(keywords) != len(given):
        raise ValueError(f"{function} is given an argument that it does not have")
    return arguments, keywords


def _label(node: Mapping[str, Any]) -> str:
    """The name of the module that a node came from, if the file says so: for reports, never looked up."""
    stack = node.get("metadata", {}).get("nn_module_stack", "")
    last = stack.split(";")[-1].split(",") if isinstance(stack, str) else []
    return last[1] if len(last) >= 3 and not last[1].startswith("_empty_nn_module_stack") else ""


def input_names(graph: Mapping[str, Any]) -> Iterator[str]:
    """The names of a graph's inputs, in order."""
    for entry in graph["inputs"]:
        kind, content = single(entry)
        if kind in ("as_tensor", "as_sym_int"):
            yield _name(content)
