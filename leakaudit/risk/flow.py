"""Structural rank of a block, several paths included: the smallest cut of the network that its equations flow through.

Claim. Inside a block (residual, branched, concatenated) the update knows the block's output and every weight gradient;
each is a set of linear equations for dx, passed back to the block's input through matrices of known rank. The rank of
such a product-and-sum network is at most the maximum flow from the equations to the input, where

* a tensor carries at most its size,
* a weighted layer passes ρW of its outputs' equations to its input, adds ρK of its own, and no more than r̂ together,
* an addition or a gate passes the equations of its result to one branch or the other, not to both,
* a ReLU passes half, pooling and normalisation what they keep, and smooth activations, gates, attention and
  normalisations by the sample's own statistics let a gradient speak of the values behind its layer too (δ depends on
  them);
* a product of two tensors (scores and values of attention) passes its equations to one factor or the other, and a
  softmax all but one of each row.

By max-flow-min-cut this is an upper bound on the rank, so a deficit found here is one; for generic weights it is nearly
always the rank itself (random residual and branched blocks in the tests, against their measured Jacobians). Identities
between a layer's gradient and its outputs are not subtracted.

Fails, with the reason as text, at operators whose rank is not known (unknown operators, shared or derived weights).
Reference for rank as flow: `leakaudit.risk.cut`; this use is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from leakaudit.risk.cut import EVERYTHING, Cut
from leakaudit.risk.structural import StructuralRank
from leakaudit.target.kinds import Layer
from leakaudit.target.pointwise import LOCALLY_INVERTIBLE, PIECEWISE_LINEAR

_PASSING = (
    *("reshape", "affine", "dropout", "pad", "add", "multiply", "matmul", "softmax", "concat", "slice"),
    *("max_pool", "avg_pool", "global_pool"),
)
_NORMS = ("batchnorm", "layernorm", "groupnorm")

System = Callable[[Layer], StructuralRank]


def uncovered(block: tuple[Layer, ...]) -> str:
    """The first layer whose rank is not known here, with the cause; "" where every one is."""
    for layer in block:
        if layer.kind in ("convolution", "linear"):
            if layer.settings.get("derived_weight"):
                return f"the weight of {layer.name} is computed from several tensors"
            if layer.settings.get("shared"):
                return f"{layer.name} shares its weight with another layer"
        elif layer.kind not in (*_PASSING, *_NORMS, "activation"):
            operator = layer.settings.get("operator", layer.kind)
            return f"{layer.name} ({operator}) is not covered by the count"
    return ""


class Network:
    """A block as a flow network; equations are its sources, the block's input is its sink.

    Args:
        block: Layers of the block, in order; exactly one tensor enters it.
        system: The linear system of a weighted layer.
        batch: Samples behind the update.
        everything: Whether activations count as if their inputs were known, as in R-GAP's layer systems.
    """

    def __init__(self, block: tuple[Layer, ...], system: System, batch: int, *, everything: bool) -> None:
        self.block, self.batch, self.everything = block, batch, everything
        self.system = system
        self.cut = Cut()
        self.gradients: list[tuple[str, int]] = []
        inside = {layer.index for layer in block}
        (self.entry,) = {source for layer in block for source in layer.inputs if source not in inside}
        self._tensor(self.entry, block[0].input_shape)
        for layer in block:
            self._tensor(layer.index, layer.output_shape)
        for layer in block:
            self._layer(layer)

    def rank(self, *, outputs: bool, gradients: bool) -> int:
        """Maximum flow into the block's input from its outputs, its weight gradients, or both."""
        extra = [("source", f"out {self.block[-1].index}", EVERYTHING)] if outputs else []
        extra += [("source", node, size) for node, size in self.gradients] if gradients else []
        return self.cut.flow("source", f"in {self.entry}", extra)

    def _tensor(self, index: int, shape: tuple[int, ...]) -> None:
        """Equations arrive at "out" and leave, at most as many as entries, from "in"."""
        self.cut.edge(f"out {index}", f"in {index}", self.batch * prod(shape))

    def _passes(self, layer: Layer, most: int) -> None:
        for source in layer.inputs:
            self.cut.widen(f"in {layer.index}", f"out {source}", most)

    def _layer(self, layer: Layer) -> None:
        size = self.batch * prod(layer.output_shape)
        if layer.kind in ("convolution", "linear"):
            self._weighted(layer, self.system(layer))
        elif layer.kind == "activation" and layer.settings["function"] not in LOCALLY_INVERTIBLE:
            self._passes(layer, size if self.everything else size // 2)
        elif layer.kind == "softmax":
            axis = layer.settings["axis"]
            self._passes(layer, size - size // layer.output_shape[axis if axis < 0 else axis - 1])
        elif layer.kind in _NORMS:
            self._passes(layer, size - hidden_sets(layer, self.batch))
            if layer.weight is not None and not layer.settings.get("frozen"):
                scales = prod(layer.settings.get("weight_shape", (0,)))
                self._gradient(layer, scales, scales, f"out {layer.inputs[0]}")
        else:
            self._passes(layer, size)

    def _weighted(self, layer: Layer, system: StructuralRank) -> None:
        """Outputs and gradient together fix at most r̂ directions of the layer's input."""
        both = f"both {layer.index}"
        self.cut.edge(f"in {layer.index}", both, system.weight_rank)
        self.cut.edge(both, f"out {layer.inputs[0]}", system.rank)
        if layer.weight is not None and not layer.settings.get("frozen"):
            self._gradient(layer, system.gradient_rank, system.gradient, both)
        elif layer.settings.get("biased"):
            self._gradient(layer, 0, 0, both)

    def _gradient(self, layer: Layer, about_input: int, size: int, where: str) -> None:
        """A weight's gradient speaks of the layer's input and, through δ, of smooth activations behind the layer."""
        node = f"gradient {layer.index}"
        self.gradients.append((node, size + (layer.output_shape[0] if layer.bias else 0)))
        self.cut.edge(node, where, about_input)
        behind = {layer.index}
        for later in self.block:
            if behind.intersection(later.inputs):
                behind.add(later.index)
                if _bends(later):
                    for source in later.inputs:
                        self.cut.edge(node, f"out {source}", self.batch * prod(later.input_shape))


def hidden_sets(layer: Layer, batch: int) -> int:
    """Means that a normalisation with statistics of the sample or the batch hides."""
    if layer.kind == "batchnorm":
        return layer.input_shape[0] if layer.settings["batch_statistics"] else 0
    if layer.kind == "groupnorm":
        return batch * int(layer.settings["groups"])
    rows: int = prod(layer.input_shape) // max(1, prod(layer.settings["normalized_shape"]))
    return batch * rows


def _bends(layer: Layer) -> bool:
    """Whether the gradient that passes it depends on its operands."""
    if layer.kind in ("multiply", "matmul"):
        return len(layer.inputs) > 1
    if layer.kind in _NORMS:
        return hidden_sets(layer, 1) > 0
    if layer.kind == "softmax":
        return True
    return layer.kind == "activation" and layer.settings["function"] not in PIECEWISE_LINEAR


def block_rank(
    block: tuple[Layer, ...], system: System, gradient: int, batch: int, *, everything: bool
) -> StructuralRank:
    """The system of a block for its input, from shapes; ask `uncovered` first.

    Args:
        block: Layers of the block.
        system: The linear system of a weighted layer.
        gradient: Number of trainable weights in it.
        batch: Samples behind the update.
        everything: As for `Network`.
    """
    network = Network(block, system, batch, everything=everything)
    unknowns = batch * prod(block[0].input_shape)
    by_gradient = network.rank(outputs=False, gradients=True)
    by_output = network.rank(outputs=True, gradients=False)
    joint = network.rank(outputs=True, gradients=True)
    return StructuralRank(
        unknowns=unknowns,
        gradient=gradient,
        weight=batch * prod(block[-1].output_shape),
        gradient_rank=by_gradient,
        weight_rank=by_output,
        overlap=by_gradient + by_output - joint,
        reachable=unknowns,
    )
