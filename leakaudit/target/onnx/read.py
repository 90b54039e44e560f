"""Reading an ONNX file that nobody vouches for.

Claim: nothing is executed, nothing outside the model's folder is read, and memory stays within a small multiple of
what the file and its external data hold. Refused: text, truncated files, external data that leaves the folder or its
file, more of it than it holds, functions that call themselves or share a name, too many nodes when functions are
expanded, values that two nodes make, and graphs with a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from leakaudit.errors import ModelError
from leakaudit.safety.confined import grant
from leakaudit.target.onnx.allowance import WAY_OUT

MAX_FILE_BYTES = 2 << 30
"""A protobuf file cannot be larger; external data may add as much again."""
MAX_NODES = 15_000
"""Nodes after the local functions are expanded; chosen, more than twice what the largest classifiers have: looking at
one takes two milliseconds and more."""
TRUSTED_NODES = 200_000
"""The same of a file that the caller vouches for; chosen, so that memory lasts."""
REPEATS = 4
"""How often external data may be read, on average: tied weights are stored once; chosen."""


def read_model(path: Path, trusted: bool = False) -> ModelProto:
    """The checked, self-contained model in ``path``: external data loaded, local functions inlined, nodes in order.

    Args:
        path: The file.
        trusted: The caller vouches for it, so it may have more nodes.

    Raises:
        ModelError: The file is no ONNX model, is damaged, or asks for something that is never done.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ModelError(f"{path} has {size} bytes, more than an ONNX file may have ({MAX_FILE_BYTES})")
    model = _parse(path)
    if not model.graph.node:
        raise ModelError(f"{path} holds an ONNX graph without nodes", "export the model again")
    _check_functions(model, path, TRUSTED_NODES if trusted else MAX_NODES)
    _load_external_data(model, path)
    if model.functions:
        model = _inline(model, path)
    _sort_nodes(model.graph, path)
    return model


def _parse(path: Path) -> ModelProto:
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the model", "run `git lfs pull` to fetch it")
    if not content or _is_text(content[:4096]):
        raise ModelError(f"{path} holds text or nothing, not an ONNX model", "pass the exported .onnx file")
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model or is truncated ({error})", "export or copy it again") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it has no graph or no operator set", "export it again")
    if not all(isinstance(name, str) for name in _all_names(model)):  # protobuf hands such names out as bytes
        raise ModelError(f"{path} holds names that are not UTF-8 text", "the file is damaged: export or copy it again")
    return model


def _all_names(model: ModelProto) -> Iterator[str | bytes]:
    """Every name in a model, those in subgraphs and functions included."""
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    nodes = list(all_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]))
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (name for attribute in node.attribute for name in (attribute.name, attribute.ref_attr_name))
    for graph in (model.graph, *_graphs_of(nodes)):
        yield graph.name
        yield from (part.name for part in (*graph.initializer, *graph.input, *graph.output, *graph.value_info))
    for tensor in _tensors(model):
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\r\n\t" for character in text)


def _graphs_of(nodes: Iterator[NodeProto] | list[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs


def all_nodes(nodes: list[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those of all subgraphs."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for graph in _graphs_of([node]):
            pending.extend(graph.node)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    roots = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in all_nodes(roots):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from attribute.g.initializer
            for graph in attribute.graphs:
                yield from graph.initializer


def _load_external_data(model: ModelProto, path: Path) -> None:
    outside = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    held = sum(file.stat().st_size for file in {_external_file(tensor, path) for tensor in outside})
    grant(8 * held)
    total = 0
    for tensor in outside:
        content = _external_bytes(tensor, path)
        total += len(content)
        if total > min(MAX_FILE_BYTES, REPEATS * held):
            raise ModelError(f"{path} takes more than {total} bytes from external data that has {held}", _HOSTILE)
        tensor.raw_data = content
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


_HOSTILE = "the file is damaged or hostile: export or copy it again"


def external_files(path: Path) -> list[Path]:
    """The files of external data that an ONNX file names, in the order of their names; none if it cannot be read.

    Raises:
        ModelError: One is missing or outside the model's folder.
    """
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return []
    outside = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    return sorted({_external_file(tensor, path) for tensor in outside})


def _external_file(tensor: TensorProto, path: Path) -> Path:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.resolve().parent
    where: Path = (folder / location).resolve()
    if not location or where == folder or folder not in where.parents:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} wants data from {location!r}, outside the model's folder",
            "keep the external data beside the model file",
        )
    if not where.is_file():
        raise ModelError(
            f"{path}: tensor {tensor.name!r} needs the file {location!r}, which is not there",
            "put the external data file beside the model, or export with external_data=False",
        )
    return where


def _external_bytes(tensor: TensorProto, path: Path) -> bytes:
    where = _external_file(tensor, path)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries["location"]
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", where.stat().st_size - offset))
    except ValueError:
        raise ModelError(f"{path}: tensor {tensor.name!r} has an unreadable offset or length") from None
    if offset < 0 or length < 0 or length > MAX_FILE_BYTES or offset + length > where.stat().st_size:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} wants bytes {offset}..{offset + length} of {location!r}, "
            f"which has {where.stat().st_size}",
            "the external data file is truncated or belongs to another model",
        )
    with where.open("rb") as file:
        file.seek(offset)
        content: bytes = file.read(length)
        return content


