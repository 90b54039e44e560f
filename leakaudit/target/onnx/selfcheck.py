"""Does the module compute what the file says? Compared with an independent implementation of ONNX.

``onnxruntime`` where it is installed and can run the file, else ``onnx.reference``. The same random inputs go through
both; the logits may differ by 1e-3 of their size at most, otherwise the model is refused: a wrong import would audit
another network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper

from leakaudit.errors import ModelError, first_line
from leakaudit.target.answers import answered
from leakaudit.target.onnx.module import OnnxModule
from leakaudit.target.onnx.roles import all_inputs
from leakaudit.target.onnx.source import Source
from leakaudit.target.probe import sample

LIMIT = 1e-3
_RANDOM = frozenset(
    {"RandomUniformLike", "RandomNormalLike", "Bernoulli", "RandomUniform", "RandomNormal", "Multinomial"}
)
_SLOW = frozenset({"Resize", "Upsample"})
"""Operators that onnx.reference computes entry by entry in Python."""


@dataclass(frozen=True)
class Check:
    """Result of the comparison.

    Args:
        difference: Largest absolute difference of the logits; ``None`` if there was no comparison.
        relative: The same, divided by the largest logit (or 1, if that is larger).
        reference: What it was compared with.
        reason: Why there was no comparison, or "".
    """

    difference: float | None
    relative: float | None
    reference: str
    reason: str = ""


@answered(Check)
def compare(
    model: ModelProto,
    module: OnnxModule,
    source: Source,
    native: tuple[int, ...],
    path: str,
    vocabulary: int | None = None,
) -> Check:
    """Compare a module in eval mode with the file it came from, on random inputs or token ids of the vocabulary.

    Weights that the model is without (`leakaudit.target.onnx.weightless`) are the module's, which are the same.

    Raises:
        ModelError: They differ by more than `LIMIT`.
    """
    noise = sorted({node.op_type for node in source.nodes if node.op_type in _RANDOM})
    if noise:
        return Check(None, None, "", f"it draws random numbers ({', '.join(noise)})")
    proto = inference(model, source.output_name, [source.input_name])
    inputs = sample(source.batch or 1, native, 2, vocabulary, (-0.5, 1.5))
    given = inputs.numpy() if source.integer is None else inputs.numpy().astype(source.integer)
    held = module.tensors()
    weights = {info.name: held[info.name].detach().numpy() for info in proto.graph.input if info.name in held}
    expected, reference = computed(proto, {source.input_name: given, **weights})
    if expected is None:
        return Check(None, None, "", reference)
    with torch.no_grad():
        actual = module(inputs).numpy().reshape(-1)
    expected = expected.astype(np.float64).reshape(-1)
    if actual.shape != expected.shape:
        raise ModelError(f"{path}: {reference} gives {expected.size} numbers, the imported model {actual.size}")
    difference = float(np.abs(actual - expected).max())
    relative = difference / max(1.0, float(np.abs(expected).max()))
    if not relative <= LIMIT:
        raise ModelError(
            f"{path} is not imported faithfully: logits differ from {reference} by {difference:.3g} (limit {LIMIT})",
            "please report the file; meanwhile pass weights with --factory package.module:function",
        )
    return Check(difference, relative, reference)


def inference(model: ModelProto, output: str, inputs: Sequence[str]) -> ModelProto:
    """The part of the model from some inputs up to an output, with training-mode nodes switched to inference.

    Tensors without data become further inputs.
    """
    nodes = []
    for original in model.graph.node:
        node = NodeProto.FromString(original.SerializeToString())
        if node.op_type == "Dropout":
            name, target = node.input[0], node.output[0]
            node = helper.make_node("Identity", [name], [target], name=node.name)
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            kept = [a for a in node.attribute if a.name not in ("training_mode", "is_test")]
            if any(a.name == "is_test" for a in node.attribute):
                kept.append(helper.make_attribute("is_test", 1))
            del node.attribute[:]
            node.attribute.extend(kept)
        nodes.append(node)
    needed, kept_nodes = {output}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept_nodes.append(node)
            needed.update(all_inputs(node))
    initial = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    given = [tensor for tensor in initial if tensor.data_location == TensorProto.EXTERNAL]
    initial = [tensor for tensor in initial if tensor.data_location != TensorProto.EXTERNAL]
    infos = [info for info in model.graph.input if info.name in inputs]
    infos += [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in given]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(kept_nodes[::-1], model.graph.name or "graph", infos, [result], initial)
    proto = helper.make_model(graph, opset_imports=list(model.opset_import))
    proto.ir_version = min(max(model.ir_version, 4), 10)
    return proto


def computed(proto: ModelProto, feeds: dict[str, Any]) -> tuple[Any, str]:
    """The one output by the first implementation that can run the model, and its name; or ``None`` and the reason."""
    problems = []
    for name, evaluate in (("onnxruntime", _runtime), ("onnx.reference", _reference)):
        try:
            return evaluate(proto, feeds), name
        except Exception as error:  # third-party interpreters raise types of their own; the reason is reported
            problems.append(f"{name}: {first_line(error, 160)}")
    return None, "; ".join(problems)


def load_runtime() -> Any:
    """The module ``onnxruntime``, which sends nothing: its builds since 1.31 report to their maker unless told not to.

    The variable is read when the library is loaded, before anything could be called; the call stops what was not.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _runtime(proto: ModelProto, feeds: dict[str, Any]) -> Any:
    onnxruntime = load_runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    return session.run(None, feeds)[0]


def _reference(proto: ModelProto, feeds: dict[str, Any]) -> Any:
    from onnx.reference import ReferenceEvaluator

    slow = sorted({node.op_type for node in proto.graph.node} & _SLOW)
    if slow:
        raise NotImplementedError(f"it would take hours for {', '.join(slow)} nodes")
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(proto, new_ops=[_batch_normalization()]).run(None, feeds)[0]


def _batch_normalization() -> Any:
    """BatchNorm in inference; onnx.reference takes a ``momentum`` (opset 9 to 13) for training and lacks opset 7."""
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(self, x: Any, scale: Any, shift: Any, mean: Any, variance: Any, **attributes: Any) -> tuple[Any]:
            epsilon = attributes.get("epsilon") or getattr(self, "epsilon", None) or 1e-5
            shape = (1, -1, *(1,) * (x.ndim - 2)) if attributes.get("spatial") != 0 else (1, *x.shape[1:])
            factor = (scale / np.sqrt(variance + epsilon)).reshape(shape)
            result = (x - mean.reshape(shape)) * factor + shift.reshape(shape)
            return (result.astype(x.dtype),)

    return BatchNormalization
