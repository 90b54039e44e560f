"""Model files that are fuzzed: ONNX, exports, TorchScript and weights."""

from __future__ import annotations

import io
import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from safetensors.torch import save as safe
from torch import nn

from leakaudit.target.target import Target
from tests.conftest import small_cnn, small_mlp
from tests.fuzz.mutate import Draw, changed_archive, changed_json, changed_message, damaged
from tests.fuzz.subject import Files, Subject, damage_archive, written
from tests.target import build
from tests.target.graphs import GRAPHS


@cache
def onnx_files() -> Files:
    """Small graphs: of layers of every kind, of a network that torch exported, and of local functions."""
    import tempfile

    from tests.cli.build import export

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        nodes, tensors = build.linear()
        found = [("linear.onnx", build.write(folder / "linear.onnx", nodes, tensors).read_bytes())]
        found.append(("cnn.onnx", export(small_cnn(), folder / "cnn.onnx").read_bytes()))
        for name in GRAPHS:
            graph = GRAPHS[name]()
            path = build.write(
                folder / f"{name}.onnx", graph.nodes, graph.tensors, shape=graph.shape, opset=graph.opset,
                **graph.options,
            )  # fmt: skip
            if path.stat().st_size < 50_000:
                found.append((path.name, path.read_bytes()))
    return found


def damage_onnx(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """Mostly its fields, sometimes its bytes."""
    if draw.random() < 0.2:
        return written(folder, name, damaged(content, draw))
    model = ModelProto.FromString(content)
    changed_message(model, draw, draw.choice((1, 1, 1, 2, 4)))
    try:
        return written(folder, name, model.SerializeToString())
    except Exception:  # what cannot be written is no file
        return written(folder, name, damaged(content, draw))


def read_model(path: Path, **options: Any) -> Target:
    """A model as commands read it, and what ``inspect`` prints of it."""
    from leakaudit.audit.intake import read_model
    from leakaudit.audit.request import Request

    return read_model(Request(model=path, **options))


def inspected(path: Path) -> None:
    """As ``leakaudit inspect`` does."""
    from leakaudit.cli.inspect import as_lines, describe

    model = read_model(path)
    if path.stat().st_size % 8 == 0:  # looking at every attack takes longer than all else together
        as_lines(describe(model))


@cache
def exported_files() -> Files:
    """Exports of a convolutional network and a small MLP."""
    found = []
    for name, module in (("cnn.pt2", small_cnn()), ("mlp.pt2", small_mlp())):
        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(module.eval(), (torch.rand(2, 3, 12, 12),)), stream)
        found.append((name, stream.getvalue()))
    return found


def member_of_torch(name: str, content: bytes, draw: Draw) -> bytes:
    """A changed graph where the member is JSON, changed bytes elsewhere."""
    if name.endswith(".json") and draw.random() < 0.9:
        return json.dumps(changed_json(json.loads(content), draw)).encode("utf-8", "replace")
    return damaged(content, draw)


@cache
def script_files() -> Files:
    """A scripted network."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(small_mlp().eval(), torch.rand(2, 3, 12, 12)), stream)
    return [("mlp.pt", stream.getvalue())]


def read_script(path: Path) -> None:
    """As with ``--trust`` and ``--input-shape``."""
    read_model(path, trust=True, input_shape=(3, 12, 12))


FACTORY = "tests.fuzz.models:mlp"


def mlp() -> nn.Module:
    """The network of the weights."""
    return small_mlp()


@cache
def weight_files() -> Files:
    """State dicts and safetensors."""
    state = {name: tensor.detach() for name, tensor in small_mlp().state_dict().items()}
    zipped, flat = io.BytesIO(), io.BytesIO()
    torch.save(state, zipped)
    torch.save({"state_dict": state, "epoch": 3}, flat, _use_new_zipfile_serialization=False)
    return [("w.pt", zipped.getvalue()), ("old.pt", flat.getvalue()), ("w.safetensors", safe(state))]


def damage_weights(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """Of an archive its members, of safetensors the header, of a pickle its bytes."""
    if name == "w.pt":
        return written(folder, name, changed_archive(content, draw, member_of_torch))
    return written(folder, name, damaged_safetensors(content, draw) if "safe" in name else damaged(content, draw))


def damaged_safetensors(content: bytes, draw: Draw) -> bytes:
    """With another header, or other bytes."""
    if draw.random() < 0.3:
        return damaged(content, draw)
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(changed_json(json.loads(content[8 : 8 + size]), draw)).encode("utf-8", "replace")
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


MODELS = (
    Subject("onnx", onnx_files, damage_onnx, inspected, 35),
    Subject("pt2", exported_files, damage_archive(member_of_torch), lambda p: read_model(p, trust=True), 8),
    Subject("script", script_files, damage_archive(member_of_torch), read_script, 3),
    Subject("weights", weight_files, damage_weights, lambda p: read_model(p, factory=FACTORY), 8),
)
"""Models weigh most because most can go wrong there."""
