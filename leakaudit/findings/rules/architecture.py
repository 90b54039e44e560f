"""LA1xx: what the architecture alone allows, before any attack. Estimates, kept apart from the empirical verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leakaudit.findings.registry import Evidence, Found, rule


@rule(
    "LA101",
    "The architecture allows a unique reconstruction",
    worst="medium",
    remedy="Raise the batch size of one update, or widen the stride and take filters from the layers next to the "
    "input; the rank table names the cheapest single change. It is no substitute for a defence.",
)
def unique_recovery(evidence: Evidence) -> Iterator[Found]:
    """Rank analysis finds enough independent equations in one update to determine the input of a single sample.

    Each layer contributes equations about its input: the gradient of its weight, its weight applied to its known
    output, and for R-GAP's recursion the virtual constraints of the layers behind it. Where their rank reaches the
    number of unknowns in every layer, one update of one sample has one solution.

    This is a property of the architecture, whether or not an attack succeeded. It is computed from shapes, so it is an
    estimate for the weights at hand; the attacks are the test.
    """
    rank = evidence.rank
    if rank.risk == "high":
        deficient = [layer.name for layer in rank.layers if layer.deficit]
        yield Found(
            "medium",
            "estimated",
            f"Rank analysis: {rank.level or 'high risk'}. One update of one sample carries enough independent "
            "equations to determine the input.",
            {"level": rank.level, "score": rank.score, "deficient_layers": deficient},
        )


@rule(
    "LA102",
    "The first layer is fully connected",
    worst="medium",
    remedy="Put a convolution with stride, or a layer that clients do not train (--frozen), between the input and the "
    "first fully connected layer.",
)
def first_layer_linear(evidence: Evidence) -> Iterator[Found]:
    """A trained fully connected layer reads the input directly, so its gradient contains the samples themselves.

    With ``z = W x + b`` the gradient of row j of W is the sum of ``δ_j x`` over the samples. For one sample every
    row *is* the sample, up to a factor; for a batch, units that only one sample activates still hold it (ReLU and
    dropout make such units). No optimisation is needed: see LA203 for whether it worked here.
    """
    first = evidence.target.first_layer
    if first is not None and first.kind == "linear":
        smallest = min(evidence.protocol.batch_sizes)
        yield Found(
            "medium" if smallest == 1 else "low",
            "estimated",
            f"Layer {first.name} multiplies the input itself; its gradient is a sum of multiples of the samples.",
            {"layer": first.name, "batch_size": smallest},
        )


@rule(
    "LA103",
    "The first layer's bias is part of the update",
    worst="low",
    remedy="Train the first layer without a bias, or leave that bias out of the update (--frozen).",
)
def bias_exposed(evidence: Evidence) -> Iterator[Found]:
    """The first layer has a trained bias, whose gradient is the layer's error signal in the clear.

    ``∂ℓ/∂b`` is the sum of the errors δ that multiply the input in ``∂ℓ/∂W``. Dividing one by the other gives the
    input of a fully connected layer exactly, and for other layers it removes the unknown scale from the equations
    that closed-form attacks solve.
    """
    first = evidence.target.first_layer
    if first is not None and first.bias:
        yield Found(
            "low",
            "estimated",
            f"The bias of layer {first.name} is trained and shared: the error that multiplies the input is known.",
            {"layer": first.name},
        )


@rule(
    "LA104",
    "More shared numbers than private ones",
    worst="low",
    remedy="Raise the batch size of one update, or have clients train fewer tensors (--frozen, adapters): the count "
    "in the evidence says how far.",
)
def parameters_per_input(evidence: Evidence) -> Iterator[Found]:
    """One update has at least as many numbers as the batch it was computed on.

    The gradient of P trained parameters is P equations; a batch of B samples of n values each has B·n unknowns. With
    P ≥ B·n counting does not rule out a unique reconstruction; with P < B·n it does, without a prior. Counting is
    necessary, not sufficient: see LA101 for the rank of these equations.
    """
    unknowns = min(evidence.protocol.batch_sizes) * math.prod(evidence.target.input_shape)
    if unknowns and evidence.target.parameters >= unknowns:
        ratio = evidence.target.parameters / unknowns
        yield Found(
            "low",
            "estimated",
            f"{evidence.target.parameters:,} shared numbers against {unknowns:,} private ones, {ratio:.1f} to one.",
            {"parameters": evidence.target.parameters, "unknowns": unknowns, "ratio": ratio},
        )


@rule(
    "LA105",
    "The update hardly depends on the sample",
    worst="low",
    remedy="Check that samples reach the model as in training: --mean and --std as clients normalise, and --std "
    "0.00392157 for a model that divides pixels by 255 itself. Of a model of steps (trees, sign activations), audit "
    "the one that is trained.",
)
def hardly_dependent(evidence: Evidence) -> Iterator[Found]:
    """Two samples cause nearly the same update, or the model has no slope in its input anywhere.

    Attacks tell samples by what they change in the update. Where that is a thousandth or less, as behind many sigmoids
    or with pixels scaled down twice, it is close to rounding; where a model is made of steps, its update may tell
    samples apart, but the derivative that attacks follow is zero. Either way, that attacks found nothing shows little.
    """
    if evidence.rank.update_told:
        yield Found(
            "low",
            "measured",
            f"In this model, {evidence.rank.update_told}.",
            {"change": evidence.rank.update_change, "flat": evidence.rank.update_flat},
        )
