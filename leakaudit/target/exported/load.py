"""A ``.pt2`` file as a module, with what its graph says about its input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leakaudit.errors import ModelError
from leakaudit.target.exported.graph import GraphReader, input_names, single
from leakaudit.target.exported.module import TAKEN, ExportedModule
from leakaudit.target.exported.read import DTYPES, Contents, read, whole
from leakaudit.target.names import register, torch_names
from leakaudit.target.program import Builder, Slot, listed
from leakaudit.target.rows import Input
from leakaudit.target.several import Inputs

_RECURRENT = ("torch.ops.aten.lstm.", "torch.ops.aten.gru.", "torch.ops.aten.rnn_")
_MAJOR = 8
"""Version of the format that is known."""
_INTEGERS = (torch.int32, torch.int64)
"""Of these integers are looked up."""


@dataclass(frozen=True, eq=False)
class Exported:
    """A module made from an exported program.

    Args:
        module: Follows train and eval mode.
        image_shape: Of one sample if it takes one size, as the program takes it; ``(1, 1, L)`` for token ids.
        batch: Batch size of the export, ``None`` if it takes any.
        inputs: What it is called with, where that is several inputs of one size.
        rigid: Whether other batch sizes must not be tried: torch's recurrent kernels would read beyond their states.
    """

    module: nn.Module
    image_shape: tuple[int, ...] | None
    batch: int | None
    rigid: bool
    inputs: Inputs | None = None


def from_exported(path: Path) -> Exported:
    """The module in a ``.pt2`` file.

    Raises:
        ModelError: The file is damaged, takes other than one tensor, or calls what is no tensor operator.
    """
    contents = read(path)
    try:
        return _built(contents)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, RecursionError) as error:
        raise ModelError(
            f"{path} does not describe a program ({type(error).__name__}: {str(error)[:160]})",
            "it is damaged, or of a torch version that is not known: export it again",
        ) from error


def _built(contents: Contents) -> Exported:
    program = contents.program
    if program["schema_version"]["major"] != _MAJOR:
        raise ModelError(
            f"it has version {program['schema_version']['major']} of the format, expected {_MAJOR}",
            "export it with another torch version",
        )
    content = program["graph_module"]
    graph = content["graph"]
    given = _given(graph, content["signature"])
    inputs = _several(given) if len(given) > 1 else None
    module = _module(contents, content)
    batch = given[0].sizes[0] if given[0].sizes else None
    recurrent = any(str(node["target"]).startswith(_RECURRENT) for node in graph["nodes"])
    rigid = recurrent and batch is not None
    image = _image_shape(given[0]) if inputs is None else None
    return Exported(module, image, batch, rigid, inputs)


@dataclass(frozen=True)
class _Given:
    """A tensor that a program is called with.

    Args:
        name: In the graph.
        sizes: Its shape, ``None`` where it is open.
        dtype: Of its entries.
    """

    name: str
    sizes: tuple[int | None, ...]
    dtype: torch.dtype

    @property
    def fixed(self) -> tuple[int, ...]:
        """Shape of one sample, without the axes whose size is open."""
        return tuple(size for size in self.sizes[1:] if size is not None)

    @property
    def of_one_size(self) -> bool:
        """Whether all samples have one shape."""
        return len(self.fixed) == len(self.sizes) - 1


def _user_inputs(signature: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that the program is called with; empty for what is no tensor."""
    specs = [single(spec) for spec in signature["input_specs"]]
    return [
        content["arg"]["as_tensor"]["name"] if "as_tensor" in content["arg"] else ""
        for kind, content in specs
        if kind == "user_input"
    ]


def _given(graph: Mapping[str, Any], signature: Mapping[str, Any]) -> list[_Given]:
    """The tensors that the program is called with, at least one.

    Raises:
        ModelError: There is none, or one is no tensor.
    """
    names = _user_inputs(signature)
    if not names or not all(names):
        raise ModelError("its input is not a tensor", "export it with a single tensor")
    found = []
    for name in names:
        meta = graph["tensor_values"][name]
        sizes = tuple(whole(size) if "as_int" in size else None for size in meta["sizes"])
        found.append(_Given(name, sizes, DTYPES[meta["dtype"]]))
    return found


def _image_shape(one: _Given) -> tuple[int, ...] | None:
    """Shape of a sample of a program with one input; ``None`` where it is open or has more axes than are known."""
    if not one.of_one_size or len(one.fixed) not in (1, 2, 3, 4):
        return None
    tokens = len(one.fixed) == 1 and not one.dtype.is_floating_point
    return (1, 1, *one.fixed) if tokens else one.fixed


