"""What is fuzzed: honest files of every kind that leakaudit opens, how each is damaged, and how a command reads it."""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from safetensors.torch import save as safe
from torch import nn

from leakaudit.domains.tokens import Tokens
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.conftest import make_target, small_cnn, small_mlp, smooth_images
from tests.fuzz.mutate import (
    Draw,
    changed_archive,
    changed_json,
    changed_message,
    changed_text,
    damaged,
)
from tests.target import build
from tests.target.graphs import GRAPHS

Member = Callable[[str, bytes, Draw], bytes]


@dataclass(frozen=True, eq=False)
class Subject:
    """One kind of input.

    Args:
        name: Of the kind.
        honest: Makes the honest files, each as a name and its content, from which one is damaged.
        damage: Writes a damaged copy of a content into an empty folder, and gives the path to be read.
        read: Opens that path as a command would.
        share: Of a campaign's inputs.
        whole: Writes the honest folder, for kinds that are folders.
    """

    name: str
    honest: Callable[[], Sequence[tuple[str, bytes]]]
    damage: Callable[[str, bytes, Draw, Path], Path]
    read: Callable[[Path], object]
    share: int
    whole: Callable[[Path], Path] | None = None


def written(folder: Path, name: str, content: bytes) -> Path:
    """A file in a folder."""
    (folder / name).write_bytes(content)
    return folder / name


# ---------------------------------------------------------------------------------------------------- model files


@cache
def onnx_files() -> Sequence[tuple[str, bytes]]:
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
def exported_files() -> Sequence[tuple[str, bytes]]:
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


