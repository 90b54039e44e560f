"""Model files whose every free string holds Python that would create a marker file, if anything ran it."""

from __future__ import annotations

import inspect
import io
import json
import pickle
import random
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from leakaudit.target.onnx.ops import find_own
from tests.target import build

TEMPLATES = (
    "'))\ropen({m},'w')\rdef g():\r    pass #",
    "'))\n    open({m},'w')\n    #",
    "\"))\ropen({m},'w')\rdef g(x=0):\r    pass #",
    "'+open({m},'w').name+'",
    '"+open({m},"w").name+"',
    '", open({m}, "w"), "',
    "x=open({m},'w')",
    "open({m},'w')",
    "__import__('pathlib').Path({m}).touch()",
    "(lambda: open({m},'w'))()",
    "[open({m},'w') for _ in (1,)]",
    "\uff4f\uff50\uff45\uff4e({m},'w')",
    "{wide}",
    '"""\nopen({m},"w")\n"""',
    "\x0copen({m},'w')\x0c",
    "\u2028open({m},'w')\u2028",
    "a\\\nopen({m},'w')",
    "{{{{ cycler.__init__.__globals__.os.mkdir({m}) }}}}",
    "{{% set x = cycler.__init__.__globals__.os.mkdir({m}) %}}",
    "{{open({m},'w')}}",
    "$(touch {m})",
    "`touch {m}`; touch {m} #",
    "self, x=open({m},'w'), *a",
    "x: open({m},'w') = 1",
    "x):\n    open({m},'w')\n#",
    "a.__class__.__init__.__globals__['open']({m},'w')",
    "<script>require('fs').writeFileSync({m})</script>",
    "::set-output name=x::\nopen({m},'w')",
)


BREAKING = TEMPLATES[:3]
"""Those that leave a string inside a call and the function around it."""


def wide(marker: Path) -> str:
    """A size that calls `open` by attributes in full-width letters, which Python reads as the plain ones."""

    def letters(text: str) -> str:
        return "".join(chr(ord(letter) + 0xFEE0) for letter in text)

    name, get = f".{letters('name')}", f".{letters('get')}"
    scope = f"FloorDiv.{letters('eval')}.{letters('__globals__')}{get}(Symbol('__builtins__'){name})"
    call = f"{scope}{get}(Symbol('open'){name}).{letters('__call__')}"
    return f"{call}(Symbol('{marker.name}'){name}, Symbol('w'){name})"


class Speaker:
    """Gives a new hostile string at each call; no two are equal."""

    def __init__(self, seed: int, marker: Path, sentinel: str) -> None:
        self.random = random.Random(seed)
        self.parts = {"m": repr(str(marker)), "wide": wide(marker)}
        self.sentinel, self.count = sentinel, 0

    def __call__(self, templates: Sequence[str] = TEMPLATES) -> str:
        self.count += 1
        return f"{self.random.choice(templates).format(**self.parts)} #{self.sentinel}{self.count}"

    def size(self) -> str:
        """A hostile string in the place of a size: full-width letters and no more, or any."""
        return self.parts["wide"] if self.random.random() < 0.5 else self()

    def sometimes(self, text: str, share: float = 0.7) -> str:
        """A hostile string, or the honest one."""
        return self() if self.random.random() < share else text