_Key = tuple[str, str, str]
"""Domain, name and overload of a local function."""


def _check_functions(model: ModelProto, path: Path, most: int) -> None:
    """Refuse recursive functions, two of one name, and more nodes than `most` when functions are expanded."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    if len(functions) < len(model.functions):
        raise ModelError(f"{path} holds two local functions of one name", _HOSTILE)
    sizes: dict[_Key, int] = {}
    for key in functions:
        _expanded_size(key, functions, sizes, path)
    total = sum(sizes.get(_called(node), 1) for node in all_nodes(list(model.graph.node)))
    if total > most:
        expanded = " when its functions are expanded" if model.functions else ""
        raise ModelError(f"{path} has {total} nodes, more than {most}{expanded}", WAY_OUT)


def _called(node: NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _expanded_size(root: _Key, functions: dict[_Key, FunctionProto], sizes: dict[_Key, int], path: Path) -> None:
    """Fill ``sizes`` for ``root`` and what it calls; depth first without recursion, so depth costs no stack."""
    stack, active = [root], set()
    while stack:
        key = stack[-1]
        if key in sizes:
            stack.pop()
            continue
        calls = [_called(node) for node in all_nodes(list(functions[key].node))]
        pending = [call for call in calls if call in functions and call not in sizes]
        if key in active and any(call in active for call in pending):
            raise ModelError(f"{path}: local function {key[1]!r} calls itself", "export without local functions")
        active.add(key)
        if pending:
            if any(call in active for call in pending):
                raise ModelError(f"{path}: local function {key[1]!r} calls itself", "export without local functions")
            stack.extend(pending)
            continue
        sizes[key] = min(1 + sum(sizes.get(call, 1) for call in calls), 10 * TRUSTED_NODES)
        active.discard(key)
        stack.pop()


def _inline(model: ModelProto, path: Path) -> ModelProto:
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the C++ inliner raises bare RuntimeError and ConvertError types of its own
        raise ModelError(
            f"{path}: its local functions cannot be expanded ({error})", "export with torch.onnx.export(dynamo=True)"
        ) from error


def _sort_nodes(graph: GraphProto, path: Path) -> None:
    """Put the nodes in order of execution; old exporters do not always. A cycle has no such order."""
    producers = _producers(graph, path)
    waiting: list[set[int]] = []
    users: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        needed = {producers[name] for name in _inputs_of(node) if name in producers}
        waiting.append(needed)
        for source in needed:
            users.setdefault(source, []).append(index)
    ready = [index for index in range(len(waiting) - 1, -1, -1) if not waiting[index]]
    order: list[int] = []
    while ready:
        index = ready.pop()
        order.append(index)
        for user in reversed(users.get(index, [])):
            waiting[user].discard(index)
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(graph.node):
        stuck = next(node for index, node in enumerate(graph.node) if waiting[index])
        raise ModelError(f"{path}: the graph has a cycle through node {stuck.name or stuck.op_type!r}")
    if order != list(range(len(order))):
        nodes = [graph.node[index] for index in order]
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(ordered)


def _producers(graph: GraphProto, path: Path) -> dict[str, int]:
    """Position of the node that makes each value.

    Raises:
        ModelError: Two nodes make it, or it is given as well.
    """
    given = {part.name for part in (*graph.input, *graph.initializer)}
    found: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in found or name in given:
                raise ModelError(f"{path}: the value {name!r} is made twice, by node {_label(node)}", _HOSTILE)
            found[name] = index
    return found


def _label(node: NodeProto) -> str:
    return repr(node.name or node.op_type)


def _inputs_of(node: NodeProto) -> set[str]:
    """Names that a node reads, those that its subgraphs read from outside included."""
    names = set(node.input)
    for inner in all_nodes([node]):
        names.update(inner.input)
    return names - {""}
