"""A ``.pt2`` file as a module, with what its graph says about its input."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from leakaudit.target.several import Input, Inputs

_RECURRENT = ("torch.ops.aten.lstm.", "torch.ops.aten.gru.", "torch.ops.aten.rnn_")
_MAJOR = 8
"""Version of the format that is known."""


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
        return _built(contents, path)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, RecursionError) as error:
        raise ModelError(
            f"{path} does not describe a program ({type(error).__name__}: {str(error)[:160]})",
            "it is damaged, or of a torch version that is not known: export it again",
        ) from error


def _built(contents: Contents, path: Path) -> Exported:
    program = contents.program
    if program["schema_version"]["major"] != _MAJOR:
        raise ModelError(
            f"it has version {program['schema_version']['major']} of the format, expected {_MAJOR}",
            "export it with another torch version",
        )
    content = program["graph_module"]
    graph = content["graph"]
    inputs = _several(graph, content["signature"])
    shape, integer = _input_shape(graph, content["signature"])
    module = _module(contents, content)
    batch = shape[0] if shape else None
    fixed = [size for size in shape[1:] if size is not None]
    image: tuple[int, ...] | None = None
    if len(fixed) == len(shape) - 1 in (1, 2, 3, 4):
        image = (1, 1, *fixed) if integer and len(fixed) == 1 else tuple(fixed)
    recurrent = any(str(node["target"]).startswith(_RECURRENT) for node in graph["nodes"])
    image = image if inputs is None else None
    return Exported(module, image, batch, recurrent and batch is not None, inputs)


def _user_inputs(signature: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that the program is called with."""
    specs = [single(spec) for spec in signature["input_specs"]]
    return [
        content["arg"]["as_tensor"]["name"] if "as_tensor" in content["arg"] else ""
        for kind, content in specs
        if kind == "user_input"
    ]


def _input_shape(graph: Mapping[str, Any], signature: Mapping[str, Any]) -> tuple[list[int | None], bool]:
    """Shape of the first input, ``None`` where it is open, and whether it holds integers."""
    names = _user_inputs(signature)
    if not names or not all(names):
        raise ModelError("its input is not a tensor", "export it with a single tensor")
    meta = graph["tensor_values"][names[0]]
    sizes = [whole(size) if "as_int" in size else None for size in meta["sizes"]]
    return sizes, not DTYPES[meta["dtype"]].is_floating_point


def _several(graph: Mapping[str, Any], signature: Mapping[str, Any]) -> Inputs | None:
    """The inputs by name, where there is more than one.

    Raises:
        ModelError: One is of no such numbers, or leaves its size open.
    """
    names = _user_inputs(signature)
    if len(names) < 2 or not all(names):
        return None
    found = []
    for name in names:
        meta = graph["tensor_values"][name]
        sizes = [whole(size) if "as_int" in size else None for size in meta["sizes"]]
        fixed = [size for size in sizes[1:] if size is not None]
        whole_numbers = DTYPES[meta["dtype"]] in (torch.int32, torch.int64)
        real = DTYPES[meta["dtype"]].is_floating_point
        if not sizes or len(fixed) < len(sizes) - 1 or not (real or (whole_numbers and len(fixed) < 2)):
            raise ModelError(
                f"it takes {len(names)} inputs ({', '.join(names)}), and {name!r} is of any size, or of no numbers: "
                "expected numbers (N, D) and integers (N, C), or numbers beside a picture",
                "export it with inputs of fixed sizes beside the batch axis",
            )
        found.append(Input(name, tuple(fixed), whole_numbers))
    return Inputs(tuple(found))


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
