"""LA2xx: private samples were reconstructed. One id per family of attacks, since each has a remedy of its own."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.document.schema import AttackEntry, Confidence, SampleResult, VictimResult
from leakaudit.findings.registry import Evidence, Found, closest, rule, samples_of

AGGREGATE = (
    "Aggregate updates securely over many clients, or clip and add accounted noise (DP-SGD), and audit again with the "
    "defence in place"
)


@rule(
    "LA201",
    "Private samples were reconstructed by gradient matching",
    worst="critical",
    remedy=f"{AGGREGATE}; more local steps or larger batches alone only raise the attacker's effort.",
)
def gradient_matching(evidence: Evidence) -> Iterator[Found]:
    """An optimisation attack found inputs whose update agrees with the shared one, and they are private samples.

    Gradient matching (DLG, iDLG, Inverting Gradients) starts from noise and changes it until the gradient that it
    causes equals the update. It needs the model and the update, no data. A sample counts when its reconstruction
    beats every floor and the prior-only control by the margin and is recognised among the distractors.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    yield from _reconstructed("LA201", evidence)


@rule(
    "LA202",
    "Private samples were computed from the update in closed form",
    worst="critical",
    remedy=f"{AGGREGATE}; a batch of two samples or one per cent of noise stops the recursion, though not the "
    "other attacks.",
)
def closed_form(evidence: Evidence) -> Iterator[Found]:
    """A recursive closed-form attack (R-GAP) solved the layers' equations back to the input of a single sample.

    It takes seconds and no luck. Certified when the regenerated update agrees to rounding and no other reconstruction
    near it does.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    yield from _reconstructed("LA202", evidence)


@rule(
    "LA203",
    "The first layer's gradient gives private samples away",
    worst="critical",
    remedy="Do not share the gradient of the layer that reads the input (freeze it with --frozen, or compute it behind "
    "secure aggregation); or clip and add accounted noise (DP-SGD), and audit again.",
)
def first_layer(evidence: Evidence) -> Iterator[Found]:
    """Samples were read off the gradient of the first layer: a fully connected one, or a patch embedding.

    The gradient of such a layer is a sum of multiples of the samples. One sample is a division; of a batch, units or
    positions that one sample alone activates give it away. It costs milliseconds and works whatever follows.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    yield from _reconstructed("LA203", evidence)


@rule(
    "LA204",
    "A batch was separated exactly by sparsity",
    worst="critical",
    remedy="Raise the batch beyond the rank at which the search ends (SPEAR's cost grows exponentially with it), or "
    "replace ReLU behind the first layer by a smooth activation; neither is a guarantee, clip and add accounted noise.",
)
def sparse_separation(evidence: Evidence) -> Iterator[Found]:
    """A batch was recovered exactly because ReLU makes the errors of the first layer sparse (SPEAR).

    The gradient of a fully connected layer over B samples has rank B; among all ways to factor it, the true one has
    errors with zeros where ReLU was off. Vectors with such zeros are searched for and confirmed. Moderate batches
    (up to about 25) are recovered to rounding.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    yield from _reconstructed("LA204", evidence)


@rule(
    "LA205",
    "Dropout did not protect the samples",
    worst="critical",
    remedy=f"Do not count dropout as a defence. {AGGREGATE}.",
)
def dropout_aware(evidence: Evidence) -> Iterator[Found]:
    """A dropout-aware attack (DIA) recovered samples although the client's dropout masks were unknown.

    Random masks make the update a different function of the samples at every step, which defeats plain gradient
    matching and looks like protection. The masks are unknowns like the samples: they are optimised together, and for
    a single sample the zero columns of a gradient often show them directly.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    yield from _reconstructed("LA205", evidence)


@rule(
    "LA206",
    "A prior over images turned the update into private samples",
    worst="critical",
    remedy=f"{AGGREGATE}. Do not share BatchNorm statistics of single batches; publishing data of the clients' kind "
    "strengthens this attacker, so audit with --auxiliary what is public.",
)
def prior_based(evidence: Evidence) -> Iterator[Found]:
    """An attack that knows images of a similar kind, or the batch's BatchNorm statistics, recovered samples.

    GI-PIP learns from public images what the domain looks like, GIAS searches a generator of such; GradInversion uses
    the mean and variance of each BatchNorm layer. A prior can also invent: a sample counts only if the same attack
    without this update does worse by the margin.

    Critical when a reconstruction is close to the original (SSIM ≥ 0.8 or PSNR ≥ 25 dB), high otherwise.
    """
    yield from _reconstructed("LA206", evidence)


