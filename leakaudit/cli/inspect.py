"""``leakaudit inspect MODEL``: what the auditor sees, before any time is spent on attacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.audit.request import Request
from leakaudit.cli.options.request import request_options
from leakaudit.cli.options.sections import Sectioned
from leakaudit.cli.output import say, say_json

if TYPE_CHECKING:
    from leakaudit.target import Target


@click.command("inspect", cls=Sectioned)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@request_options(group="intake")
def inspect(model: Path, form: str, debug: bool, asked: dict[str, Any]) -> None:
    """Print what the auditor sees in MODEL: input, classes, layers, trainable tensors, fidelity."""
    from leakaudit.audit.intake import read_model

    summary = describe(read_model(Request(model=model, **asked)))
    if form == "json":
        say_json(summary)
    else:
        say(*as_lines(summary))


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
        "input": {
            "native": list(target.native_shape),
            "layout": target.layout,
            "image": list(target.image_shape),
            "sample": target.domain.told(target.layout, target.native_shape),
        },
        "domain": target.domain.kind,
        "tokens": target.domain.lookups(),
        "task": target.task.kind,
        "task_evidence": target.task_evidence,
        "loss": target.task.describe(),
        "outputs": target.task.outputs,
        "classes": target.classes,
        "binary": target.binary,
        "batch_sizes": None if target.batch_sizes is None else list(target.batch_sizes),
        "mode": target.mode,
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
    """Which attacks apply to the update of random inputs, and why others do not."""
    import torch

    from leakaudit.attacks.registry import available
    from leakaudit.observation import Observation
    from leakaudit.protocols.base import Play

    batch = 1 if target.batch_sizes is None else target.batch_sizes[0]
    domain = target.domain.normalised((), ())
    inputs = domain.finish(domain.look_alikes(batch, torch.Generator().manual_seed(0)))
    protocol = Request(batch_size=batch).protocol_for(target)
    update = protocol.update(target, Play(inputs, target.task.probes(batch)))
    observation = Observation(update, protocol, domain)
    result = []
    for name, attack in available().items():
        refusal = attack(attack.presets["quick"]).refusal(target, observation)
        result.append({"name": name, "applies": refusal is None, "reason": "" if refusal is None else refusal.reason})
    return result


def as_lines(summary: dict[str, Any]) -> list[str]:
    """The description for people, line by line."""
    taken = summary["input"]["sample"]
    sizes = summary["batch_sizes"]
    kind = "2 classes (one logit)" if summary["binary"] else f"{summary['classes']} classes"
    kind = kind if summary["task"] == "single-label" else f"{summary['outputs']} outputs"
    lines = [
        f"{summary['name']}  ({summary['format']}, {summary['producer'] or 'unknown producer'})",
        f"  input      {taken}, "
        + ("any batch size" if sizes is None else f"batches of {', '.join(map(str, sizes))} only"),
        f"  output     {kind}",
        f"  task       {summary['task']} by {summary['loss']} ({summary['task_evidence']}); --task says otherwise",
        f"  mode       {summary['mode']}",
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
        lines += [f"  {note['id']} {note['message']}", *([f"        {note['hint']}"] if note["hint"] else [])]
    return lines


def _table(first: str, second: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max([len(first), *(len(row[0]) for row in rows)])
    return [f"  {first:<{width}}  {second}", *(f"  {a:<{width}}  {b}" for a, b in rows)]
