"""LA900 to LA918: what a file holds, against what clients train.

Tensors that an exporter merged, folded or dropped, layers that act in training only, and where the loss is.
"""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.findings.registry import Evidence, Found, rule
from leakaudit.findings.rules.fidelity import EXPORT, changed, noted


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
    yield from changed(evidence, "LA900")


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
    yield from changed(evidence, "LA901")


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
    yield from noted(evidence, "LA902")


@rule("LA903", "BatchNorm was exported in train mode", worst="low", remedy=f"{EXPORT}; then audit with --mode train.")
def train_export(evidence: Evidence) -> Iterator[Found]:
    """The export ran with ``training=True``, which has passed the example input through the running statistics.

    The weights are intact, the statistics are not those of training. In eval mode the audited function is wrong.
    """
    yield from noted(evidence, "LA903")


@rule("LA904", "The file draws random numbers", worst="low", remedy=f"{EXPORT}.")
def random(evidence: Evidence) -> Iterator[Found]:
    """Dropout or stochastic depth is part of the graph and draws in eval mode too.

    Attacks assume that the same input gives the same update; here it does not, so residuals cannot reach zero and a
    failure of the attacks shows little.
    """
    yield from noted(evidence, "LA904")


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
    yield from noted(evidence, "LA905")


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
    yield from noted(evidence, "LA906")


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
    yield from noted(evidence, "LA910")


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
    yield from noted(evidence, "LA912")


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
    yield from noted(evidence, "LA917", "medium")


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
    yield from noted(evidence, "LA918", "medium")


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
    yield from noted(evidence, "LA914")


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
    yield from noted(evidence, "LA916", "medium")