@rule(
    "LA207",
    "Private text was recovered from the update",
    worst="critical",
    remedy="Do not share gradients of the embedding table or of the first attention layer (freeze them, or train "
    "adapters of low rank behind them); or clip and add accounted noise (DP-SGD), and audit again.",
)
def text(evidence: Evidence) -> Iterator[Found]:
    """Tokens of the batch were recovered from the update of a language model.

    The gradient of an embedding table has non-zero rows exactly at the tokens that occurred; the gradients of the
    first attention layers span the embeddings of the tokens in their order, which can be tested token by token
    (DAGER). Both are exact without a search over texts.

    Critical when at least 80 % of a text's places were read, high when only the set of its tokens was.
    """
    yield from _reconstructed("LA207", evidence)


@rule(
    "LA208",
    "Parts of private samples were read from the update",
    worst="high",
    remedy="Do not share the gradients of the layers that read parts of the input (freeze them with --frozen, or "
    "compute them behind secure aggregation); or clip and add accounted noise (DP-SGD), and audit again.",
)
def part_read(evidence: Evidence) -> Iterator[Found]:
    """A closed form read some entries of a sample, and nothing of the others.

    A fully connected layer on a slice or a crop of the input gives that part away, whatever the model does with the
    rest. The part is judged as a sample is: on its entries, the reconstruction beats every floor by the margin and
    is told from the same part of the distractors. Below 5 % of what the model reads it is no finding, unless it is one
    of several inputs of the model, which has floors of its own.

    High: the part may be the one that matters. Where the parts make up the sample, it counts as a whole one.
    """
    parts = [(a, v, s) for a, v, s in samples_of(evidence.attacks) if s.leaked and s.part]
    if not parts:
        return
    attack, victim, most = max(parts, key=lambda item: item[2].part.entries if item[2].part else 0)
    assert most.part is not None
    distinct, total = len({s.index for _, _, s in parts}), len({s.index for _, _, s in samples_of(evidence.attacks)})
    yield Found(
        "high",
        _confidence(parts, evidence),
        f"{distinct} of {total} samples were read in part from the update alone; the most by {attack.title}: "
        f"{most.told}.",
        {
            "samples_read_in_part": distinct,
            "samples_attacked": total,
            "attack": attack.name,
            "victim": victim.victim,
            "entries": most.part.entries,
            "of": most.part.of,
            "psnr": most.part.psnr,
        },
    )


def family_of(attack: AttackEntry) -> str:
    """The finding that this attack's success is reported under."""
    return attack.finding or ("LA202" if attack.family == "closed form" else "LA201")


def _reconstructed(identifier: str, evidence: Evidence) -> Iterator[Found]:
    scored = samples_of([a for a in evidence.attacks if family_of(a) == identifier])
    leaked = [(a, v, s) for a, v, s in scored if s.leaked and s.part is None]
    nearest = closest(leaked)
    if nearest is None:
        return
    attack, victim, best = nearest
    distinct, total = len({s.index for _, _, s in leaked}), len({s.index for _, _, s in scored})
    yield Found(
        "critical" if best.recognisable else "high",
        _confidence(leaked, evidence),
        f"{_claim(leaked, distinct, total)} from the update alone; the closest by {attack.title}: {best.told}.",
        {
            "samples_leaked": distinct,
            "samples_attacked": total,
            "attack": attack.name,
            "victim": victim.victim,
            "psnr": best.psnr,
            "ssim": best.ssim,
            "margin": best.margin,
            **best.metrics,
        },
    )


def _confidence(leaked: list[tuple[AttackEntry, VictimResult, SampleResult]], evidence: Evidence) -> Confidence:
    """Certified needs no control; measured needs them."""
    if any(v.certified or s.proved for _, v, s in leaked):
        return "certified"
    return "measured" if any(evidence.controlled(a.name) for a, _, _ in leaked) else "estimated"


def _claim(leaked: list[tuple[AttackEntry, VictimResult, SampleResult]], distinct: int, total: int) -> str:
    """What was done to how many samples; a set of tokens is not a reconstruction."""
    lesser = [s.claim for _, _, s in leaked if s.claim]
    claim = lesser[0] if len(lesser) == len(leaked) else "{hit} of {total} samples were reconstructed"
    return claim.replace("{hit}", str(distinct)).replace("{total}", str(total))
