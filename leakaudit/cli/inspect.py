"""``leakaudit inspect MODEL``: what the auditor sees, before any time is spent on attacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from leakaudit.target import Target


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--mode", type=click.Choice(["eval", "train"]), default="eval", show_default=True, help="How clients run it."
)
@click.option("--output", metavar="NAME", help="Graph output to audit, for files with several.")
@click.option("--frozen", metavar="PATTERN", multiple=True, help="Tensors that clients do not train; repeatable.")
@click.option("--dropout", metavar="NODE=P", multiple=True, help="Dropout that the export has lost; repeatable.")
@click.option("--image-shape", metavar="C,H,W", help="Size of one image, where the file leaves it open.")
@click.option("--factory", metavar="PACKAGE.MODULE:FUNCTION", help="Builds the module whose weights MODEL holds.")
@click.option("--trust", is_flag=True, help="Open .pt2 and TorchScript files, which can run code.")
@click.option("--unsafe-pickle", is_flag=True, help="Open pickled modules, which run code.")
def inspect(
    model: Path,
    style: str,
    mode: Any,
    output: str | None,
    frozen: tuple[str, ...],
    dropout: tuple[str, ...],
    image_shape: str | None,
    factory: str | None,
    trust: bool,
    unsafe_pickle: bool,
) -> None:
    """Print what the auditor sees in MODEL: input, classes, layers, trainable tensors, fidelity."""
    from leakaudit.target import load

    target = load(
        model,
        mode=mode,
        output=output,
        frozen=frozen,
        factory=factory,
        trust=trust,
        unsafe_pickle=unsafe_pickle,
        image_shape=parse_image_shape(image_shape),
        dropout=parse_dropout(dropout),
    )
    summary = describe(target)
    click.echo(json.dumps(summary, indent=2) if style == "json" else as_text(summary))


def parse_image_shape(text: str | None) -> tuple[int, int, int] | None:
    """``C,H,W`` as integers.

    Raises:
        UsageError: It is not three positive integers.
    """
    from leakaudit.errors import UsageError

    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--image-shape {text!r} is not of the form C,H,W", "for example --image-shape 3,32,32")
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_dropout(settings: tuple[str, ...]) -> dict[str, float]:
    """``NODE=P`` settings by node name.

    Raises:
        UsageError: One of them has another form.
    """
    from leakaudit.errors import UsageError

    found: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--dropout {setting!r} is not of the form NODE=P", "for example --dropout /relu/Relu=0.5")
    return found


def describe(target: Target) -> dict[str, Any]:
    """Everything that `inspect` prints, ready for JSON."""
    from leakaudit.target.dropout import dropout_layers

    parameters = target.parameters
    return {
        "name": target.name,
        "path": target.path,
        "sha256": target.sha256,
        "format": target.format,
        "producer": target.producer,
        "input": {"native": list(target.native_shape), "layout": target.layout, "image": list(target.image_shape)},
        "classes": target.classes,
        "binary": target.binary,
        "batch_sizes": None if target.batch_sizes is None else list(target.batch_sizes),
        "mode": "train" if target.module.training else "eval",
        "parameters": sum(tensor.numel() for tensor in parameters.values()),
        "trainable_tensors": [{"name": name, "shape": list(tensor.shape)} for name, tensor in parameters.items()],
        "frozen": list(target.frozen),
        "dropout": [
            {"name": n, "p": layer.p, "kind": layer.kind} for n, layer in dropout_layers(target.module).items()
        ],
        **_layers(target),
        "attacks": _attacks(target),
        "fidelity": [{"id": note.id, "message": note.message, "hint": note.hint} for note in target.fidelity],
    }


def _layers(target: Target) -> dict[str, Any]:
    """The inventory, or the reason why there is none."""
    from leakaudit.target.inventory import inventory
    from leakaudit.target.trace import TraceError

    try:
        layers = inventory(target)
    except TraceError as error:
        return {"layers": [], "layers_reason": str(error), "normalisation": []}
    described = [
        {"name": layer.name, "kind": layer.kind, "output": list(layer.output_shape), "weight": layer.weight}
        for layer in layers
    ]
    norms = [layer.name for layer in layers if layer.kind in ("batchnorm", "layernorm", "groupnorm")]
    return {"layers": described, "normalisation": norms}


def _attacks(target: Target) -> list[dict[str, Any]]:
    """Which attacks apply to one sample of this model, and why others do not."""
    import torch

    from leakaudit.attacks.registry import available
    from leakaudit.observation import InputSpace, Observation, Protocol

    batch = 1 if target.batch_sizes is None else target.batch_sizes[0]
    channels = target.image_shape[0]
    space = InputSpace(target.image_shape, (0.0,) * channels, (1.0,) * channels)
    update = {name: torch.zeros_like(tensor) for name, tensor in target.parameters.items()}
    mode: Any = "train" if target.module.training else "eval"
    observation = Observation(update, Protocol(batch, mode), space)
    result = []
    for name, attack in available().items():
        refusal = attack(attack.presets["quick"]).applies(target, observation)
        result.append({"name": name, "applies": refusal is None, "reason": "" if refusal is None else refusal.reason})
    return result


def as_text(summary: dict[str, Any]) -> str:
    """The description for people."""
    image = "×".join(map(str, summary["input"]["image"]))
    sizes = summary["batch_sizes"]
    kind = "2 classes (one logit)" if summary["binary"] else f"{summary['classes']} classes"
    lines = [
        f"{summary['name']}  ({summary['format']}, {summary['producer'] or 'unknown producer'})",
        f"  input      {image} images, {summary['input']['layout']} {summary['input']['native']}, "
        + ("any batch size" if sizes is None else f"batches of {', '.join(map(str, sizes))} only"),
        f"  output     {kind}",
        f"  trainable  {summary['parameters']:,} numbers in {len(summary['trainable_tensors'])} tensors"
        + (f", {len(summary['frozen'])} frozen patterns" if summary["frozen"] else ""),
        "  dropout    " + (", ".join(f"{d['name']} (p={d['p']:g})" for d in summary["dropout"]) or "none"),
        "  norm       " + (", ".join(summary["normalisation"][:8]) or "none"),
        "",
        *_table("tensor", "shape", [(t["name"], "×".join(map(str, t["shape"]))) for t in summary["trainable_tensors"]]),
        "",
        *_table("layer", "kind", [(layer["name"], layer["kind"]) for layer in summary["layers"]]),
    ]
    if summary.get("layers_reason"):
        lines.append(f"  layers unknown: {summary['layers_reason']}")
    lines += ["", "attacks"]
    lines += [f"  {a['name']}: " + ("applies" if a["applies"] else f"no, {a['reason']}") for a in summary["attacks"]]
    lines += ["", "fidelity"]
    for note in summary["fidelity"]:
        lines.append(f"  {note['id']} {note['message']}" + (f"\n        {note['hint']}" if note["hint"] else ""))
    return "\n".join(lines)


def _table(first: str, second: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max([len(first), *(len(row[0]) for row in rows)])
    return [f"  {first:<{width}}  {second}", *(f"  {a:<{width}}  {b}" for a, b in rows)]
