"""LA90x to LA94x: where the audited network may differ from the one that clients train.

`leakaudit.target` writes these notes while it reads a model file. Some state a fact without being a finding: a check
that passed, a head that was found; their worst severity is ``none``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leakaudit.document.schema import FidelityEntry, Severity
from leakaudit.findings.registry import Evidence, Found, rule

EXPORT = (
    'Export with torch.onnx.export(model.eval(), (x,), "model.onnx", dynamo=True, optimize=False), which keeps '
    "BatchNorm, names and weights"
)

DEPARTURES = frozenset({"LA900", "LA901", "LA916", "LA918", "LA933"})
"""Notes after which the audited update may not be the client's: the verdict says so first."""


def departures(notes: Sequence[FidelityEntry]) -> list[FidelityEntry]:
    """Those of a model's notes after which its update may not be the client's."""
    return [note for note in notes if note.id in DEPARTURES]


def _noted(evidence: Evidence, identifier: str, severity: Severity = "low") -> Iterator[Found]:
    yield from (
        Found(severity, "certified", note.message) for note in evidence.target.fidelity if note.id == identifier
    )


def _changed(evidence: Evidence, identifier: str) -> Iterator[Found]:
    """Notes on what an exporter did, each with the way out that it names for this exporter."""
    for note in evidence.target.fidelity:
        if note.id == identifier:
            yield Found("medium", "certified", note.message, remedy=f"{note.hint[:1].upper()}{note.hint[1:]}.")


@rule(
    "LA900",
    "The file holds other tensors than clients train",
    worst="medium",
    remedy=f"{EXPORT}; or pass the training model with --factory.",
)
def other_tensors(evidence: Evidence) -> Iterator[Found]:
    """The exporter has merged, folded, dropped or renamed tensors that clients train, and it cannot all be undone.

    A gradient of what the file holds is then not what clients share, tensor by tensor: a leak of the audited update may
    not be one of theirs, and one that was not shown may be there. Torch's default exporter lists the module's
    parameters in the file, so the message names what is missing; of other exporters, names tell.
    """
    yield from _changed(evidence, "LA900")


@rule(
    "LA901",
    "BatchNorm may have been folded away",
    worst="medium",
    remedy=f"{EXPORT}; or pass the training model with --factory.",
)
def folded(evidence: Evidence) -> Iterator[Found]:
    """The exporter has merged BatchNorm into another layer, or may have: it says so, or names or the graph do.

    Folding is exact for inference, but it changes what is trained: clients have a separate scale and shift, and the
    gradient of a folded weight is not the gradient that they share. Attack results do then not transfer.
    """
    yield from _changed(evidence, "LA901")


@rule(
    "LA902",
    "The file holds no dropout",
    worst="low",
    remedy="If clients train with dropout, put it back with --dropout NODE=P or a --train-config file, "
    "and audit --mode train.",
)
def no_dropout(evidence: Evidence) -> Iterator[Found]:
    """An export in eval mode removes dropout. A file that names its modules shows where one has left nothing.

    It is said of a file that names none, of one in whose numbered modules some are missing, and of transformers.

    With dropout the client's update is a different, random function of its samples, and other attacks apply (DIA).
    """
    yield from _noted(evidence, "LA902")


@rule("LA903", "BatchNorm was exported in train mode", worst="low", remedy=f"{EXPORT}; then audit with --mode train.")
def train_export(evidence: Evidence) -> Iterator[Found]:
    """The export ran with ``training=True``, which has passed the example input through the running statistics.

    The weights are intact, the statistics are not those of training. In eval mode the audited function is wrong.
    """
    yield from _noted(evidence, "LA903")


@rule("LA904", "The file draws random numbers", worst="low", remedy=f"{EXPORT}.")
def random(evidence: Evidence) -> Iterator[Found]:
    """Dropout or stochastic depth is part of the graph and draws in eval mode too.

    Attacks assume that the same input gives the same update; here it does not, so residuals cannot reach zero and a
    failure of the attacks shows little.
    """
    yield from _noted(evidence, "LA904")


@rule(
    "LA905",
    "Constants were taken as trained tensors",
    worst="low",
    remedy="Name those that clients do not train with --frozen PATTERN.",
)
def promoted(evidence: Evidence) -> Iterator[Found]:
    """The file stores some weights as constants of the graph. They look like weights, so they are audited as trained.

    If clients do not train them, the attacker sees less than this audit assumed.
    """
    yield from _noted(evidence, "LA905")


@rule(
    "LA906",
    "Tensors are shared between layers",
    worst="low",
    remedy="If the layers are separate in training, pass the model with --factory: an exporter merges tensors "
    "of equal value.",
)
def shared(evidence: Evidence) -> Iterator[Found]:
    """One tensor feeds several nodes, so its gradient is the sum over them.

    That is right for tied weights. Where an exporter has merged tensors that happened to be equal (freshly initialised
    biases), clients share more than was audited.
    """
    yield from _noted(evidence, "LA906")


@rule(
    "LA907",
    "Merged tensors were separated",
    worst="none",
    remedy="Nothing to do; if the layers are tied in training, pass the model with --factory.",
)
def separated(_: Evidence) -> Iterator[Found]:
    """An exporter had merged tensors of equal (initial) value; they are trained and audited separately."""
    yield from ()