def _several(given: Sequence[_Given]) -> Inputs:
    """The inputs by name.

    Raises:
        ModelError: One is of no such numbers, or leaves its size open.
    """
    for one in given:
        integers = one.dtype in _INTEGERS and len(one.fixed) < 2
        if not one.of_one_size or not (one.dtype.is_floating_point or integers):
            names = ", ".join(other.name for other in given)
            raise ModelError(
                f"it takes {len(given)} inputs ({names}), and {one.name!r} is of any size, or of no numbers: "
                "expected numbers (N, D) and integers (N, C), or numbers beside a picture",
                "export it with inputs of fixed sizes beside the batch axis",
            )
    return Inputs(tuple(Input(one.name, one.fixed, one.dtype in _INTEGERS) for one in given))


def _module(contents: Contents, content: Mapping[str, Any]) -> ExportedModule:
    graph, signature = content["graph"], content["signature"]
    builder, layers = Builder(), list[nn.Module]()
    device, given = builder.input(), _user_inputs(signature)
    taken = [builder.input() for _ in given]
    reader = GraphReader(builder, device, layers)
    for name, value in zip(given, taken, strict=True):
        reader.bind(name, value)
    for name, value in _fixed_inputs(signature):
        reader.bind(name, value)
    states = _states(contents, graph, signature)
    for value_name, _, _ in states:
        reader.bind(value_name, builder.input())
    missing = [name for name in input_names(graph) if name not in reader.values]
    if missing:
        raise ModelError(f"its input {missing[0]!r} is neither a tensor of the file nor given", "export it again")
    reader.run(graph["nodes"])
    result = _result(reader, content)
    module = ExportedModule()
    module.complete(builder.build(result), _registered(module, states), layers)
    return module


def _fixed_inputs(signature: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Arguments that the export has fixed: numbers, strings or nothing, by name."""
    found = []
    for spec in signature["input_specs"]:
        kind, content = single(spec)
        if kind == "constant_input":
            _, value = single(content["value"])
            found.append((content["name"], None if "as_none" in content["value"] else value))
        elif kind not in ("user_input", "parameter", "buffer", "tensor_constant"):
            raise ModelError(f"an input of the kind {kind!r} is not supported", "export the model without it")
    return found


def _states(
    contents: Contents, graph: Mapping[str, Any], signature: Mapping[str, Any]
) -> list[tuple[str, str, Tensor]]:
    """Parameters, buffers and constants: name in the graph, name in the module, tensor.

    Parameters that the file stores once are one parameter.
    """
    found: list[tuple[str, str, Tensor]] = []
    parameters: dict[int, nn.Parameter] = {}
    for spec in signature["input_specs"]:
        kind, content = single(spec)
        if kind not in ("parameter", "buffer", "tensor_constant"):
            continue
        name = content[f"{kind}_name"]
        tensor = contents.tensors.get(name, contents.constants.get(name))
        if tensor is None:
            raise ModelError(f"tensor {name!r} is missing", "it is no complete export: copy or export it again")
        given = content["arg"]["name"]
        if kind == "parameter" and id(tensor) not in parameters:
            trained = graph["tensor_values"][given]["requires_grad"] is True
            parameters[id(tensor)] = nn.Parameter(tensor.detach(), trained)
        found.append((given, name, parameters[id(tensor)] if kind == "parameter" else tensor.detach()))
    return found


def _registered(module: nn.Module, states: list[tuple[str, str, Tensor]]) -> list[tuple[nn.Module, str]]:
    """The place of every tensor in the module, in order."""
    names = torch_names({name for _, name, _ in states}, TAKEN)
    placed: dict[str, tuple[nn.Module, str]] = {}
    for _, name, tensor in states:
        if name not in placed:
            placed[name] = register(module, names[name], tensor)
    return [placed[name] for _, name, _ in states]


def _result(reader: GraphReader, content: Mapping[str, Any]) -> Slot:
    """The tensor that the program returns, or all that it returns where that is not one tensor."""
    specs = [single(spec)[0] for spec in content["signature"]["output_specs"]]
    outputs = [
        reader.value(entry)
        for kind, entry in zip(specs, content["graph"]["outputs"], strict=True)
        if kind == "user_output"
    ]
    kind, names = _returned(content)
    if kind is None and len(outputs) == 1 and isinstance(outputs[0], Slot):
        return outputs[0]
    if len(names) != len(outputs):
        names = [str(place) for place in range(len(outputs))]
    mapped = "dict" in str(kind).lower() or bool(names and not names[0].isdecimal())
    return reader.builder.call(partial(_mapping, names) if mapped else listed, outputs)


def _mapping(names: list[str], *values: Any) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _returned(content: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The type that the file says its program returns, by name, and the names of its entries; ``None`` for a tensor."""
    entry = next((e for e in content["module_call_graph"] if e["fqn"] == "" and e.get("signature")), None)
    if entry is None:
        return None, []
    _, specification = json.loads(entry["signature"]["out_spec"])
    kind = specification["type"]
    return None if kind is None else str(kind), _entries(specification.get("context"))


def _entries(context: Any) -> list[str]:
    """The names of the entries of a mapping, as the type of a result lists them; none of any other type."""
    try:
        names = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        return []
    plain = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    return list(dict.fromkeys(names)) if plain else []
