"""The four commands on a model of every domain and task, from an ONNX file and from weights with a factory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.audit.series import beats, blobs
from tests.cli.build import leakaudit
from tests.several import beat_and_row, picture_and_row, pictures, rows
from tests.target.columns import Embedded, drawn
from tests.target.language import LENGTH, language_model, texts
from tests.target.sequences import Recurrent
from tests.target.unets import SHAPES, masked, unet_2d, unet_3d

HERE = "tests.cli.test_every_kind"
COUNT = 120


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def table() -> nn.Module:
    """Rows of eight numbers."""
    return _seeded(lambda: nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)))


def findings() -> nn.Module:
    """Images with several findings of 14."""
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(8, 8, 5, 1, 2), nn.Sigmoid(), nn.Flatten()]
    return _seeded(lambda: nn.Sequential(*layers, nn.Linear(8 * 36, 14)))


def pressure() -> nn.Module:
    """Images labelled with three numbers."""
    return _seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 24), nn.Sigmoid(), nn.Linear(24, 3)))


def heart() -> nn.Module:
    """Signals of two channels."""
    layers = [nn.Conv1d(2, 12, 7, 2, 3), nn.Tanh(), nn.Conv1d(12, 12, 5, 2, 2), nn.Tanh(), nn.Flatten()]
    return _seeded(lambda: nn.Sequential(*layers, nn.Linear(144, 4)))


def steps() -> nn.Module:
    """Sequences of features through a GRU."""
    return _seeded(lambda: Recurrent(nn.GRU, width=32, pooled=True))


def scanner() -> nn.Module:
    """Volumes."""
    layers = [nn.Conv3d(1, 12, 3, 2, 1), nn.Sigmoid(), nn.Conv3d(12, 12, 3, 1, 1), nn.Sigmoid(), nn.Flatten()]
    return _seeded(lambda: nn.Sequential(*layers, nn.Linear(12 * 48, 4)))


def ids_and_numbers() -> nn.Module:
    """Categories as integers beside numbers."""
    return Embedded()


@dataclass(frozen=True)
class Kind:
    """A model and samples.

    Args:
        build: The model.
        samples: Inputs, by name where there are several, and labels.
        shape: Of a sample, for ``--input-shape``.
        words: Further options.
        attacks: What is run.
    """

    build: Callable[[], nn.Module]
    samples: Callable[[], tuple[Tensor | dict[str, Tensor], Any]]
    shape: str
    words: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ("linear", "ig")


def _labels(classes: int) -> np.ndarray[Any, Any]:
    return np.arange(COUNT) % classes


def _rows() -> Tensor:
    return torch.randn((COUNT, 8), generator=torch.Generator().manual_seed(3))


def _marks() -> Tensor:
    return (torch.rand((COUNT, 14), generator=torch.Generator().manual_seed(4)) < 0.3).float()


def _numbers() -> Tensor:
    return 50 + 9 * torch.randn((COUNT, 3), generator=torch.Generator().manual_seed(5))


def _images() -> Tensor:
    return torch.nn.functional.interpolate(masked(COUNT, 2)[0], size=(12, 12), mode="bilinear")


KINDS = {
    "table": Kind(table, lambda: (_rows(), _labels(3)), "", attacks=("linear",)),
    "multi-label": Kind(findings, lambda: (_images(), _marks()), "1,12,12"),
    "regression": Kind(pressure, lambda: (_images(), _numbers()), "1,12,12", attacks=("linear",)),
    "signals": Kind(heart, lambda: (beats(COUNT, 0), _labels(4)), "2,48"),
    "sequences": Kind(steps, lambda: (beats(COUNT, 0, 4, 8), _labels(3)), "4,8"),
    "volumes": Kind(scanner, lambda: (blobs(COUNT, 0), _labels(4)), "1,6,8,8"),
    "unet-2d": Kind(unet_2d, lambda: masked(COUNT, 2), ",".join(map(str, SHAPES[2]))),
    "unet-3d": Kind(unet_3d, lambda: masked(COUNT, 3), ",".join(map(str, SHAPES[3])), ("--loss", "dice-ce")),
    "picture-and-row": Kind(
        picture_and_row, lambda: ({"image": pictures(COUNT), "meta": rows(COUNT)}, _labels(4)), "1,12,12"
    ),
    "signal-and-row": Kind(beat_and_row, lambda: ({"image": beats(COUNT, 0), "meta": rows(COUNT)}, _labels(4)), "2,48"),
    "ids-and-numbers": Kind(
        ids_and_numbers, lambda: (dict(zip(("codes", "numbers"), drawn(COUNT), strict=True)), _labels(2)), ""
    ),
    "next-token": Kind(
        language_model, lambda: (texts(COUNT), np.zeros(0)), str(LENGTH), attacks=("embedding", "dager")
    ),
}
SMOOTH = ("ig.optimizer=lbfgs", "ig.distance=euclidean", "ig.tv_weight=0")


def written(name: str, way: str, folder: Path) -> list[str]:
    """The words of a command line for a model in a folder, and its batch file."""
    kind = KINDS[name]
    inputs, labels = kind.samples()
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    arrays = {**{key: array.numpy() for key, array in named.items()}, "y": np.asarray(labels)}
    np.savez(folder / "batch.npz", **{key: array for key, array in arrays.items() if array.size})
    module, shape = kind.build().eval(), ("--input-shape", kind.shape) if kind.shape else ()
    if way == "factory":
        torch.save(module.state_dict(), folder / "weights.pt")
        return [str(folder / "weights.pt"), "--factory", f"{HERE}:{kind.build.__name__}", *shape, *kind.words]
    examples = tuple(array[:1] for array in named.values())
    if name == "sequences":
        examples = (examples[0].transpose(1, 2),)
    names = list(named) if len(named) > 1 else ["input"]
    if way == "exported":
        torch.export.save(torch.export.export(module, examples), folder / "model.pt2")
        return [str(folder / "model.pt2"), "--trust", *kind.words]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, examples, str(folder / "model.onnx"), dynamo=False, opset_version=17, input_names=names,
            do_constant_folding=False, dynamic_axes={each: {0: "N"} for each in names},
        )  # fmt: skip
    return [str(folder / "model.onnx"), *kind.words]


def attacked(name: str, iterations: int) -> list[str]:
    """Options of the attacks."""
    words = [
        "--victims",
        "1",
        "--controls",
        "none",
        "--preset",
        "quick",
        "-f",
        "json",
        "-f",
        "html",
    ]
    for attack in KINDS[name].attacks:
        words += ["--attack", attack]
    if "ig" in KINDS[name].attacks:
        for setting in (f"ig.iterations={iterations}", *SMOOTH):
            words += ["--set", setting]
    return words


def ran(*words: object) -> str:
    code, out, err = leakaudit(*words)
    assert code in (0, 1, 5), f"{' '.join(map(str, words))}: {err}"
    return out


WAYS = [(name, way) for name in KINDS for way in ("onnx", "factory")]
WAYS += [(name, "exported") for name in ("picture-and-row", "signal-and-row", "ids-and-numbers")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_the_four_commands(name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = written(name, way, tmp_path)
    ran("inspect", *model)
    ran("rank", *model)
    ran("scan", *model, "--batch", "batch.npz", "--fail-on", "never", *attacked(name, 5))
    report = json.loads(Path("leakaudit-report/report.json").read_text())
    assert (report["target"]["format"], [a["status"] for a in report["attacks"] if a["results"]][:1]) == (way, ["run"])
    assert Path("leakaudit-report/report.html").stat().st_size > 10_000
    goal = "leaked=0"
    ran(
        "defend",
        *model,
        "--batch",
        "batch.npz",
        *attacked(name, 5),
        "--target",
        goal,
        "--defence",
        "prune=0.9",
        "--steps",
        "1",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in KINDS if n != "sequences"])
def test_a_leak_is_shown_at_batch_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = written(name, "onnx", tmp_path)
    ran("scan", *model, "--batch", "batch.npz", "--fail-on", "never", *attacked(name, 900))
    report = json.loads(Path("leakaudit-report/report.json").read_text())
    samples = [s for a in report["attacks"] for r in a["results"] for s in r["samples"]]
    assert any(s["leaked"] for s in samples), [(s["margin"], s["leaked_reason"]) for s in samples]