@rule(
    "LA908",
    "Tensors taken as not trained",
    worst="none",
    remedy="If clients do train them, name them with --trained PATTERN, or pass the model with --factory.",
)
def excluded(_: Evidence) -> Iterator[Found]:
    """Integer tensors, running statistics and constants of arithmetic are part of the file but not of an update."""
    yield from ()


@rule(
    "LA909",
    "Half precision computed in float32",
    worst="none",
    remedy="Nothing to do; clients that train in half precision share updates with more rounding.",
)
def half(_: Evidence) -> Iterator[Found]:
    """The file holds half-precision numbers. The audit computes in float32, which favours the attacker slightly."""
    yield from ()


@rule(
    "LA910",
    "The loss was moved in front of the final activation",
    worst="low",
    remedy="Nothing to do if clients use cross-entropy on the logits; otherwise pass --output NAME "
    "with the output that their loss takes.",
)
def head(evidence: Evidence) -> Iterator[Found]:
    """The file ends in a softmax, log-softmax or sigmoid; the loss is computed on the logits in front of it.

    This is what training code does. A loss on the probabilities has another gradient.
    """
    yield from _noted(evidence, "LA910")


@rule(
    "LA911",
    "Which of several outputs the loss is over",
    worst="none",
    remedy="Choose the output that the loss takes with --output NAME, or say the sum that clients train, as "
    "--output logits+0.3*aux1.",
)
def outputs(_: Evidence) -> Iterator[Found]:
    """The model has several outputs; the one that gives logits was audited, or those that --output sums."""
    yield from ()


@rule(
    "LA912",
    "Dropout inside a fused recurrent layer",
    worst="low",
    remedy="Put nn.Dropout between single-layer recurrent modules and pass that model with --factory.",
)
def fused_dropout(evidence: Evidence) -> Iterator[Found]:
    """Dropout between the layers of one recurrent module is computed inside a fused kernel.

    Its masks can be neither recorded nor injected, so dropout-aware attacks and upper bounds leave it out.
    """
    yield from _noted(evidence, "LA912")


@rule(
    "LA917",
    "The model draws random numbers that nothing records",
    worst="medium",
    remedy="Put nn.Dropout or torchvision.ops.StochasticDepth where the model draws, or audit with --mode eval.",
)
def unrecorded_draws(evidence: Evidence) -> Iterator[Found]:
    """In train mode two forwards of the same samples differ although every dropout layer is off.

    A function of the model's own draws, such as DropBlock or noise. The attacker's forward then differs from the
    client's in what nobody can record or inject: an attack that fails says little.
    """
    yield from _noted(evidence, "LA917", "medium")


@rule(
    "LA918",
    "Adapters are audited beside what they adapt",
    worst="medium",
    remedy="Name what clients do not train, as with --frozen '!*lora_*', or pass the peft model with --factory.",
)
def adapters(evidence: Evidence) -> Iterator[Found]:
    """An ONNX file holds LoRA's tensors, and every other tensor was taken as trained, too.

    ``requires_grad`` is lost in an export. Clients that fine-tune adapters send the gradients of those alone, which
    give away less than those of the whole network.
    """
    yield from _noted(evidence, "LA918", "medium")


@rule("LA913", "TorchScript hides dropout", worst="none", remedy="Nothing to do.")
def torchscript(_: Evidence) -> Iterator[Found]:
    """Written by versions that ran TorchScript as it was; its dropout is now recorded like any other."""
    yield from ()


@rule(
    "LA914",
    "Tensors at the input may be trained",
    worst="low",
    remedy="If clients train them, name them with --trained PATTERN.",
)
def open_inputs(evidence: Evidence) -> Iterator[Found]:
    """The raw input is shifted or scaled by stored tensors, which are taken as its normalisation.

    A trained prompt or a trained affine map looks the same in the file. If clients train it, its gradient is part of
    their update, and it gives more away than was audited.
    """
    yield from _noted(evidence, "LA914")


@rule(
    "LA915",
    "Single numbers were taken as trained tensors",
    worst="none",
    remedy="Name those that clients do not train with --frozen PATTERN.",
)
def scalars(_: Evidence) -> Iterator[Found]:
    """Torch keeps a single number under a module's name if it is a parameter (a temperature, a gate) or a buffer."""
    yield from ()


@rule(
    "LA916",
    "Probabilities were audited through their logarithm",
    worst="medium",
    remedy="Pass a model that ends in logits, or choose them with --output NAME.",
)
def logarithm(evidence: Evidence) -> Iterator[Found]:
    """The outputs are probabilities, and the logits in front of them were not found.

    Cross-entropy of their logarithm is the negative log-likelihood, which is the loss of clients that train on such
    outputs. Clients that train on the logits share another update if the outputs are clipped or mixed.
    """
    yield from _noted(evidence, "LA916", "medium")


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
    yield from _noted(evidence, "LA920")


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
    yield from _noted(evidence, "LA921")


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
    yield from _noted(evidence, "LA922")


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
    yield from _noted(evidence, "LA924")


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
    yield from _noted(evidence, "LA930")


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
    yield from _noted(evidence, "LA931")


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
    yield from _noted(evidence, "LA932")


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
    yield from _noted(evidence, "LA933", "medium")


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
    yield from _noted(evidence, "LA941")
