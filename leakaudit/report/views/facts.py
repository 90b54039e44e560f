"""Term-and-value lists of the report: the tiles beside the verdict, the model, the batch, what to reproduce it with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, RankSection, Report, TargetSection
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.views.cells import Fact
from leakaudit.report.wording import MISSING, clip, number, plain, seconds


def tiles(report: Report) -> list[Fact]:
    """The four numbers beside the verdict."""
    scored = list(card_for(report).evidence())
    leaked, attacked = {s.index for s in scored if s.leaked}, {s.index for s in scored}
    real = [attack for attack in report.attacks if not attack.upper_bound]
    ran = sum(attack.status is RunStatus.RUN for attack in real)
    applying = sum(attack.status is not RunStatus.NOT_APPLICABLE for attack in real)
    return [
        Fact("Samples leaked", f"{len(leaked)} of {len(attacked)}" if attacked else MISSING, "by any attack"),
        card_for(report).tile(),
        _labels(real),
        Fact("Attacks run", f"{ran} of {applying}", f"that apply, in {seconds(report.seconds)}"),
    ]


def _labels(attacks: Sequence[AttackEntry]) -> Fact:
    """The most labels that were inferred of each victim; what an attack was told or took for granted does not count."""
    best: dict[int, tuple[int, int]] = {}
    for result in (result for attack in attacks for result in attack.results):
        if result.labels.known and not result.labels.assumed:
            found = (result.labels.correct, result.labels.count)
            best[result.victim] = max(best.get(result.victim, found), found)
    right, total = sum(one for one, _ in best.values()), sum(of for _, of in best.values())
    return Fact("Labels inferred", f"{right} of {total}" if total else MISSING, "right, from the update")


def _facts(*rows: tuple[str, Any]) -> list[Fact]:
    """Facts without the empty ones."""
    return [Fact(term, clip(str(value)), code="SHA-256" in term) for term, value in rows if value not in ("", None)]


def _names(layers: list[str]) -> str:
    shown = ", ".join(clip(layer, 40) for layer in layers[:12])
    return f"{count(len(layers), 'layer')}: {shown}{', …' if len(layers) > 12 else ''}" if layers else "none"


def _never_read(target: TargetSection) -> str:
    """Which share of a sample the model does not look at."""
    whole = math.prod(target.input_shape)
    return f"{target.unread} of {whole} entries of a sample, left out of every score" if target.unread else ""


def model_facts(report: Report) -> list[Fact]:
    """The model under audit: where it came from and what matters for a leak."""
    target = report.target
    return _facts(
        ("Model", target.name),
        ("File", target.path or "in memory"),
        ("Format", f"{target.format}{', written by ' + clip(target.producer, 60) if target.producer else ''}"),
        *card_for(report).input_facts(),
        ("Never read", _never_read(target)),
        ("Task", f"{target.task}{f' ({clip(target.task_evidence)})' if target.task_evidence else ''}"),
        ("Classes", number(target.classes) if target.classes else ""),
        ("Loss", target.loss),
        ("Parameters", f"{number(target.parameters)} in {count(target.trainable_tensors, 'trainable tensor')}"),
        ("Layers", _names(target.layers) if target.layers else ""),
        ("Dropout", _names(target.dropout_layers)),
        ("BatchNorm", _names(target.batchnorm_layers)),
    )


def batch_facts(report: Report) -> list[Fact]:
    """The private batch, in counts and hashes, and how the update was made."""
    batch, protocol = report.batch, report.protocol
    return _facts(
        ("File", batch.path or _without_path(report)),
        ("Samples in the file", number(batch.samples)),
        ("Classified right by the model", accuracy(report)),
        ("Victims", victims_told(report)),
        ("Update", f"{protocol.title} of {_behind(report)}, {protocol.mode} mode"),
        ("Distinct records", _records(report)),
        ("Recorded in", protocol.update_path or ("left out" if protocol.update_sha256 else "")),
        ("SHA-256 of the update", protocol.update_sha256 or ""),
        ("Read with", "; ".join(protocol.update_notes)),
        ("Recorded rounds", _rounds(report)),
        ("Weight decay", protocol.weight_decay_note),
        (
            "BatchNorm statistics",
            {
                "batch": "mean and variance over the batch, shared with the update",
                "running": "running statistics after the step, shared with the update",
            }.get(protocol.shared_statistics, ""),
        ),
        ("Normalisation", f"mean {plain(batch.mean)}; std {plain(batch.std)}" if batch.mean else ""),
        ("Classes named", plain(batch.class_names[:20]) if batch.class_names else ""),
    )


def _records(report: Report) -> str:
    """How many the updates show, where they do; of one gradient the batch size is public."""
    told = [value for value in report.batch.distinct_records if value is not None]
    if not told or report.protocol.algorithm == "fedsgd":
        return ""
    return f"{', '.join(map(str, told))} by the rank of the first layer's update, a lower bound"


def _without_path(report: Report) -> str:
    """Where the samples are, if no path says."""
    if not report.batch.samples:
        return "none: nobody has the samples"
    return "in memory" if report.batch.sha256 is None else "left out"


def victims_told(report: Report) -> str:
    """How many batches were attacked, of how many samples each."""
    return f"{count(report.batch.victims, 'batch', 'batches')} of {_behind(report)}"


def _behind(report: Report) -> str:
    """How many samples are behind one update; recorded rounds may differ in them."""
    sizes = sorted({*report.protocol.batch_sizes})
    return count(sizes[0], "sample") if len(sizes) == 1 else f"{sizes[0]} to {count(sizes[-1], 'sample')}"


def _rounds(report: Report) -> str:
    """How many recorded rounds there are, and which are left out."""
    protocol = report.protocol
    if not protocol.rounds and not protocol.left_out:
        return ""
    known = sum(entry.known for entry in protocol.rounds)
    own = sum(entry.own_weights for entry in protocol.rounds)
    told = [f"{count(len(protocol.rounds), 'round')}, {known} with samples"]
    told += [f"{own} began with other weights than the model's"] if own else []
    told += [f"left out: {one.label or 'a round'} ({one.reason or 'see the full report'})" for one in protocol.left_out]
    return "; ".join(told)


def accuracy(report: Report) -> str:
    """The share of samples, or why there is none; empty in documents that do not say."""
    batch = report.batch
    if batch.accuracy is None:
        return f"not known: {batch.accuracy_reason}" if batch.accuracy_reason else ""
    several = report.target.task != "single-label" or not report.target.classes
    chance = "" if several else f"; chance is {1 / report.target.classes:.0%}"
    return f"{batch.accuracy:.0%} of {count(batch.accuracy_samples, 'sample')}{chance}"


def rank_facts(report: Report) -> list[Fact]:
    """What rank analysis says of the whole network."""
    rank = report.rank
    deficient = [layer.name for layer in rank.layers if layer.deficit]
    return [
        Fact("Score", number(rank.score), clip(rank.score_reason) or "of 1: all layers determined"),
        Fact("Deficit at the input", _deficit(rank), "values left open after all layers"),
        Fact("Deficient layers", f"{len(deficient)} of {len(rank.layers)}", layers_named(deficient)),
    ]


def layers_named(layers: list[str]) -> str:
    """Layers by name, the first of many; names may be numbers, so what they name is said."""
    more = f" and {len(layers) - 12} more" if len(layers) > 12 else ""
    return (
        f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(clip(layer, 40) for layer in layers[:12])}{more}"
        if layers
        else ""
    )


def _deficit(rank: RankSection) -> str:
    """How many values stay open; at least as many where a layer's rank is known as an upper bound."""
    told = number(rank.propagated_deficit)
    bounded = rank.propagated_deficit is not None and any(layer.bound for layer in rank.layers)
    return f"at least {told}" if bounded else told


def reproduce_facts(report: Report) -> list[Fact]:
    """What it takes to get the same numbers again."""
    versions = ", ".join(f"{clip(name, 40)} {clip(version, 60)}" for name, version in report.versions.items())
    return [
        Fact("Created", clip(report.created)),
        Fact("Tool", clip(f"{report.tool.name} {report.tool.version}, report schema {report.schema_version}")),
        Fact("Seed", str(report.seed)),
        Fact("Preset", clip(report.preset)),
        Fact("Device", clip(report.device)),
        Fact("Time", seconds(report.seconds)),
        Fact("Versions", clip(versions, 600) or MISSING),
    ]