class Payload:
    """Creates the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def _weights(*shapes: tuple[str, tuple[int, ...]]) -> list[TensorProto]:
    return [build.tensor(name, *shape) for name, shape in shapes]


def _graphs() -> list[tuple[list[NodeProto], list[TensorProto], tuple[int | str, ...]]]:
    node = helper.make_node
    tail, ends = build.linear(source="h")
    image = ("N", 1, 3, 4)
    then = helper.make_graph(
        [node("Relu", ["x"], ["p"], "then")], "yes", [], [helper.make_tensor_value_info("p", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [node("Neg", ["x"], ["q"], "else")], "no", [], [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)]
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    shape = numpy_helper.from_array(np.array([0, 12], dtype=np.int64), "shape")
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64), "pads")
    middle = _weights(("first", (12, 12)), ("offset", (12,)))
    batch = [numpy_helper.from_array(np.full(12, v, dtype=np.float32), n) for n, v in
             (("scale", 1.1), ("shift", 0.1), ("mean", 0.2), ("variance", 0.9))]  # fmt: skip
    dense = node("Gemm", ["x", "first", "offset"], ["a"], "dense", transB=1)
    return [
        (*build.linear(), ("N", 12)),
        ([dense, node("Relu", ["a"], ["h"], "act"), *tail], [*middle, *ends], ("N", 12)),
        ([dense, node("Gelu", ["a"], ["h"], "act", approximate="tanh"), *tail], [*middle, *ends], ("N", 12)),
        ([dense, node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"], "bn"),
          node("Dropout", ["b"], ["h"], "drop"), *tail], [*middle, *batch, *ends], ("N", 12)),
        ([node("If", ["condition"], ["h"], "if", then_branch=then, else_branch=other), *tail],
         [condition, *ends], ("N", 12)),
        ([node("Conv", ["x", "kernel"], ["c"], "conv", auto_pad="SAME_UPPER"), node("Sigmoid", ["c"], ["s"], "act"),
          node("Reshape", ["s", "shape"], ["h"], "flat"), *tail], [*_weights(("kernel", (1, 1, 3, 3))), shape, *ends],
         image),
        ([node("Pad", ["x", "pads"], ["c"], "pad", mode="reflect"), node("Conv", ["c", "kernel"], ["s"], "conv"),
          node("Flatten", ["s"], ["h"], "flat"), *tail], [*_weights(("kernel", (1, 1, 3, 3))), pads, *ends], image),
        ([node("Einsum", ["x", "square"], ["h"], "sum", equation="bi,ij->bj"), *tail],
         [*_weights(("square", (12, 12))), *ends], ("N", 12)),
    ]  # fmt: skip


def onnx_file(path: Path, seed: int, marker: Path, sentinel: str) -> Path:
    """The hostile ONNX file of a seed: a small network whose free strings are Python."""
    say = Speaker(seed, marker, sentinel)
    nodes, tensors, shape = _graphs()[seed % len(_graphs())]
    model = ModelProto.FromString(build.write(path, nodes, tensors, shape=shape, opset=20).read_bytes())
    names: dict[str, str] = {"": ""}
    _rename(model.graph, say, names)
    if seed % 3 == 0:
        _as_function(model, say)
    model.producer_name, model.producer_version, model.domain, model.doc_string = say(), say(), say(), say()
    for key in (say(), say()):
        model.metadata_props.add(key=key, value=say())
    attributes = [a for node in _every_node(model.graph) for a in node.attribute if a.type == AttributeProto.STRING]
    for attribute in attributes:
        attribute.s = say.sometimes(attribute.s.decode(), 0.2).encode()
    if say.random.random() < 0.4:
        _add_attribute(say.random.choice(list(_every_node(model.graph))), say)
    path.write_bytes(model.SerializeToString())
    return path


def _every_node(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _every_node(attribute.g)


def _rename(graph: GraphProto, say: Speaker, names: dict[str, str]) -> None:
    """Give every value, node and graph a hostile name; `names` is shared with the graphs inside."""

    def new(name: str) -> str:
        return names.setdefault(name, say.sometimes(name))

    graph.name, graph.doc_string = say(), say()
    graph.metadata_props.add(key=say(), value=say())
    for part in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.name, part.doc_string = new(part.name), say()
    for info in (*graph.input, *graph.output):
        for size in info.type.tensor_type.shape.dim:
            if size.HasField("dim_param"):
                size.dim_param = say()
        info.type.denotation = say()
    for node in graph.node:
        node.name, node.doc_string = say.sometimes(node.name), say()
        node.metadata_props.add(key=say(), value=say())
        for part in (node.input, node.output):
            part[:] = [new(name) for name in part]
        for attribute in node.attribute:
            attribute.doc_string = say()
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g, say, names)
    graph.value_info.append(helper.make_tensor_value_info(say(), TensorProto.FLOAT, [say(), 3]))


def _as_function(model: ModelProto, say: Speaker) -> None:
    """Put the last node into a local function of a hostile name and domain."""
    last = model.graph.node[-1]
    name, domain = say(), say()
    inner = NodeProto.FromString(last.SerializeToString())
    inputs, output = [say() for _ in last.input], say()
    inner.input[:], inner.output[:] = inputs, [output]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    model.functions.append(helper.make_function(domain, name, inputs, [output], [inner], opsets[:1], doc_string=say()))
    model.opset_import.append(opsets[1])
    last.op_type, last.domain = name, domain
    del last.attribute[:]


def _keywords(op_type: str) -> set[str]:
    """Attributes that the function behind an operator takes; none of a function of torch itself."""
    operator = find_own(op_type, 20)
    try:
        known = [] if operator is None else list(inspect.signature(operator.run).parameters.values())
    except ValueError:
        return set()
    return {parameter.name for parameter in known if parameter.kind is parameter.KEYWORD_ONLY}


def _add_attribute(node: NodeProto, say: Speaker) -> None:
    """A further attribute of a kind that does not belong there."""
    inner = helper.make_graph([], say(BREAKING), [], [])
    others: list[Any] = [
        [inner, inner],
        say(),
        [say()],
        build.tensor(say(), 2),
        helper.make_tensor_type_proto(1, [say()]),
    ]
    value = inner if say.random.random() < 0.5 else say.random.choice(others)
    free = _keywords(node.op_type) - {attribute.name for attribute in node.attribute}
    name = say.random.choice(sorted(free)) if free and say.random.random() < 0.8 else say()
    node.attribute.append(helper.make_attribute(name, value))


class Small(torch.nn.Module):
    """A network whose export holds sizes, parts without gradient, dropout, BatchNorm and a constant."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.last = torch.nn.Linear(12, 12), torch.nn.Linear(12, 4)
        self.norm, self.drop = torch.nn.BatchNorm1d(12), torch.nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 4) of ``x`` (N, 12)."""
        h = torch.nn.functional.gelu(self.first(x), approximate="tanh")
        if self.kind == 1:
            with torch.no_grad():
                h = h + self.drop(x * 2)
        if self.kind == 2:
            left, right = self.norm(h).chunk(2, 1)
            h = torch.cat([right, left], 1) + torch.arange(12) + x.new_ones(x.shape[0], 12)
        result: torch.Tensor = self.last(h)
        return result


def bases(folder: Path) -> list[Path]:
    """The honest exports that `pt2_file` alters."""
    found = []
    for kind in range(3):
        model, path = Small(kind).eval(), folder / f"base{kind}.pt2"
        dynamic = ({0: torch.export.Dim("N", min=2, max=64)},) if kind else None
        torch.export.save(torch.export.export(model, (torch.rand(2, 12),), dynamic_shapes=dynamic), path)
        found.append(path)
    return found


_NAME_KEYS = ("name", "as_name")
_FREE_KEYS = (
    "torch_version", "forward_arg_names", "in_spec", "out_spec", "fqn", "guards_code", "verifiers",
    "stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom",
)  # fmt: skip
_RARE_KEYS = ("as_string", "target", "path_name", "class_fqn", "type")


def pt2_file(path: Path, base: Path, seed: int, marker: Path, sentinel: str) -> Path:
    """The hostile ``.pt2`` of a seed: an export whose free strings are Python, with pickles that run on opening."""
    say = Speaker(seed, marker, sentinel)
    names: dict[str, str] = {}
    with zipfile.ZipFile(base) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    for inner in list(members):
        if inner.endswith(".json"):
            members[inner] = json.dumps(_said(json.loads(members[inner]), "", say, names)).encode()
    saved = io.BytesIO()
    torch.save(Payload(marker), saved)
    if say.random.random() < 0.3:
        members["data/sample_inputs/model.pt"] = saved.getvalue()
    extra = {
        "data/constants/custom_obj_0": pickle.dumps(Payload(marker)), "data/constants/opaque_obj_0": b"x",
        "data/weights/Model.pt": saved.getvalue(), "MODELS/model.json": members["models/model.json"],
        "models/" + say(): b"{}", "models/other.json": members["models/model.json"], "data/weights/weight_9": b"12",
        "extra/" + say().replace("/", "_"): say().encode(), "data/aotinductor/model/x.so": b"\x7fELF",
    }  # fmt: skip
    if say.random.random() < 0.3:
        chosen = say.random.choice(list(extra))
        members[chosen] = extra[chosen]
    folder = say.sometimes(root, 0.3).replace("/", "_").replace("\0", "")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, content in members.items():
            archive.writestr(f"{folder}/{inner}", content)
    return path


def _said(value: Any, key: str, say: Speaker, names: dict[str, str]) -> Any:
    """A JSON value with hostile strings in the place of free ones; names that belong together stay so."""

    def new(name: str) -> str:
        return names.setdefault(name, say.sometimes(name)) if name else name

    if isinstance(value, dict):
        named = key in ("tensor_values", "sym_int_values", "sym_bool_values", "config", "range_constraints")
        return {(new(k) if named else k): _said(v, k, say, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_said(item, key, say, names) for item in value]
    if not isinstance(value, str):
        return value
    if key in _NAME_KEYS or (key.endswith("_name") and key != "path_name"):
        # the names of an operator's arguments are torch's, those of values are free
        return value if value in _ARGUMENTS else new(value)
    if key in ("in_spec", "out_spec"):
        return say.sometimes(_tree(value, say), 0.1)
    if key == "expr_str":
        return say.size()
    if key in _FREE_KEYS:
        return say.sometimes(value)
    return say.sometimes(value, 0.02) if key in _RARE_KEYS else value


_ARGUMENTS = frozenset({
    "input", "weight", "bias", "self", "other", "p", "train", "training", "running_mean", "running_var", "momentum",
    "eps", "cudnn_enabled", "approximate", "dim", "chunks", "tensors", "size", "end", "device", "pin_memory",
})  # fmt: skip


def _tree(specification: str, say: Speaker) -> str:
    """A tree specification that would import a module or look up a type."""
    if say.random.random() < 0.5:
        return specification
    context = json.dumps([{"__enum__": True, "fqn": f"{say()}:x", "name": say()}])
    leaf = {"type": None, "context": None, "children_spec": []}
    kind = say.random.choice(["builtins.dict", say()])
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])
