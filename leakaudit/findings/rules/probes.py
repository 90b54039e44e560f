"""LA930 to LA941: what running the network on random inputs showed."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.findings.registry import Evidence, Found, rule
from leakaudit.findings.rules.fidelity import noted


@rule(
    "LA930",
    "The model has no second derivative",
    worst="low",
    remedy="Replace the operator that the message names, for example hardsigmoid by relu6(x + 3) / 6, "
    "and export again.",
)
def no_second_derivative(evidence: Evidence) -> Iterator[Found]:
    """An operator lacks the derivative of its derivative, which every gradient-matching attack needs.

    Only closed-form attacks ran. This is a limit of the auditor, not a protection: an attacker replaces the operator.
    """
    yield from noted(evidence, "LA930")


@rule(
    "LA931",
    "Trained tensors without a gradient",
    worst="low",
    remedy="Check that the file holds the trained network; exclude tensors that clients do not train "
    "with --frozen PATTERN.",
)
def dead_tensors(evidence: Evidence) -> Iterator[Found]:
    """Some trained tensors have a zero gradient on random inputs: dead units, or tensors that the loss does not use.

    They carry nothing to the attacker; if clients do train them, the file is not what they train.
    """
    yield from noted(evidence, "LA931")


@rule(
    "LA932",
    "Derivatives overflow",
    worst="low",
    remedy="Check that the file holds trained weights in the scale that clients use.",
)
def overflow(evidence: Evidence) -> Iterator[Found]:
    """The second derivative is not finite on random inputs: the weights are far too large to attack numerically.

    Gradient matching then fails for reasons of arithmetic, which is no protection.
    """
    yield from noted(evidence, "LA932")


@rule(
    "LA933",
    "The update hardly depends on the input",
    worst="medium",
    remedy="Check that the file holds the network that clients train, and that inputs have the range that it takes.",
)
def unreached(evidence: Evidence) -> Iterator[Found]:
    """Two random inputs with the same label give the same update to a thousandth.

    Then there is little to reconstruct from it, and attacks that fail show nothing of the network in use: units are
    dead, inputs have another range, or the outputs come from comparisons.
    """
    yield from noted(evidence, "LA933", "medium")


@rule("LA940", "The import agrees with another implementation", worst="none", remedy="Nothing to do.")
def agrees(_: Evidence) -> Iterator[Found]:
    """The imported network and a second implementation computed the same logits on random inputs."""
    yield from ()


@rule(
    "LA941",
    "The import could not be checked",
    worst="low",
    remedy="Install onnxruntime (pip install onnxruntime), or export with an operator set that it takes.",
)
def unchecked(evidence: Evidence) -> Iterator[Found]:
    """No second implementation could run the file, so the imported network was not compared with anything.

    If the import is wrong, the audit is of another network.
    """
    yield from noted(evidence, "LA941")
