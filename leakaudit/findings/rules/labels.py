"""LA3xx: what the update says about the classes in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leakaudit.document.schema import LabelResult
from leakaudit.findings.registry import Evidence, Found, rule


@rule(
    "LA301",
    "Labels can be read from the update",
    worst="medium",
    remedy="Keep the gradient of the last layer out of the update in the clear (secure aggregation, or freeze it with "
    "--frozen), or raise the batch size well beyond the number of classes; label smoothing does not help.",
)
def labels_recovered(evidence: Evidence) -> Iterator[Found]:
    """The classes in the batch were inferred from the last layer's gradient, better than by chance.

    The gradient of the last layer's bias is the mean of prediction minus label: negative where a label occurred. For a
    single sample this is exact; for a batch the counts are estimated. The update does not tell which sample has which
    label: a label is right as a member of the batch's multiset. Where a sample has several classes every yes and no
    counts, and the best count that is the same for every class is chance; numbers count within one per cent. Labels
    that were merely assumed do not count. Labels can be sensitive (a diagnosis), and every reconstruction attack
    profits from them.
    """
    victims = [v for v in _labels(evidence) if not v.assumed and v.known]
    unknown = [v for v in _labels(evidence) if not v.assumed and not v.known and v.inferred_count]
    if unknown and not victims:
        count = sum(v.inferred_count for v in unknown)
        what = "1 label was" if count == 1 else f"{count} labels were"
        yield Found(
            "medium",
            "estimated",
            f"{what} inferred from the update; nobody has the true ones to compare with.",
            {"total": count},
        )
    total, correct = sum(labels.count for labels in victims), sum(labels.correct for labels in victims)
    if total and correct / total > _by_chance(evidence, victims):
        yield Found(
            "medium",
            "measured",
            f"{correct} of {total} labels were inferred correctly from the update.",
            {"correct": correct, "total": total},
        )


@rule(
    "LA302",
    "The update shows which classes are present",
    worst="medium",
    remedy="Balance batches so that every class occurs, or aggregate over clients: presence cannot be hidden by a "
    "larger batch while a class stays rare.",
)
def classes_present(evidence: Evidence) -> Iterator[Found]:
    """In every batch of several samples the set of classes was inferred without an error, even where counts were wrong.

    That a class occurs at all can be the secret (a rare disease at a hospital). Reported for batches of several
    samples that do not hold every class; for single samples LA301 says it.
    """
    inferred = [v for v in _labels(evidence) if not v.assumed and v.known]
    victims = [v for v in inferred if len(v.rows or v.true) > 1 and len(set(v.true)) < evidence.target.classes]
    if victims and all(set(v.true) == set(v.inferred) for v in victims):
        yield Found(
            "medium",
            "measured",
            f"In {len(victims)} of {len(victims)} batches exactly the classes that occur were inferred.",
            {"batches": len(victims)},
        )


@rule(
    "LA303",
    "The update tells how many distinct records are behind it",
    worst="low",
    remedy="Put a layer that clients do not train (--frozen) between the input and the first fully connected one, or "
    "aggregate over clients: noise on the update hides the number only where it covers the weakest record.",
)
def records_counted(evidence: Evidence) -> Iterator[Found]:
    """The rank of the first layer's update is the number of distinct records, whatever the client trained on top.

    Every visit of a record adds a multiple of that record to the update of a fully connected first layer, so epochs and
    batch sizes do not change the rank. It is a lower bound on the records: equal ones count once. How many patients a
    hospital has, or that most rows of a table are copies, can be the secret; and the readers of LA203 and LA204 start
    from here. Reported for clients that train locally, since one gradient is of a batch whose size is public.
    """
    records = [] if evidence.batch is None else evidence.batch.distinct_records
    sizes = evidence.protocol.batch_sizes
    behind = sizes if len(sizes) == len(records) else [evidence.protocol.batch_size] * len(records)
    known = [(one, size) for one, size in zip(records, behind, strict=True) if one is not None]
    if known and evidence.protocol.algorithm != "fedsgd":
        counts = ", ".join(dict.fromkeys(f"{one} of {size}" for one, size in known))
        yield Found(
            "low",
            "measured",
            f"Distinct records that the rank of the first layer's update shows: {counts}.",
            {"records": [one for one, _ in known], "batch_size": evidence.protocol.batch_size},
        )


def _by_chance(evidence: Evidence, victims: Sequence[LabelResult]) -> float:
    """The share of right labels that is no finding yet; of one class per sample that of guessing it, twice."""
    counts = sum(v.count for v in victims)
    if any(v.chance is None for v in victims):
        return max(0.5, 2 / max(1, evidence.target.classes))
    return max(0.5, sum((v.chance or 0.0) * v.count for v in victims) / counts)


def _labels(evidence: Evidence) -> list[LabelResult]:
    """Per victim, once: those of the last attack on it."""
    return list({v.victim: v.labels for a in evidence.attacks for v in a.results}.values())
