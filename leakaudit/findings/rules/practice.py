"""LA504 to LA510: what deployed code does wrong with a defence, from its settings, a claim or a recorded round."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.document.schema import Severity
from leakaudit.document.status import MisuseKind
from leakaudit.findings.registry import Evidence, Found, rule


def _found(evidence: Evidence, kind: MisuseKind, worst: Severity = "high") -> Iterator[Found]:
    """Everything of one kind, of defences and of claims."""
    named = [(d.text, d.misuses) for d in evidence.defences] + [(c.text, c.misuses) for c in evidence.claims]
    for text, misuse in [(text, misuse) for text, misuses in named for misuse in misuses if misuse.kind is kind]:
        severity: Severity = worst if misuse.grave else "medium"
        yield Found(
            severity,
            misuse.sure,
            f"{text}: {misuse.told}",
            {"defence": text},
        )


@rule(
    "LA504",
    "The norm that is clipped counts BatchNorm buffers",
    worst="medium",
    remedy="Clip the trainable tensors only: leave running statistics and num_batches_tracked out of what the filter "
    "is given, or use GroupNorm.",
)
def buffers_counted(evidence: Evidence) -> Iterator[Found]:
    """A filter takes the norm over a whole state dict, and a counter of batches outweighs every weight in it.

    A client of 125 steps moves ``num_batches_tracked`` by 125; with a bound of 1 its weights are then scaled by less
    than a hundredth. Nothing leaks by that, but the noise that is added afterwards drowns what is left, so the setting
    looks private and useless, and people lower the noise. Integer buffers that are scaled are also broken. Flower's
    ``fixedclipping_mod``, ``adaptiveclipping_mod`` and ``LocalDpMod`` take the norm of all arrays of a reply.
    """
    yield from _found(evidence, MisuseKind.BUFFERS_COUNTED, worst="medium")


@rule(
    "LA505",
    "The noise is off by the number that a sum is divided by",
    worst="high",
    remedy="State the noise as a multiplier z of the clipping norm: the sum has noise of standard deviation z·C, the "
    "mean of n has z·C/n; divide by the number that the strategy really aggregates.",
)
def wrong_divisor(evidence: Evidence) -> Iterator[Found]:
    """Noise calibrated for a sum is added to a mean, or noise for a mean to a sum, or the divisor is another number.

    The first only costs accuracy. In the other direction the noise is too small by the number of samples or clients,
    and ε as it is stated does not hold.
    """
    yield from _found(evidence, MisuseKind.WRONG_DIVISOR)


@rule(
    "LA506",
    "The classic bound of the Gaussian mechanism is used for epsilon above 1",
    worst="high",
    remedy="Calibrate the noise with the exact condition of Balle and Wang 2018 (arXiv 1805.06530), as dp-accounting's "
    "get_sigma_gaussian does.",
)
def classic_bound(evidence: Evidence) -> Iterator[Found]:
    """The noise is set to σ = Δ √(2 ln(1.25/δ)) / ε, which is a theorem for ε below 1 only.

    Dwork and Roth 2014, doi 10.1561/0400000042, theorem A.1, prove it for ε in (0, 1). Above, the exact ε of that noise
    can be larger than the stated one (Balle and Wang 2018, arXiv 1805.06530, section 2); the finding gives it. It is
    high where the exact ε is larger, medium where only the derivation is invalid.
    """
    yield from _found(evidence, MisuseKind.CLASSIC_BOUND)


@rule(
    "LA507",
    "Noise in every round, without an accountant over the rounds",
    worst="high",
    remedy="Count the rounds that a client takes part in: steps=… here, an accountant in the framework; and stop when "
    "the budget is spent.",
)
def unaccounted(evidence: Evidence) -> Iterator[Found]:
    """The stated ε is that of one round, and every further round of the same client adds to it.

    Each round is a Gaussian mechanism of its own on the same data. After R of them the noise counts as if it were
    smaller by the root of R.
    """
    yield from _found(evidence, MisuseKind.UNACCOUNTED)


@rule(
    "LA508",
    "The aggregate is noised, and the server sees the updates without noise",
    worst="high",
    remedy="Add the noise at the client, or aggregate securely so that the server sees the noised sum only; otherwise "
    "say that the server is trusted.",
)
def server_sees_raw(evidence: Evidence) -> Iterator[Found]:
    """Central differential privacy protects against whoever sees the trained model, not against the server.

    A client that only clips sends its update as it is: every attack of this report applies to it, whatever noise the
    server adds afterwards. Flower's ``DifferentialPrivacyClientSideFixedClipping`` is such a setting.
    """
    yield from _found(evidence, MisuseKind.SERVER_SEES_RAW)


@rule(
    "LA509",
    "A filter for differences of weights acts on the weights themselves",
    worst="high",
    remedy="Send differences: params_type DIFF of the FLModel in NVFlare, or a filter ahead that makes them; or name "
    "the kinds that the filter is for (data_kinds).",
)
def weights_filtered(evidence: Evidence) -> Iterator[Found]:
    """The percentile and the clipping are meant for small differences, and full weights are what is sent.

    NVFlare's ``PercentilePrivacy`` and ``SVTPrivacy`` take both kinds by default, and clients send full weights by
    default. The largest weights are then cut to the bound, which says nothing of how they changed, and the model is
    destroyed; the server still subtracts what it sent.
    """
    yield from _found(evidence, MisuseKind.WEIGHTS_FILTERED)


@rule(
    "LA510",
    "Some tensors are shared without the noise",
    worst="high",
    remedy="Noise every tensor that leaves the client, single numbers and buffers included, or leave it out.",
)
def passed_unnoised(evidence: Evidence) -> Iterator[Found]:
    """A guarantee is for all that is shared, and one tensor without noise has none.

    Filters that go by name, by shape or by size pass what they do not match. A bias of a layer alone gives the label,
    and with its weight the input of the layer.
    """
    yield from _found(evidence, MisuseKind.PASSED_UNNOISED)