def damage_archive(member: Member) -> Callable[[str, bytes, Draw, Path], Path]:
    """A way to damage archives whose members are damaged so."""

    def damage(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
        return written(folder, name, changed_archive(content, draw, member))

    return damage


@cache
def script_files() -> Sequence[tuple[str, bytes]]:
    """A scripted network."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(small_mlp().eval(), torch.rand(2, 3, 12, 12)), stream)
    return [("mlp.pt", stream.getvalue())]


def read_script(path: Path) -> None:
    """As with ``--trust`` and ``--input-shape``."""
    read_model(path, trust=True, input_shape=(3, 12, 12))


FACTORY = "tests.fuzz.subjects:mlp"


def mlp() -> nn.Module:
    """The network of the weights."""
    return small_mlp()


@cache
def weight_files() -> Sequence[tuple[str, bytes]]:
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


# ------------------------------------------------------------------------------------------------ samples and updates


@cache
def target() -> Target:
    """The model that samples and updates are read for, made by hand: nothing is run."""
    return make_target(small_mlp(), (3, 12, 12), 5)


@cache
def token_target() -> Target:
    """A model over token ids."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(30, 6), nn.Flatten(), nn.Linear(48, 4)).eval()
    domain = Tokens.of(8, 30, "0.weight", any_length=False)
    return Target(module, "net", "module", (8,), "tokens", domain, SingleLabel(4))


def npz(**arrays: Any) -> bytes:
    """An archive of arrays."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@cache
def batch_files() -> Sequence[tuple[str, bytes]]:
    """Images, rows and token ids."""
    images = smooth_images(4)
    names = np.array(["a", "b", "c", "d", "e"])
    ids = np.arange(32).reshape(4, 8) % 30
    soft = np.full((4, 5), 0.2, np.float32)
    return [
        ("images.npz", npz(x=images, y=np.arange(4), class_names=names)),
        ("bytes.npz", npz(x=(images * 255).astype(np.uint8), y=soft)),
        ("tokens.npz", npz(inputs=ids, labels=np.arange(4), vocabulary=np.array([f"w{i}" for i in range(30)]))),
    ]


def member_of_npz(name: str, content: bytes, draw: Draw) -> bytes:
    """Another header of the array, or other bytes."""
    if draw.random() < 0.4:
        return damaged(content, draw)
    shapes = ((), (4,), (4, 3, 12, 12), (1 << 40,), (0, 3), (1 << 33, 1 << 33), (-1,), (4, 432), (2, 2, 2, 2, 2))
    kinds = ("<f4", "<f8", "<i8", "|u1", "|b1", "<c8", "<U3", "|S2", "|O", "<M8[s]", "<m8", "|V4", ">f2", "<f16")
    stream = io.BytesIO()
    head = {"descr": draw.choice(kinds), "fortran_order": draw.random() < 0.3, "shape": draw.choice(shapes)}
    np.lib.format.write_array_header_1_0(stream, head)
    data = bytes(draw.randrange(256) for _ in range(64)) * 30 if draw.random() < 0.5 else content[128:]
    return stream.getvalue() + data


def read_batch(path: Path) -> None:
    """As a scan reads samples."""
    from leakaudit.audit.intake import read_case
    from leakaudit.audit.request import Request
    from leakaudit.observer import SilentObserver

    model = token_target() if path.name.startswith("tokens") else target()
    read_case(Request(model="m.onnx", batch=path), model, None, SilentObserver())


@cache
def update_files() -> Sequence[tuple[str, bytes]]:
    """Gradients and weights as frameworks send them."""
    state = {name: tensor.detach() for name, tensor in small_mlp(seed=1).state_dict().items()}
    stream = io.BytesIO()
    torch.save(state, stream)
    listed = {f"arr_{i}": tensor.numpy() for i, tensor in enumerate(state.values())}
    return [
        ("u.npz", npz(**{name: tensor.numpy() for name, tensor in state.items()})), ("l.npz", npz(**listed)),
        ("u.safetensors", safe(state)), ("u.pt", stream.getvalue()),
    ]  # fmt: skip


def damage_update(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By its format."""
    if name.endswith(".npz"):
        return written(folder, name, changed_archive(content, draw, member_of_npz))
    return damage_weights("w.pt" if name.endswith(".pt") else name, content, draw, folder)


def read_update(path: Path) -> None:
    """As ``--update`` does."""
    from leakaudit.client.rounds.files import load_update

    load_update(path, target())


@cache
def round_files() -> Sequence[tuple[str, bytes]]:
    """The parts of a recorded round, of which one is damaged."""
    from leakaudit.capture.record import FORMAT, VERSION

    before = {name: tensor.detach() for name, tensor in small_mlp().state_dict().items()}
    after = {name: tensor * 1.001 for name, tensor in before.items()}
    document = {
        "format": FORMAT, "version": VERSION, "framework": "flower", "learning_rate": 0.1, "momentum": 0.9,
        "local_epochs": 2, "local_batch_size": 4, "num_examples": 8, "optimizer": "sgd", "mode": "train",
        "step_sizes": [4, 4], "nesterov": False, "weight_decay": 1e-4, "drop_last": True, "filters": ["x"],
    }  # fmt: skip
    return [
        ("before.safetensors", safe(before)), ("after.safetensors", safe(after)),
        ("round.json", json.dumps(document).encode()),
    ]  # fmt: skip


def damage_round(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """A whole round with one part damaged, missing, or replaced by something that is no file."""
    place = whole_round(folder)
    way = draw.random()
    if way < 0.08:
        (place / name).unlink()
        _no_file(place / name, draw)
    elif name == "round.json" and way < 0.9:
        text = json.dumps(changed_json(json.loads(content), draw))
        (place / name).write_text(text, encoding="utf-8", errors="replace")
    else:
        (place / name).write_bytes(damaged_safetensors(content, draw) if "safe" in name else damaged(content, draw))
    return place


def whole_round(folder: Path) -> Path:
    """The honest round."""
    place = folder / "round"
    place.mkdir()
    for name, content in round_files():
        (place / name).write_bytes(content)
    return place


def _no_file(path: Path, draw: Draw) -> None:
    """Nothing, a folder, a pipe or a link to nowhere, to itself or to a device."""
    way = draw.randrange(6)
    if way == 0:
        path.mkdir()
    elif way == 1:
        os.mkfifo(path)
    elif way > 2:
        path.symlink_to({3: "/dev/zero", 4: path.name, 5: "nowhere"}[way])


def read_round(path: Path) -> None:
    """As ``--round`` does."""
    from leakaudit.audit.request import Request
    from leakaudit.audit.rounds import with_round
    from leakaudit.client.rounds.folder import read_round

    request = with_round(Request(model="m.onnx", batch="b.npz", round=path))
    request.protocol_for(target())
    read_round(path, target())


@cache
def picture_files() -> Sequence[tuple[str, bytes]]:
    """Pictures of several formats."""
    from PIL import Image

    found = []
    pixels = (smooth_images(1)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format={"jpg": "jpeg"}.get(suffix, suffix))
        found.append((f"p.{suffix}", stream.getvalue()))
    return found


def whole_pictures(folder: Path) -> Path:
    """Two honest classes."""
    for name, content in picture_files():
        if not name.endswith("gif"):
            inner = folder / "batch" / name[2]
            inner.mkdir(parents=True)
            (inner / name).write_bytes(content)
    return folder / "batch"


def damage_pictures(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """A folder of classes with odd names, damaged pictures, and things that are no files."""
    place = folder / "batch"
    place.mkdir()
    for number in range(draw.choice((1, 2, 5))):
        odd = draw.choice(("0", "1", "a", "²", "٣", "1" * 30, "-1", "\u202e", "é", " ", "a" * 255, "3", "4"))
        inner = place / odd
        inner.mkdir(exist_ok=True)
        (inner / name).write_bytes(damaged(content, draw) if number == 0 and draw.random() < 0.8 else content)
    if draw.random() < 0.2:
        _no_file(inner / f"q{Path(name).suffix}", draw)
    if draw.random() < 0.1:
        os.mkfifo(place / "5")
    if draw.random() < 0.1:
        (place / os.fsdecode(b"\xff\xfe")).mkdir()
    return place


# ------------------------------------------------------------------------------------------- documents and settings


@cache
def report_files() -> Sequence[tuple[str, bytes]]:
    """The document of an audit, and one with every field filled."""
    from tests.report.builder import build as report

    return [("report.json", report().to_json().encode())]


def damage_report(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """Mostly its values, sometimes its bytes."""
    if draw.random() < 0.15:
        return written(folder, name, damaged(content, draw))
    text = json.dumps(changed_json(json.loads(content), draw), ensure_ascii=draw.random() < 0.5)
    return written(folder, name, text.encode("utf-8", "replace"))


def read_report(path: Path) -> None:
    """As ``render``, ``compare`` and ``verify`` do."""
    from leakaudit.document.redact import redact
    from leakaudit.document.verify import check_self
    from leakaudit.policy.compare import Setup, compare_findings, differences
    from leakaudit.report.saving import Report

    check_self(path)
    report = Report.load(path)
    Setup.of(report).differs(Setup.of(report))
    compare_findings(report.findings, report.findings)
    differences(report, report)
    out = path.parent / "out"
    for level in ("full", "blurred", "none"):
        shown = redact(report, level)  # type: ignore[arg-type]
        for kind in ("sarif", "junit", "markdown", "csv", *(("html",) if level == "none" else ())):
            _rendered(shown, kind, out)


def _rendered(report: Any, name: str, out: Path) -> None:
    from leakaudit.document.paths import short_paths
    from leakaudit.report.formats.base import Rendering
    from leakaudit.report.formats.registry import chosen

    for kind in chosen((name,)):
        kind.content(Rendering(short_paths(report), None, "pdf/ua-1"))


@cache
def policy_files() -> Sequence[tuple[str, bytes]]:
    """Policies and settings of clients, in TOML."""
    from leakaudit.cli.init import TEMPLATE

    written = re.compile(r"# (?=[\w-]+ = |\[\[)")
    whole = "\n".join(written.sub("", line) for line in TEMPLATE.split("\n"))
    train = (
        'mode = "train"\nfrozen = ["a.*"]\nloss = "bce"\nlearning_rate = 0.1\nlocal_epochs = 2\nnesterov = true\n'
        'optimizer = "sgd"\n[dropout]\n"/relu" = 0.5\n'
    )
    shared = "[tool.leakaudit]\nfail-on = 'low'\n[tool.leakaudit.rules]\nLA301 = 'never'\n[tool.other]\nx = 1\n"
    return [
        ("leakaudit.toml", TEMPLATE.encode()), ("leakaudit.toml", whole.encode()), ("pyproject.toml", shared.encode()),
        ("train.toml", train.encode()),
    ]  # fmt: skip


def damage_text(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By lines and values."""
    text = content.decode()
    for _ in range(draw.choice((1, 1, 2))):
        text = changed_text(text, draw)
    return written(folder, name, text.encode("utf-8", "replace"))


def read_settings(path: Path) -> None:
    """As ``--policy`` and ``--train-config`` do, the first also where it was found and not named."""
    import click

    from leakaudit.cli import cli
    from leakaudit.cli.scan import scan
    from leakaudit.policy.read import find_policy, read_policy
    from leakaudit.target.train_config import read_train_config

    if path.name == "train.toml":
        read_train_config(path)
        return
    find_policy(path.parent)
    read_policy(path)
    with click.Context(cli, info_name="leakaudit") as parent:
        scan.make_context("scan", ["m.onnx", "--batch", "b.npz", "--policy", str(path)], parent=parent)


@cache
def cache_files() -> Sequence[tuple[str, bytes]]:
    """An entry of a cache."""
    import tempfile

    from leakaudit.audit.cache import Cache

    with tempfile.TemporaryDirectory() as place:
        store = Cache(Path(place))
        store.put("0" * 64, {"x": torch.arange(4.0), "y": [1, "a", (2, None)]})
        (entry,) = store.folder.iterdir()
        return [(entry.name, entry.read_bytes())]


def damage_entry(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By bytes, in the folder of a cache."""
    (folder / "leakaudit-cache").mkdir(mode=0o700)
    return written(folder / "leakaudit-cache", name, damaged(content, draw))


def read_entry(path: Path) -> None:
    """As a scan does; what comes back is the value or nothing."""
    from leakaudit.audit.cache import Cache

    value = Cache(path.parents[1]).get("0" * 64)
    assert value is None or value["y"] == [1, "a", (2, None)]


SUBJECTS = (
    Subject("onnx", onnx_files, damage_onnx, inspected, 40),
    Subject("pt2", exported_files, damage_archive(member_of_torch), lambda p: read_model(p, trust=True), 8),
    Subject("script", script_files, damage_archive(member_of_torch), read_script, 3),
    Subject("weights", weight_files, damage_weights, lambda p: read_model(p, factory=FACTORY), 8),
    Subject("npz", batch_files, damage_archive(member_of_npz), read_batch, 12),
    Subject("update", update_files, damage_update, read_update, 8),
    Subject("round", round_files, damage_round, read_round, 6, whole_round),
    Subject("pictures", picture_files, damage_pictures, read_batch, 5, whole_pictures),
    Subject("report", report_files, damage_report, read_report, 4),
    Subject("toml", policy_files, damage_text, read_settings, 4),
    Subject("cache", cache_files, damage_entry, read_entry, 2),
)
"""Every kind, with its share in percent; models weigh most because most can go wrong there."""
assert sum(subject.share for subject in SUBJECTS) == 100
