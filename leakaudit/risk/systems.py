"""The linear system that an update gives for one layer's input, and blocks that such systems solve by themselves."""

from __future__ import annotations

from leakaudit.risk.structural import Convolution, StructuralRank, convolution_rank, linear_rank
from leakaudit.target.kinds import Layer

WEIGHTED = ("convolution", "linear")


def layer_system(layer: Layer, before: tuple[Layer, ...] = (), batch_size: int = 1) -> StructuralRank:
    """The linear system of one convolution or linear layer; zero padding in front of it is part of it."""
    if layer.kind == "linear":
        return linear_rank(
            layer.settings["in_features"], layer.settings["out_features"], batch_size * layer.settings["tokens"]
        )
    settings = layer.settings
    size, padding = layer.input_shape[1:], settings["padding"]
    for pad in before:
        if pad.kind == "pad" and pad.settings["mode"] == "constant" and len(pad.settings["pads"]) <= 2 * len(size):
            size = pad.input_shape[1:]
            ahead = pad.settings["pads"][0::2][::-1]
            ahead = (0,) * (len(size) - len(ahead)) + tuple(ahead)
            padding = tuple(p + a for p, a in zip(padding, ahead, strict=True))
    shape = Convolution(
        channels=settings["in_channels"],
        filters=settings["out_channels"],
        size=tuple(size),
        kernel=tuple(settings["kernel"]),
        stride=tuple(settings["stride"]),
        padding=tuple(padding),
        dilation=tuple(settings["dilation"]),
        output=tuple(layer.output_shape[1:]),
        groups=settings["groups"],
        transposed=settings["transposed"],
    )
    return convolution_rank(shape, batch_size)


def solved_by_gradients(block: tuple[Layer, ...], batch_size: int = 1) -> bool:
    """Whether the weight gradients inside a block determine its input one layer after the other.

    Going back from the block's output, whose value and δ are known: a weighted layer with known δ and ρK = |input|
    gives its input; known values give the derivative of the activation before them, hence the next δ. Additions pass
    δ on.
    """
    inside = {layer.index: layer for layer in block}
    last = block[-1].index
    users: dict[int, list[Layer]] = {}
    for layer in block:
        for source in layer.inputs:
            users.setdefault(source, []).append(layer)

    def solves(layer: Layer) -> bool:
        if layer.kind not in WEIGHTED or _untreatable(layer) or not delta_known(layer.index):
            return False
        system = layer_system(layer, (), batch_size)
        return system.gradient_rank == system.unknowns

    def value_known(index: int) -> bool:
        if index == last or any(solves(user) for user in users.get(index, ())):
            return True
        return any(u.kind in ("reshape", "affine") and value_known(u.index) for u in users.get(index, ()))

    def delta_known(index: int) -> bool:
        return index == last or all(_passes(user) for user in users.get(index, ()))

    def _passes(user: Layer) -> bool:
        if user.kind == "activation":
            return value_known(user.index) and delta_known(user.index)
        fixed = user.kind == "batchnorm" and not user.settings["batch_statistics"]
        return (fixed or user.kind in ("add", "concat", "reshape", "affine", *WEIGHTED)) and delta_known(user.index)

    (source,) = {s for layer in block for s in layer.inputs if s not in inside}
    return value_known(source)


def _untreatable(layer: Layer) -> bool:
    return any(layer.settings.get(flag) for flag in ("derived_weight", "shared", "frozen")) or layer.weight is None
