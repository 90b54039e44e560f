"""The classifier's head: which output holds the scores, and the logits behind its softmax.

Several heads that a stated loss is over are joined to one output, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from leakaudit.errors import ModelError, UsageError
from leakaudit.target.onnx.read import all_nodes
from leakaudit.target.onnx.source import Source
from leakaudit.target.onnx.values import type_name
from leakaudit.tasks.heads_text import HeadTerm, parse_heads

JOINED = "leakaudit_heads"
"""The output that several are joined to; the value of each of them has its place behind the name."""

_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"})
_REAL = frozenset({
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.UNDEFINED
})  # fmt: skip
"""Types of outputs that a loss can be over; a file may leave the type out."""
_HEADS = {"Softmax": "softmax", "LogSoftmax": "logsoftmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Head:
    """Where the logits are.

    Args:
        logits: Name of the value in front of the head's activation.
        activation: softmax, logsoftmax, sigmoid, or "" if the file ends in logits.
        outputs: All float outputs of the graph.
        chosen: The output that was followed.
    """

    logits: str
    activation: str
    outputs: tuple[str, ...]
    chosen: str


def find(graph: GraphProto, nodes: list[NodeProto], output: str | None, path: str) -> Head:
    """Follow the chosen (or first float) output back to the logits.

    Raises:
        UsageError: There is no such output.
        ModelError: No output holds real numbers.
    """
    names = tuple(dict.fromkeys(info.name for info in graph.output))
    floats = tuple(
        dict.fromkeys(
            info.name
            for info in graph.output
            if info.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.UNDEFINED)
        )
    )
    if output is not None and output not in names:
        raise UsageError(f"{path} has no output {output!r}; it has {', '.join(map(repr, names))}", "correct --output")
    if output is None and not floats:
        raise ModelError(
            f"{path} has no output of real numbers, only {', '.join(map(repr, names))}", "export the logits"
        )
    chosen = output if output is not None else floats[0]
    logits, activation = _behind(chosen, {name: node for node in nodes for name in node.output})
    return Head(logits, activation, floats, chosen)


@dataclass(frozen=True)
class Joined:
    """Several outputs that were joined to one.

    Args:
        terms: Their names and weights, the main one first.
        values: Names of the values that hold their logits, one row of numbers per sample each.
        activation: That stood behind the logits of the main one, as of `Head`.
        output: Name of the output that holds all.
    """

    terms: tuple[HeadTerm, ...]
    values: tuple[str, ...]
    activation: str
    output: str

    def told(self, source: Source) -> Source:
        """A source of the rewritten file, with the outputs and the activation of the file as it was."""
        outputs = tuple(name for name in source.outputs if name != self.output)
        return replace(source, outputs=outputs, head=self.activation)

    def logits(self, source: Source) -> tuple[str, ...]:
        """Names of the logits of each head, before they become a row."""
        rows = {node.output[0]: node.input[0] for node in source.nodes if node.output[0] in self.values}
        return tuple(rows[value] for value in self.values)


def join(model: ModelProto, output: str | None, path: str) -> Joined | None:
    """Join the outputs that a stated loss is over to one, in place; ``None`` where one output is asked for.

    Args:
        model: As it was read.
        output: As `leakaudit.tasks.heads_text.parse_heads` takes it.
        path: For messages.

    Raises:
        UsageError: It does not fit the outputs that there are.
    """
    kinds = {info.name: info.type.tensor_type.elem_type for info in model.graph.output}
    terms = None if output is None else parse_heads(output, list(kinds), path)
    if terms is None:
        return None
    for term in terms:
        if kinds[term.name] not in _REAL:
            held = type_name(kinds[term.name])
            raise UsageError(
                f"output {term.name!r} of {path} holds {held} values, expected real numbers for each sample",
                "leave it out of --output",
            )
    found = [find(model.graph, list(model.graph.node), term.name, path) for term in terms]
    taken = {name for node in all_nodes(list(model.graph.node)) for name in node.output}
    name = JOINED
    while any(value.startswith(name) for value in taken):
        name += "_"
    values = tuple(f"{name}_{place}" for place in range(len(found)))
    for head, value in zip(found, values, strict=True):
        model.graph.node.append(helper.make_node("Flatten", [head.logits], [value], name=value, axis=1))
    model.graph.node.append(helper.make_node("Concat", values, [name], name=name, axis=1))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return Joined(terms, values, found[0].activation, name)


def _behind(name: str, producers: dict[str, NodeProto]) -> tuple[str, str]:
    while name in producers and producers[name].op_type == "ZipMap":  # scikit-learn's probabilities by class
        name = producers[name].input[0]
    start, logarithm = name, False
    while name in producers:
        node = producers[name]
        if node.op_type in _HEADS and not (logarithm and node.op_type == "Sigmoid"):
            activation = _HEADS[node.op_type]
            return node.input[0], "logsoftmax" if logarithm else activation
        if node.op_type == "Log" and not logarithm:
            logarithm = True
        elif node.op_type not in _VIEWS:
            break
        name = node.input[0]
    return start, ""
