"""Every own operator against the examples that ONNX itself defines for it, all versions that they come in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto

from leakaudit.target.onnx.ops import find_own
from leakaudit.target.onnx.registry import OPERATORS, Operator, since_version
from leakaudit.target.onnx.values import attributes

NOT_COVERED = {
    "test_attention": "past keys and values, and the scores as a second output, belong to text generation",
    "test_bernoulli": "random",
    "test_l2normalization_axis_0": "0 / 0",
    "test_lstm_with_peepholes": "refused",
    "test_reduce_max_empty_set": "nothing to reduce",
    "test_reduce_min_empty_set": "nothing to reduce",
    "test_resize_downsample_scales_linear_align_corners": "onnxruntime rounds the size first, and so do we",
    "test_resize_downsample_scales_cubic_align_corners": "onnxruntime rounds the size first, and so do we",
    "test_resize_tf_crop_and_resize": "refused",
    "test_scatternd_max": "refused",
    "test_scatternd_min": "refused",
    "test_scatternd_multiply": "refused",
}
ATTENTION = ("past_and_present", "nonpad", "padded_kv", "qk_matmul", "mode3")
RECURRENT = ("LSTM", "GRU", "RNN")


@pytest.fixture(scope="module")
def examples() -> dict[str, list[Any]]:
    """ONNX's node test cases by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = pytest.importorskip("onnx.backend.test.case.node").collect_testcases(None)
    found: dict[str, list[Any]] = {}
    for case in cases:
        if case.model is not None and len(case.model.graph.node) == 1 and not case.model.graph.node[0].domain:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def left_out(name: str) -> bool:
    if name.startswith("test_attention"):
        return any(part in name for part in ATTENTION)
    return any(name.startswith(key) for key in NOT_COVERED if key != "test_attention")


def usable(arrays: list[Any]) -> bool:
    """Whether all are numbers of types that a network's tensors have."""
    kinds = [np.asarray(a).dtype for a in arrays if a is not None and not isinstance(a, list)]
    plain = all(k.name in ("float32", "float64", "int64", "int32", "bool") for k in kinds)
    return plain and not any(isinstance(a, list) for a in arrays)


def arguments(own: Operator, node: NodeProto, arrays: list[Any]) -> list[Any]:
    given = iter(arrays)
    values: list[Any] = []
    for index, name in enumerate(node.input):
        value = next(given) if name else None
        if value is None:
            values.append(None)
        elif index in own.host:
            values.append(np.asarray(value).tolist())
        else:
            array = np.array(value)
            values.append(torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array))
    while values and values[-1] is None:
        values.pop()
    return values


def comparisons(case: Any) -> Iterator[tuple[Any, Any]]:
    """Our results and the expected ones."""
    node = case.model.graph.node[0]
    own = find_own(node.op_type, since_version(node.op_type, case.model.opset_import[0].version))
    settings = attributes(node)
    if own is None or own.unknown_attributes(settings):
        return
    if own.training:
        settings["training"] = bool(settings.get("training_mode", 0))
    if own.count:
        settings["outputs"] = len(node.output)
    for inputs, outputs in case.data_sets:
        if not usable([*inputs, *outputs]):
            continue
        values = arguments(own, node, list(inputs))
        if not any(isinstance(value, torch.Tensor) for value in values):
            continue
        results = own.run(*values, **settings)
        results = results if isinstance(results, tuple | list) else (results,)
        named = [result for result, name in zip(results, node.output, strict=False) if name]
        yield from list(zip(named, outputs, strict=False))[: 1 if node.op_type == "BatchNormalization" else None]


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_examples_of_onnx(examples: dict[str, list[Any]], op: str) -> None:
    compared = 0
    for case in examples.get(op, []):
        if left_out(case.name):
            continue
        for result, expected in comparisons(case):
            # some expected values are written down with four digits
            np.testing.assert_allclose(
                np.asarray(result, dtype=np.float64), np.asarray(expected, dtype=np.float64),
                rtol=1e-4, atol=1e-4, err_msg=case.name,
            )  # fmt: skip
            compared += 1
    if not compared:
        pytest.skip("ONNX defines no example that can be run for it")
