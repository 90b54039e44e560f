"""Private files full of unique values, and a search for these in everything that a command wrote, even for a moment."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import Tensor, nn

from tests.cli.build import export

CLASSES, VOCABULARY, LENGTH, SIDE = 6001, 9001, 5, 16
WORD, CLASS, FILE, FOLDER = "canaryword", "canaryclass", "canarysample", "canaryfolder"
FIRST_LABEL, FIRST_TOKEN = 5923, 8123
SEEN: list[tuple[str, bytes]] = []
"""Files that were about to be removed or renamed, while `watched` is on."""
_on = False


def _look(event: str, args: tuple[Any, ...]) -> None:
    """Keep what a file holds before it disappears."""
    if _on and event in ("os.remove", "os.rename") and isinstance(args[0], str | os.PathLike):
        path = Path(args[0])
        if path.is_file():
            SEEN.append((path.name, path.read_bytes()))


sys.addaudithook(_look)


@contextmanager
def watched() -> Iterator[None]:
    """Record files that exist for a moment only."""
    global _on
    SEEN.clear()
    _on = True
    try:
        yield
    finally:
        _on = False


class TinyText(nn.Module):
    """Mean of the embeddings, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, 8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.table(ids).mean(1)))
        return logits


@dataclass
class Secret:
    """A model and a batch whose every free field is unique.

    Args:
        root: Of all files; its name is private.
        model: An ONNX file.
        other: A second checkpoint.
        batch: The samples.
        update: The update of the first of them, as a client recorded it.
        one: The first of them.
        rows: Bytes of single rows of the images, or of values as they are in memory.
        numbers: Labels, tokens and cells that are whole numbers.
        texts: Other numbers, as they are written.
    """

    root: Path
    model: Path
    other: Path
    batch: Path
    update: Path
    one: Path
    rows: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def found(self, content: bytes, name: str) -> set[str]:
        """The canaries in a file, by kind."""
        hits = set()
        for piece, structure in pieces(content):
            text = piece.decode("utf-8", "replace")
            hits |= {word for word in (WORD, CLASS, FILE, FOLDER) if word in text or _utf16(word) in piece}
            for number in () if structure else self.numbers:
                if re.search(rf"(?<![\w.-])({number}|{number:,})(?![\w.]|,\d)", text):
                    hits.add(f"number {number}")
            hits |= {f"number {shown}" for shown in self.texts if shown in text}
            if any(row in piece for row in self.rows):
                hits.add("pixels")
        return hits


def _utf16(word: str) -> bytes:
    return word.encode("utf-16-be")


def pieces(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """A file, the images in it, the streams and attachments of a PDF, its texts.

    Beside each, whether it is the structure of a PDF: that is full of the numbers of its own objects.
    """
    yield content, content.startswith(b"%PDF")
    for uri in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", content):
        yield from _image(base64.b64decode(uri))
    if content.startswith(b"%PDF"):
        yield from _pdf(content)


def _pdf(content: bytes) -> Iterator[tuple[bytes, bool]]:
    import pypdf

    for mark in re.finditer(rb"stream\r?\n", content):
        try:
            unpacked = zlib.decompressobj().decompress(content[mark.end() :])
        except zlib.error:
            continue
        yield unpacked, True
        for text in re.findall(rb"\(((?:[^()\\]|\\.)*)\)", unpacked, re.DOTALL):
            yield text.removeprefix(b"\xfe\xff").replace(b"\0", b""), False
    reader = pypdf.PdfReader(io.BytesIO(content))
    for page in reader.pages:
        yield page.extract_text().encode("utf-8", "replace"), False
        for image in page.images:
            yield from _image(image.data)
    for files in reader.attachments.values():
        for file in files:
            yield from pieces(file)


def _image(content: bytes) -> Iterator[tuple[bytes, bool]]:
    yield content, True
    with Image.open(io.BytesIO(content)) as image:
        yield np.asarray(image.convert("RGB")).tobytes(), True


def _images(root: Path, secret_folder: Path) -> Secret:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(FIRST_LABEL, FIRST_LABEL + 40, 10)[:4]
    names = np.array([f"{CLASS}{i}" for i in range(CLASSES)])
    batch = secret_folder / f"{FILE}.npz"
    np.savez(batch, x=pixels, y=labels, class_names=names)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE * SIDE * 3, 6), nn.Dropout(0.1), nn.Sigmoid(), nn.Linear(6, CLASSES)
    )
    model = export(net, secret_folder / "net.onnx", (3, SIDE, SIDE))
    one = secret_folder / f"{FILE}one.npz"
    np.savez(one, x=pixels[:1], y=labels[:1], class_names=names)
    update = secret_folder / f"{FILE}update.safetensors"
    inputs = torch.from_numpy(pixels[:1]).permute(0, 3, 1, 2).float() / 255
    loss = nn.functional.cross_entropy(net.eval()(inputs), torch.from_numpy(labels[:1]))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    save_file({n: g.numpy() for (n, _), g in zip(net.named_parameters(), gradients, strict=True)}, update)
    other = secret_folder / "late.onnx"
    for parameter in net.parameters():
        parameter.data.mul_(1.1)
    export(net, other, (3, SIDE, SIDE))
    rows = [row.tobytes()[:24] for image in pixels for row in image]
    return Secret(root, model, other, batch, update, one, rows, labels.tolist())


