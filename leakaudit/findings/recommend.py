"""What would help this client, each with its effect and how the effect is known: measured, computed, or literature.

* measured: an attack of this very scan showed it (dropout that DIA sees through, a defence that was in place);
* computed: rank analysis of a changed architecture or protocol, or the bound of a noise level;
* literature: a reference, where neither was possible.

Nothing is recommended without one of the three. `leakaudit defend` measures what is computed here, and its cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import scipy

from leakaudit.defences.accounting import reconstruction_bound
from leakaudit.document.schema import AttackEntry, RecommendationEntry
from leakaudit.errors import ModelError
from leakaudit.findings import Evidence, samples_of
from leakaudit.risk.rank import rank_analysis
from leakaudit.target.target import Target

PRIOR, TOLERATED = 0.01, 0.1
"""The noise level that is computed: a sample that could be guessed at 1 % is reconstructed at 10 % at most; chosen."""
LARGER = 8
"""Factor of the larger batch whose rank is computed; chosen."""


def recommend(target: Target, evidence: Evidence) -> list[RecommendationEntry]:
    """Recommendations for what a scan found, the ones that bound the leak first; none where nothing is exposed."""
    leaking = [a for a in evidence.attacks if not a.upper_bound and any(s.leaked for _, _, s in samples_of([a]))]
    if not leaking and evidence.rank.risk not in ("high", "medium"):
        return []
    return [
        *_noise(evidence),
        *_useless_defences(evidence),
        *_dropout(leaking),
        *_larger_batch(target, evidence),
        *_first_layer(evidence, leaking),
        *_architecture(evidence),
        *_aggregation(),
    ]


def multiplier_for(prior: float, tolerated: float) -> float:
    """The noise multiplier at which one update reconstructs at most with this probability, see `accounting`."""
    return float(1 / (scipy.special.ndtri(tolerated) - scipy.special.ndtri(prior)))


def _noise(evidence: Evidence) -> Iterator[RecommendationEntry]:
    """Clipping and noise, with the level that the bound asks for."""
    if any(defence.accounting for defence in evidence.defences):
        return
    z, size = multiplier_for(PRIOR, TOLERATED), min(evidence.protocol.batch_sizes)
    setting, share = f"clip=1,noise={z / size:.2g}", "" if size == 1 else f"/{size}"
    many = reconstruction_bound(z, PRIOR, steps=100)
    yield RecommendationEntry(
        title=f"Clip every sample's gradient to norm C and add noise of {z:.2g}·C{share} (DP-SGD)",
        effect=f"From one update a sample that could be guessed with probability {PRIOR:g} is then reconstructed with "
        f"probability at most {TOLERATED:g}; from 100 updates with it: at most {many:.2g}, so account for all steps",
        status="computed",
        reference="Kaissis et al. 2023, arXiv 2307.03928",
        try_it=f"leakaudit defend … --defence {setting}",
    )


def _useless_defences(evidence: Evidence) -> Iterator[RecommendationEntry]:
    """A defence without a bound that was in place while samples leaked."""
    leaked = {s.index for _, _, s in samples_of(evidence.attacks) if s.leaked}
    for defence in evidence.defences:
        if leaked and not defence.accounting:
            yield RecommendationEntry(
                title=f"Do not rely on {defence.text}",
                effect=f"{len(leaked)} samples leaked although it was applied",
                status="measured",
                reference=defence.reference,
            )


def _dropout(leaking: list[AttackEntry]) -> Iterator[RecommendationEntry]:
    """Dropout that the attack on its masks has seen through."""
    for attack in leaking:
        if attack.name != "dia":
            continue
        best = max((s.psnr for _, _, s in samples_of([attack]) if s.psnr is not None), default=None)
        shown = "exactly" if best is None else f"at {best:.1f} dB"
        yield RecommendationEntry(
            title="Do not count dropout as a defence",
            effect=f"DIA reconstructed {shown} although the masks are unknown to it",
            status="measured",
            reference=attack.reference,
        )


def _larger_batch(target: Target, evidence: Evidence) -> Iterator[RecommendationEntry]:
    """What rank analysis says of an update of more samples."""
    before, size = evidence.rank.score, evidence.protocol.batch_size * LARGER
    try:
        after = rank_analysis(target, batch_size=size, seconds=0.0).to_document()
    except ModelError:
        return
    if before is None or after.score is None or after.score >= before:
        return
    yield RecommendationEntry(
        title=f"Put {size} samples behind an update instead of {evidence.protocol.batch_size}",
        effect=f"Score {before:.2f} → {after.score:.2f} ({after.level or after.risk}): fewer equations for "
        "each unknown; sparse layers can still be separated",
        status="computed",
        try_it=f"leakaudit defend … --defence accumulate={LARGER}",
    )


def _first_layer(evidence: Evidence, leaking: list[AttackEntry]) -> Iterator[RecommendationEntry]:
    """A biased first layer that was read, for batches."""
    read = [a for a in leaking if a.name == "linear"]
    first = evidence.target.first_layer
    if not read or first is None or not first.bias or set(evidence.protocol.batch_sizes) == {1}:
        return
    yield RecommendationEntry(
        title=f"Train layer {first.name} without its bias, or do not share the bias",
        effect="The ratios that separate the samples of a batch are lost: the first-layer reader no longer applies to "
        "batches (one sample is still read from the weight alone)",
        status="computed",
        reference=read[0].reference,
    )


def _architecture(evidence: Evidence) -> Iterator[RecommendationEntry]:
    """The smallest changes that rank analysis found."""
    if changes := evidence.rank.smallest_changes[:2]:
        yield RecommendationEntry(
            title="Change the architecture",
            effect="; or ".join(changes),
            status="computed",
            reference="R-GAP, arXiv 2010.07733",
        )


def _aggregation() -> Iterator[RecommendationEntry]:
    yield RecommendationEntry(
        title="Aggregate securely over many clients",
        effect="The server sees a sum only; to an attacker it is one larger batch, so audit it as that",
        status="literature",
        reference="Bonawitz et al., CCS 2017, doi 10.1145/3133956.3133982",
        try_it="leakaudit defend … --defence clients=10",
    )
