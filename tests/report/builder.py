"""A realistic report without an audit: photographs where scikit-image is installed, smooth noise otherwise."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from leakaudit.document.schema import (
    AttackEntry,
    BatchSection,
    ConstraintCounts,
    FidelityEntry,
    FindingEntry,
    HistoryPoint,
    LabelResult,
    Metrics,
    ProtocolSection,
    RankLayer,
    RankSection,
    SampleResult,
    SnapshotEntry,
    TargetSection,
    Tool,
    Verdict,
    VictimResult,
)
from leakaudit.document.status import VerdictStatus
from leakaudit.report.saving import Report

CNN6_D = [
    ("conv1", "Conv2d 3→12 k4 s2 p2", 3072, 576, 3468, 0, -972, 3072),
    ("conv2", "Conv2d 12→20 k3 s2 p1", 3468, 2160, 1620, 396, -312, 3188),
    ("conv3", "Conv2d 20→36 k3 p1", 1620, 6480, 2916, 396, -7776, 1620),
    ("conv4", "Conv2d 36→36 k3 p1", 2916, 11664, 2916, 396, -11664, 2916),
    ("conv5", "Conv2d 36→64 k3 s2 p1", 2916, 20736, 1600, 396, -19420, 2916),
    ("conv6", "Conv2d 64→128 k3 p1", 1600, 73728, 3200, 396, -75328, 1600),
    ("fc", "Linear 3200→10", 3200, 32000, 10, 1996, -28810, 3200),
]


def png(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    array = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def photographs(count: int, side: int, channels: int, rng: np.random.Generator, first: int = 0) -> list[np.ndarray]:
    """Crops (side, side, channels) in 0..1."""
    sources = _sources()
    crops = []
    for i in range(count):
        if sources:
            image = sources[(i + first) % len(sources)]
            size = int(min(image.shape[:2]) * rng.uniform(0.5, 0.9))
            top, left = (int(rng.integers(0, n - size + 1)) for n in image.shape[:2])
            crop = Image.fromarray(image[top : top + size, left : left + size]).resize(
                (side, side), Image.Resampling.BOX
            )
        else:
            coarse = (rng.random((5, 5, 3)) * 255).astype(np.uint8)
            crop = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        array = np.asarray(crop, dtype=np.float64)[..., :3] / 255
        crops.append(array.mean(-1, keepdims=True) if channels == 1 else array)
    return crops


def _sources() -> list[np.ndarray]:
    try:
        from skimage import data
    except ImportError:
        return []
    return [data.astronaut(), data.coffee(), data.chelsea()]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def metrics(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    value = psnr(a, b)
    return {
        "psnr": value,
        "ssim": min(0.99, max(0.01, (value - 8) / 25)),
        "mse": float(np.mean((a - b) ** 2)),
        "lpips_reason": "LPIPS weights not available: pass --lpips-weights FILE",
    }


def _sample(index: int, image: np.ndarray, rebuilt: np.ndarray, others: list[np.ndarray], leaked: bool) -> SampleResult:
    floors = {
        "grey": Metrics(**metrics(image, np.full_like(image, 0.5))),
        "mean": Metrics(**metrics(image, np.mean(others, axis=0))),
        "other": Metrics(**metrics(image, others[0])),
    }
    scores = metrics(image, rebuilt)
    best = max(floor.psnr or 0.0 for floor in floors.values())
    return SampleResult(
        index=index,
        label=index % 6,
        inferred_label=index % 6 if index % 7 else (index + 1) % 6,
        floors=floors,
        margin=scores["psnr"] - best,
        reidentified=leaked,
        rank_among=48,
        leaked=leaked,
        metrics={name: scores.get(name) for name in ("psnr", "ssim", "lpips", "mse")}
        | {"margin": scores["psnr"] - best},
        metric_reasons={"lpips": scores["lpips_reason"]},
        metric_floors={
            name: floor.model_dump(include={"psnr", "ssim", "lpips", "mse"}) for name, floor in floors.items()
        },
        closeness=scores["psnr"],
        recognisable=scores["psnr"] >= 25,
        told=f"{scores['psnr']:.1f} dB PSNR",
        distractors_wanted=100,
        original_png=png(image),
        reconstruction_png=png(rebuilt),
        **scores,
    )


def _victim(number: int, batch: int, side: int, channels: int, noise: float, rng: np.random.Generator) -> VictimResult:
    images = photographs(batch + 2, side, channels, np.random.default_rng(number), number)
    private, others = images[:batch], images[batch:]
    level = noise * (0.6 + 0.3 * number)
    samples, stages = [], []
    for position, image in enumerate(private):
        field = rng.normal(size=image.shape)
        rebuilt = np.clip(image + level * field, 0, 1)
        samples.append(_sample(10 * number + position + 1, image, rebuilt, others, level < 0.12))
        stages.append([np.clip(image + (level + s) * field, 0, 1) for s in (0.6, 0.3, 0.1)])
    history = [
        HistoryPoint(iteration=i, objective=o + 0.004, match=o)
        for i in range(0, 1001, 20)
        for o in [float(0.9 * np.exp(-i / (150 + 40 * number)) + 0.003 * level * 10 + 0.002 * rng.random())]
    ]
    labels = sorted(sample.label for sample in samples)
    inferred = sorted(sample.inferred_label for sample in samples if sample.inferred_label is not None)
    return VictimResult(
        victim=number,
        seed=1000 + number,
        residual=level / 3,
        match=history[-1].match,
        certified_reason="certificates are not computed yet",
        seconds=12.345 + number,
        iterations=1000,
        labels=LabelResult(
            true=labels, inferred=inferred, correct=len(labels) - len(set(labels) - set(inferred)), method="iDLG"
        ),
        samples=samples,
        history=history,
        snapshots=[
            SnapshotEntry(fraction=f, images_png=[png(stage[k]) for stage in stages])
            for k, f in enumerate((0.25, 0.5, 0.75))
        ],
        notes=["Restart 2 of 2 had the smaller residual."] if number == 1 else [],
    )


def _attacks(
    victims: int, runs: int, batch: int, side: int, channels: int, rng: np.random.Generator
) -> list[AttackEntry]:
    given = {
        "update": "14 gradient tensors, undefended",
        "batch_size": batch,
        "labels": "inferred: iDLG",
        "masks": None,
    }
    names = [
        ("ig", "Inverting Gradients"), ("gradinversion", "See Through Gradients"), ("dlg", "Deep Leakage"),
        ("gias", "Generative prior"), ("fishing", "Layer-wise matching"), ("apgd", "Projected search"),
    ]  # fmt: skip
    ran = [
        AttackEntry(
            name=name,
            title=title,
            status="run",
            threat_model="B",
            given=given,
            hyperparameters={"iterations": 1000, "learning_rate": 0.1, "total_variation": 1e-4, "restarts": 2},
            reference="Geiping et al., NeurIPS 2020, arXiv:2003.14053",
            seconds=53.2,
            results=[_victim(v, batch, side, channels, 0.05 + 0.09 * k, rng) for v in range(victims)],
        )
        for k, (name, title) in enumerate(names[:runs])
    ]
    return [
        *ran,
        AttackEntry(
            name="ggi", title="Generative gradient inversion", status="not_applicable", threat_model="D",
            reason="needs auxiliary images: pass --auxiliary", given=given,
        ),
        AttackEntry(
            name="rgap", title="R-GAP", status="not_run", threat_model="B",
            reason="the time budget of 60 s was spent: raise --time-budget", given=given,
        ),
    ]  # fmt: skip


def _rank() -> RankSection:
    layers = [
        RankLayer(
            name=name,
            kind=kind,
            unknowns=unknowns,
            constraints=ConstraintCounts(gradient=gradient, weight=weight, virtual=virtual),
            index=index,
            rank=rank,
            deficit=unknowns - rank,
            unique=unknowns == rank,
            note="the naive count calls this layer recoverable; its rank does not" if unknowns > rank else "",
        )
        for name, kind, unknowns, gradient, weight, virtual, index, rank in CNN6_D
    ]
    layers.append(
        RankLayer(
            name="pool", kind="MaxPool2d", unknowns=None, unique=None, note="not treated: max pooling hides positions",
            constraints=ConstraintCounts(gradient=None, weight=None, virtual=None), index=None,
        )
    )  # fmt: skip
    return RankSection(
        risk="high", score=-312.0, level="identifiable", propagated_deficit=0, layers=layers,
        notes=["The recursion fails at conv2, the whole system still determines the input."],
    )  # fmt: skip


def _findings() -> list[FindingEntry]:
    return [
        FindingEntry(
            id="LA201", title="Private samples were reconstructed by gradient matching", severity="critical",
            confidence="measured", message="3 of 4 samples were reconstructed from the update alone; the closest by "
            "Inverting Gradients at 30.4 dB PSNR, 17.1 dB above its best floor.",
            evidence={"samples_leaked": 3, "samples_attacked": 4, "attack": "ig", "psnr": 30.4321, "ssim": 0.9},
            remedy="Aggregate securely over many clients, or clip and add accounted noise (DP-SGD), and audit again.",
        ),
        FindingEntry(
            id="LA301", title="Labels can be read from the update", severity="medium", confidence="measured",
            message="4 of 4 labels were inferred correctly from the update.", evidence={"correct": 4, "total": 4},
            remedy="Share no gradient of the last layer in the clear.",
        ),
        FindingEntry(
            id="LA902", title="Fidelity of the audited model", severity="low", confidence="certified",
            message="The file holds no dropout; the client may train with it.", remedy="Export in training mode.",
        ),
    ]  # fmt: skip


def build(
    *, victims: int = 4, runs: int = 2, batch: int = 1, side: int = 32, channels: int = 3, seed: int = 0, **changes: Any
) -> Report:
    """A report; `changes` replace its sections."""
    rng = np.random.default_rng(seed)
    sections: dict[str, Any] = {
        "tool": Tool(version="0.1.0"),
        "created": "2026-01-02T03:04:05+00:00",
        "command": ["leakaudit", "scan", "models/cnn6 d.onnx", "--batch", "batch.npz", "--victims", str(victims)],
        "seed": 4711,
        "preset": "standard",
        "device": "cpu",
        "versions": {"python": "3.11.2", "torch": "2.15.0", "leakaudit": "0.1.0", "onnx": "1.23.0"},
        "seconds": 187.4,
        "target": TargetSection(
            name="cnn6-d", path="models/cnn6 d.onnx", sha256="3f" * 32, format="onnx", producer="pytorch 2.15",
            classes=10, input_shape=[channels, side, side], parameters=147_324, trainable_tensors=8,
            dropout_layers=["drop1"], fidelity=[
                FidelityEntry(id="LA902", message="The file holds no dropout; the client may train with it.",
                              hint="Export in training mode.")],
        ),
        "batch": BatchSection(
            path="batch.npz", sha256="a9" * 32, samples=48, batch_size=batch, victims=victims,
            mean=[0.5] * channels, std=[0.25] * channels,
            class_names=["astronaut", "coffee", "cat", "rocket", "retina", "cells"],
            notes=["Layout NHWC inferred from the shape."],
        ),
        "protocol": ProtocolSection(batch_size=batch),
        "rank": _rank(),
        "attacks": _attacks(victims, runs, batch, side, channels, rng),
        "findings": _findings(),
        "verdict": Verdict(
            status="LEAKS (measured)", code=VerdictStatus.LEAKS_MEASURED, severity="critical", confidence="measured",
            headline="3 of 4 private samples can be reconstructed from one update",
            at_least="3 of 4 samples, reconstructed by Inverting Gradients from the update and the model.",
            at_most="No upper bound. Failure of these attacks is not evidence of safety.",
            assumed=["Threat model B: an honest-but-curious server.", "FedSGD: the full, undefended gradient.",
                     "Labels are inferred from the update, not given."],
        ),
    }  # fmt: skip
    return Report(**(sections | changes))
