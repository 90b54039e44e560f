"""The classifier's head: which output holds the scores, and the logits behind its softmax."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

from leakaudit.errors import ModelError, UsageError

_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"})
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