def _texts(root: Path, secret_folder: Path) -> Secret:
    import warnings

    ids = np.arange(FIRST_TOKEN, FIRST_TOKEN + 4 * LENGTH * 7, 7).reshape(4, LENGTH)
    labels = np.arange(FIRST_LABEL, FIRST_LABEL + 40, 10)[:4]
    words = np.array([f"{WORD}{i}" for i in range(VOCABULARY)])
    batch = secret_folder / f"{FILE}.npz"
    np.savez(batch, inputs=ids, labels=labels, vocabulary=words, class_names=[f"{CLASS}{i}" for i in range(CLASSES)])
    model = secret_folder / "text.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TinyText().eval(), (torch.zeros(1, LENGTH, dtype=torch.long),), str(model), dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["ids"], output_names=["logits"], dynamic_axes={"ids": {0: "N"}},
        )  # fmt: skip
    numbers = [*labels.tolist(), *ids.flatten().tolist()]
    return Secret(root, model, model, batch, model, batch, numbers=numbers)


def _exported(module: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(1, *shape),), str(path), dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["x"], dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
    return path


def _rows(root: Path, secret_folder: Path) -> Secret:
    """A CSV file without a schema: names of columns, levels and classes come from the private file alone."""
    numbers = [FIRST_TOKEN + 17 * i for i in range(6)]
    shares = [f"{0.7123511 + i / 97:.7f}" for i in range(6)]
    lines = [f"{n},{WORD}{i},{s},{CLASS}{i % 3}" for i, (n, s) in enumerate(zip(numbers, shares, strict=True))]
    batch = secret_folder / f"{FILE}.csv"
    batch.write_text("\n".join(["age,canarycolumn,score,label", *lines]))
    torch.manual_seed(0)
    model = _exported(
        nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 3)), (8,), secret_folder / "rows.onnx"
    )
    return Secret(
        root, model, model, batch, model, batch, numbers=numbers, texts=[*(s[:7] for s in shares), "canarycol"]
    )


def _signals(root: Path, secret_folder: Path) -> Secret:
    """Curves whose labels are numbers."""
    curves = np.random.default_rng(0).normal(size=(4, 2, 16)).astype(np.float32)
    targets = np.array([5923.625, 5933.375, 5943.875, 5953.125], np.float32)
    batch = secret_folder / f"{FILE}.npz"
    np.savez(batch, x=curves, y=targets)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(56, 1))
    model = _exported(net, (2, 16), secret_folder / "signals.onnx")
    numbers, shown = [round(float(t)) for t in targets], [f"{t:{form}}" for t in targets for form in (".1f", ".3g")]
    memory = [kind(row[:6]).tobytes() for curve in curves for row in curve for kind in (np.float32, np.float64)]
    return Secret(root, model, model, batch, model, batch, memory, numbers, shown)


KINDS = {"images": _images, "texts": _texts, "rows": _rows, "signals": _signals}


def make_secret(kind: str, root: Path) -> Secret:
    """Samples of a kind, in a folder whose name is private too."""
    secret_folder = root / f"{FOLDER}7"
    secret_folder.mkdir(parents=True)
    return KINDS[kind](root, secret_folder)


def written(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in these folders, and what was there for a moment."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield str(path), path.read_bytes()
    yield from SEEN


def needs_pypdf() -> Any:
    """The reader of PDFs, or a skip."""
    return pytest.importorskip("pypdf")
