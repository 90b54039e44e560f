"""Samples, updates and rounds that are fuzzed."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safe
from torch import nn

from leakaudit.domains.tokens import Tokens
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.conftest import make_target, small_mlp, smooth_images
from tests.fuzz.models import damage_weights, damaged_safetensors
from tests.fuzz.mutate import Draw, changed_archive, changed_json, damaged
from tests.fuzz.subject import Files, Subject, damage_archive, no_file, written


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
def batch_files() -> Files:
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
def update_files() -> Files:
    """Gradients and weights as frameworks send them."""
    state = {name: tensor.detach() for name, tensor in small_mlp(seed=1).state_dict().items()}
    stream = io.BytesIO()
    torch.save(state, stream)
    listed = {f"arr_{i}": tensor.numpy() for i, tensor in enumerate(state.values())}
    return [
        ("u.npz", npz(**{name: tensor.numpy() for name, tensor in state.items()})), ("l.npz", npz(**listed)),
        ("u.safetensors", safe(state)), ("u.pt", stream.getvalue()), ("u.fobs", fobs(state)),
    ]  # fmt: skip


def fobs(state: Mapping[str, torch.Tensor]) -> bytes:
    """A difference as NVFlare writes it, see `leakaudit.client.rounds.fobs`."""

    def thing(name: str, content: Any) -> dict[str, Any]:
        return {"__fobs_type__": name, "__fobs_data__": content, "__fobs_dc__": f"{name}Decomposer"}

    def array(tensor: torch.Tensor) -> dict[str, Any]:
        stream = io.BytesIO()
        np.save(stream, tensor.numpy())
        return thing("numpy.ndarray", {"type": "native", "data": stream.getvalue()})

    kind = thing("nvflare.apis.dxo.DataKind", "WEIGHT_DIFF")
    dxo = thing(
        "tuple", [kind, {"NUM_STEPS_CURRENT_ROUND": 2}, {name: array(tensor) for name, tensor in state.items()}]
    )
    body = message_pack(thing("nvflare.apis.dxo.DXO", dxo))
    return struct.pack(">BBQ", 100, 0, len(body)) + body


def message_pack(value: Any) -> bytes:
    """MessagePack of maps, lists, texts, bytes and small numbers, so that making one takes no package."""
    if isinstance(value, dict):
        items = b"".join(message_pack(part) for pair in value.items() for part in pair)
        return b"\xde" + struct.pack(">H", len(value)) + items
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(message_pack, value))
    if isinstance(value, str):
        return b"\xda" + struct.pack(">H", len(value.encode())) + value.encode()
    return b"\xc6" + struct.pack(">I", len(value)) + value if isinstance(value, bytes) else bytes([value])


def damage_update(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By its format."""
    if name.endswith(".npz"):
        return written(folder, name, changed_archive(content, draw, member_of_npz))
    if name.endswith(".fobs"):  # most of it is numbers: half of the damage goes into the names before the first
        cut = draw.choice((250, len(content)))
        return written(folder, name, damaged(content[:cut], draw) + content[cut:])
    return damage_weights("w.pt" if name.endswith(".pt") else name, content, draw, folder)


def read_update(path: Path) -> None:
    """As ``--update`` does."""
    from leakaudit.client.rounds.files import load_update

    load_update(path, target())


@cache
def round_files() -> Files:
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
        ("round.json", json.dumps(document).encode()), ("batch.npz", npz(x=smooth_images(8), y=np.arange(8) % 5)),
    ]  # fmt: skip


def damage_round(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """A whole round with one part damaged, missing, or replaced by something that is no file."""
    place = whole_round(folder)
    way = draw.random()
    if draw.random() < 0.3:
        (place / "batch.npz").unlink()
        name = "round.json" if name == "batch.npz" else name
        content = dict(round_files())[name]
    if way < 0.08:
        (place / name).unlink()
        no_file(place / name, draw)
    elif name == "batch.npz":
        (place / name).write_bytes(changed_archive(content, draw, member_of_npz))
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


def read_round(path: Path) -> None:
    """As ``--round`` does: what its document says, the weights, and whether they contradict each other."""
    from leakaudit.audit.intake import read_case, read_material
    from leakaudit.audit.request import Request
    from leakaudit.audit.round_settings import with_round
    from leakaudit.observer import SilentObserver

    request = with_round(Request(model="m.onnx", round=path))
    case = read_case(request, target(), None, SilentObserver())
    read_material(request, case.target, case.samples)


@cache
def picture_files() -> Files:
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
        no_file(inner / f"q{Path(name).suffix}", draw)
    if draw.random() < 0.1:
        os.mkfifo(place / "5")
    if draw.random() < 0.1:
        (place / os.fsdecode(b"\xff\xfe")).mkdir()
    return place


SAMPLES = (
    Subject("npz", batch_files, damage_archive(member_of_npz), read_batch, 11),
    Subject("update", update_files, damage_update, read_update, 7),
    Subject("round", round_files, damage_round, read_round, 6, whole_round),
    Subject("pictures", picture_files, damage_pictures, read_batch, 5, whole_pictures),
)
"""What clients have and send."""
