"""What stops the recursion, in words: each message names the layer and the cause."""

from __future__ import annotations

from leakaudit.errors import AuditError
from leakaudit.target.kinds import Layer


class Obstacle(AuditError):
    """The closed form stops before the image, at the layer that the message names."""


UNREADABLE = {
    "derived_weight": "its weight is computed from several tensors (weight or spectral normalisation)",
    "weight_part": "its weight is a slice of a larger tensor",
    "derived_bias": "its bias is computed from several tensors",
    "bias_part": "its bias is a slice of a larger tensor",
}
"""Settings of the inventory that mean that a layer's own weight or bias cannot be read, and why."""


def operator_of(layer: Layer) -> str:
    """Kind of a layer for a message: ``activation gelu``, ``max-pool``."""
    if layer.kind == "activation":
        return f"activation {layer.settings['function']}"
    return f"operator {layer.settings['operator']}" if layer.kind == "other" else layer.kind.replace("_", "-")


_CAUSES = {
    "max_pool": "max-pooling hides which entries won and the value of the others",
    "avg_pool": "average pooling hides the entries behind each mean",
    "global_pool": "global pooling hides the entries behind each value",
    "layernorm": "normalisation of each sample hides its mean and scale",
    "groupnorm": "normalisation of each sample hides its mean and scale",
    "softmax": "softmax hides a constant",
    "dropout": "dropout is active with a mask that the update does not tell",
    "slice": "it drops entries",
    "embedding": "its input is discrete",
    "reshape": "it is not a reordering of entries",
    "pad": "padding that does not directly precede a convolution",
}


def stop_at(layer: Layer) -> Obstacle:
    """The recursion cannot go back through this layer."""
    cause = _CAUSES.get(layer.kind, "it has no inverse that is known here")
    if layer.kind == "activation":
        cause = "its derivative is not a function of its output"
    if layer.kind == "batchnorm":
        cause = "BatchNorm with batch statistics hides each channel's mean and scale"
    message = f"the recursion stops at layer {layer.name} ({operator_of(layer)}): {cause}"
    return Obstacle(message, _way_out(layer))


def _way_out(layer: Layer) -> str:
    return "audit in eval mode" if layer.kind in ("batchnorm", "dropout") else "optimisation attacks do not need this"
