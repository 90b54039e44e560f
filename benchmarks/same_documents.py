"""Whether two versions of leakaudit write the same documents: for changes that must not move a number.

    python benchmarks/same_documents.py write BEFORE          # with the older tree on PYTHONPATH
    python benchmarks/same_documents.py write AFTER           # with the newer one
    python benchmarks/same_documents.py compare BEFORE AFTER  # exit 1 at a difference that is not explained

``write`` makes its inputs once, beside the folder, so that both versions read the same bytes, and audits: the
quickstart, a dropout MLP in train mode, a text model, a defended client, a recorded update, two checkpoints, and
``defend``. ``compare`` leaves out times and versions, allows added keys, and prints whatever else differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMES = {"seconds", "created", "versions", "version", "command", "self_sha256"}
"""Keys whose values tell when and by what a document was made."""
COMMON = ("--preset", "quick", "--victims", "2", "--seed", "5", "--format", "json", "--fail-on", "never")
PIXELS = ("--mean", "0.5", "--std", "0.25")
SHORT = ("--set", "ig.iterations=150", "--set", "dia.iterations=150", "--set", "wia.iterations=150")
MEASURED = ("model.onnx", "--batch", "batch.npz", *PIXELS)
CASES: dict[str, tuple[str, ...]] = {
    "quickstart": ("scan", *MEASURED, *COMMON, *SHORT),
    "dropout": ("scan", "dropout.onnx", "--batch", "images.npz", *PIXELS, "--mode", "train", *COMMON, *SHORT),
    "text": ("scan", "text.onnx", "--batch", "texts.npz", *COMMON),
    "defended": ("scan", "mlp.onnx", "--batch", "images.npz", *PIXELS, "--defence", "clip=1.0,noise=1e-3", *COMMON),
    "update": (
        *("scan", "mlp.onnx", "--batch", "one.npz", *PIXELS, "--update", "update.npz", "--preset", "quick"),
        *("--seed", "5", "--format", "json", "--fail-on", "never"),
    ),
    "checkpoints": (
        *("scan", "--checkpoints", "mlp.onnx", "later.onnx", "--batch", "images.npz", *PIXELS, *COMMON, *SHORT),
    ),
    "defend": (
        *("defend", *MEASURED, "--preset", "quick", "--victims", "1", "--seed", "5", "--format", "json", *SHORT),
        *("--defence", "prune=0.9", "--defence", "sign", "--defence", "clip=1.0,noise=0.01", "--steps", "5"),
    ),
}


def make_inputs(folder: Path) -> None:
    """Models and batches for all cases, from fixed seeds."""
    import numpy as np
    import torch
    from torch import nn

    folder.mkdir(parents=True)
    subprocess.run([sys.executable, ROOT / "examples" / "quickstart" / "make_example.py"], check=True)
    for name in ("model.onnx", "batch.npz"):
        (folder / name).write_bytes((ROOT / "examples" / "quickstart" / name).read_bytes())
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(24, 3, 4, 4), (12, 12), mode="bilinear")
    labels = np.arange(24) % 5
    np.savez(folder / "images.npz", x=images.numpy(), y=labels)
    np.savez(folder / "one.npz", x=images.numpy()[:1], y=labels[:1])
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.Sigmoid(), nn.Linear(32, 5))
    dropout = nn.Sequential(nn.Flatten(), nn.Linear(432, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 5))
    _export(mlp, folder / "mlp.onnx")
    _export(dropout, folder / "dropout.onnx", training=True)
    loss = nn.functional.cross_entropy(mlp((images[:1] - 0.5) / 0.25), torch.from_numpy(labels[:1]))
    gradients = torch.autograd.grad(loss, list(mlp.parameters()))
    np.savez(
        folder / "update.npz", **{n: g.numpy() for (n, _), g in zip(mlp.named_parameters(), gradients, strict=True)}
    )
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.mul_(1.5)
    _export(mlp, folder / "later.onnx")
    _export(_text_module(), folder / "text.onnx", tokens=True)
    ids = np.random.default_rng(0).choice(60, (24, 8), p=(w := 1 / np.arange(1, 61)) / w.sum())
    np.savez(folder / "texts.npz", inputs=ids, labels=np.arange(24) % 4)


def _text_module() -> Any:
    from torch import nn

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.hidden, self.head = nn.Embedding(60, 32), nn.Linear(32, 32), nn.Linear(32, 4)

        def forward(self, ids: Any) -> Any:
            return self.head(self.hidden(self.table(ids)).relu().mean(1))

    return Text()


def _export(module: Any, path: Path, *, training: bool = False, tokens: bool = False) -> None:
    import torch

    example = torch.zeros(1, 8, dtype=torch.long) if tokens else torch.zeros(1, 3, 12, 12)
    mode = torch.onnx.TrainingMode.PRESERVE if training else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            *(module.train(training), (example,), str(path)),
            dynamo=False,
            opset_version=17,
            training=mode,
            do_constant_folding=False,
            input_names=["input"],
            dynamic_axes={"input": {0: "N"}},
        )


def write(folder: Path) -> None:
    """Run every case in the inputs' folder, with relative paths."""
    inputs = folder.parent / "inputs"
    if not inputs.exists():
        make_inputs(inputs)
    settings = {"LEAKAUDIT_CACHE": "0", "OMP_NUM_THREADS": "1", "CI": ""}
    for name, words in CASES.items():
        out = (folder / name).resolve()
        call = [sys.executable, "-c", "from leakaudit.cli import main; main()", *words, "--out", str(out)]
        done = subprocess.run(call, cwd=inputs, env={**os.environ, **settings}, capture_output=True, text=True)
        print(f"{name}: exit {done.returncode}", *(done.stderr.splitlines()[-2:] if done.returncode else ()))


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Every place at which two documents differ, added keys and times left out."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in TIMES or key.endswith("seconds"):
                continue
            if key not in after:
                yield f"{where}.{key}: gone"
            else:
                yield from differences(value, after[key], f"{where}.{key}")
    elif (old := _by_name(before)) and (new := _by_name(after)):
        yield from differences(old, new, where)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")
    elif before != after:
        yield f"{where}: {_short(before)} before, {_short(after)} after"


def _by_name(value: Any) -> dict[str, Any]:
    """A list of entries that have names of their own, by name, so that added ones do not count; else nothing."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return {}
    named = {str(entry.get("id") or entry.get("name") or ""): entry for entry in value}
    return named if len(named) == len(value) and "" not in named else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:150]}… ({len(text)} characters)"


def compare(before: Path, after: Path) -> int:
    """Print the differences of all cases; their number."""
    count = 0
    for name in CASES:
        old, new = (json.loads((folder / name / "report.json").read_text()) for folder in (before, after))
        found = list(differences(old, new))
        print(f"{name}: {len(found)} differences" if found else f"{name}: the same")
        for line in found:
            print("   ", line)
        count += len(found)
    return count


def main(words: list[str]) -> int:
    """The command line."""
    if len(words) == 2 and words[0] == "write":
        write(Path(words[1]).resolve())
        return 0
    if len(words) == 3 and words[0] == "compare":
        return int(compare(Path(words[1]), Path(words[2])) > 0)
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
