"""A small text classifier, its ONNX file and a file of texts, for the tests of models over token ids."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from leakaudit.domains.tokens import Tokens
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.target.build import tensor

VOCABULARY, LENGTH, CLASSES = 60, 8, 4


class TextClassifier(nn.Module):
    """Embedding and learned positions, a transformer encoder, mean pooling, a linear head."""

    def __init__(self, layers: int = 1, positions: bool = True, table: bool = True, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, width)
        self.table.weight.requires_grad_(table)
        self.positions = nn.Parameter(torch.randn(1, LENGTH, width), requires_grad=positions)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.table(ids) + self.positions[:, : ids.shape[1]]).mean(1))
        return logits


def text_target(module: nn.Module | None = None) -> Target:
    """The classifier as a Target."""
    domain = Tokens.of(LENGTH, VOCABULARY, "table.weight")
    net = (module or TextClassifier()).eval()
    return Target(net, "text", "module", (LENGTH,), "tokens", domain, SingleLabel(CLASSES))


def export_text(module: nn.Module, path: Path, *, open_length: bool = False) -> Path:
    """Write the classifier as ONNX with the input ``ids``."""
    axes = {0: "N", 1: "L"} if open_length else {0: "N"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(1, LENGTH, dtype=torch.long),), str(path), dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["ids"], output_names=["logits"], dynamic_axes={"ids": axes},
        )  # fmt: skip
    return path


def random_ids(count: int, seed: int = 0, length: int = LENGTH) -> np.ndarray[Any, Any]:
    """Token ids (count, length) with the frequencies of a language: rank to the power of minus one."""
    chances = 1 / np.arange(1, VOCABULARY + 1)
    return np.random.default_rng(seed).choice(VOCABULARY, (count, length), p=chances / chances.sum())


def write_texts(path: Path, count: int = 24, **arrays: Any) -> Path:
    """Write a batch file; further arrays replace or join ``inputs`` and ``labels``."""
    np.savez(path, **{"inputs": random_ids(count), "labels": np.arange(count) % CLASSES, **arrays})
    return path


def masked_graph(path: Path, *names: str, kind: int = TensorProto.INT64) -> Path:
    """A bag of words over ``input_ids`` whose rows are multiplied by each further input, cast to float."""
    node = helper.make_node
    nodes, last = [node("Gather", ["table", "input_ids"], ["rows0"])], "rows0"
    for index, name in enumerate(names, 1):
        nodes += [
            node("Cast", [name], [f"float{index}"], to=TensorProto.FLOAT),
            node("Add" if "type" in name else "Mul", [f"float{index}", "one"], [f"plus{index}"]),
            node("Unsqueeze", [f"plus{index}", "axis"], [f"column{index}"]),
            node("Mul", [last, f"column{index}"], [f"rows{index}"]),
        ]
        last = f"rows{index}"
    nodes += [
        node("ReduceMean", [last], ["pooled"], axes=[1], keepdims=0),
        node("Gemm", ["pooled", "weight", "bias"], ["logits"]),
    ]
    tensors = [tensor("table", VOCABULARY, 6), tensor("weight", 6, CLASSES), tensor("bias", CLASSES)]
    constants = [
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, ["N", "L"]) for name in ("input_ids", *names)]
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "bag", inputs, [result], [*tensors, *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path
