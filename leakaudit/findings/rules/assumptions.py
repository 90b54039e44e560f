"""LA920 to LA924: what was assumed of inputs and outputs, where a file leaves it open or fixes it."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.findings.registry import Evidence, Found, rule
from leakaudit.findings.rules.fidelity import noted


@rule(
    "LA920",
    "The file takes fixed batch sizes only",
    worst="low",
    remedy='Export with a dynamic batch axis: dynamic_axes={"input": {0: "N"}}.',
)
def fixed_batch(evidence: Evidence) -> Iterator[Found]:
    """The graph was exported for certain batch sizes, so other sizes cannot be audited.

    Audit the size that clients use; a smaller one leaks more.
    """
    yield from noted(evidence, "LA920")


@rule(
    "LA921",
    "The input size was assumed",
    worst="low",
    remedy="Pass the size that clients use with --input-shape C,H,W.",
)
def assumed_size(evidence: Evidence) -> Iterator[Found]:
    """The file leaves the size of the input open, and the audit chose one that the graph accepts.

    The number of unknowns, and so the risk, grows with it.
    """
    yield from noted(evidence, "LA921")


@rule(
    "LA922",
    "One output is read as a binary logit",
    worst="low",
    remedy="If the model is a classifier with one logit, say --loss bce; if its output is a number, --task regression.",
)
def one_output(evidence: Evidence) -> Iterator[Found]:
    """The model has one output and no activation behind it, and is audited with the logistic loss.

    A regression loss has another gradient and other attacks on its labels.
    """
    yield from noted(evidence, "LA922")


@rule(
    "LA923",
    "Inputs beside the token ids were filled in",
    worst="none",
    remedy="Nothing to do if clients train on unpadded sequences of one segment; else export a model that takes the "
    "ids alone and computes its mask from them.",
)
def companions(_: Evidence) -> Iterator[Found]:
    """The attention mask was set to ones and the segments to zeros, as for one sequence without padding.

    Clients that pad share updates of shorter texts, which have fewer unknowns.
    """
    yield from ()


@rule(
    "LA924",
    "The model rescales its input by itself",
    worst="low",
    remedy="Nothing to do if clients feed the model pixels in 0..255; else pass the --mean and --std that they use.",
)
def rescales(evidence: Evidence) -> Iterator[Found]:
    """The model's first layer is a constant one, such as Keras' `Rescaling(1/255)` or the subtraction of a mean.

    Such a model takes pixels in 0..255. The samples were fed to it so, unless `--mean` or `--std` said otherwise. Fed
    with 0..1, it would see nearly black images, whose update is not that of a client.
    """
    yield from noted(evidence, "LA924")
