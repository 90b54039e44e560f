"""How much an update determines where some layers are not trained: the smallest cut of the forward and backward pass.

Claim. With ``g = ∂ℓ/∂θ`` over the trained tensors only, every path from the input x to an entry of g leads forward
through activations ``dx_i``, and perhaps through the loss back through errors ``dδ_i``::

    dG_i = K(δ_i) dx_i + K'(x_i) dδ_i,    dδ_L = ∂²ℓ/∂z² dz_L,    dδ_{i-1} = W_iᵀ dδ_i (+ curvature · dx_{i-1})

Each arrow is a matrix of known rank, so rank ∂g/∂x is at most the maximum flow from x to the trained tensors, where

* a tensor of the forward and of the backward pass carries at most its size,
* a weighted layer passes ρW forward and back, and its gradient at most ρK about its input,
* the loss passes one direction less than there are logits of a sample,
* smooth activations, gates and normalisation with statistics of the data let the error depend on their operands,
* a trained tensor takes at most its number of entries, a linear layer's of few rows those of its rank's manifold.

The outputs of an untrained layer are thus known only as far as what follows determines them, and nothing is known of
them where nothing trained follows. Any operator is covered, at worst by an arrow that passes everything.

Fails by being above the rank: identities between gradients, and units that an activation switches off, are not
subtracted. It is never below, whatever the input. References as in `leakaudit.risk.flow`; this use is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from leakaudit.risk.cut import EVERYTHING, Cut
from leakaudit.risk.flow import hidden_sets
from leakaudit.risk.systems import layer_system
from leakaudit.target.kinds import Layer
from leakaudit.target.pointwise import PIECEWISE_LINEAR

_WEIGHTED = ("convolution", "linear")
_NORMS = ("batchnorm", "layernorm", "groupnorm")
_LINEAR = (
    *("reshape", "affine", "dropout", "pad", "add", "concat", "slice", "max_pool", "avg_pool", "global_pool"),
    *("embedding", *_WEIGHTED),
)


class UpdateFlow:
    """A whole model as a flow network, from its input to the tensors that are trained.

    Args:
        layers: All layers, in order, each annotated with its trained tensors.
        batch: Samples behind the update.
    """

    def __init__(self, layers: Sequence[Layer], batch: int) -> None:
        self.layers, self.batch = layers, batch
        self.cut = Cut()
        self.sizes: dict[str, int] = {}
        for layer in layers:
            for source in layer.inputs:
                if source < 0:
                    self._tensor(source, layer.input_shape)
            self._tensor(layer.index, layer.output_shape)
            self._forward(layer)
            self._backward(layer)
            self._gradients(layer)
        self._loss(layers[-1])
        for name, size in self.sizes.items():
            self.cut.edge(f"g {name}", "sink", size)

    def rank(self, source: int) -> int:
        """Directions of the tensor that layer `source` puts out (-1 is the input) which the update determines at most.

        Those before it are taken as known.
        """
        return self.cut.flow(f"x {source} in", "sink")

    def _tensor(self, index: int, shape: tuple[int, ...]) -> None:
        for what in ("x", "d"):
            self.cut.edge(f"{what} {index} in", f"{what} {index} out", self.batch * prod(shape))

    def _forward(self, layer: Layer) -> None:
        for source in layer.inputs:
            self.cut.edge(f"x {source} out", f"x {layer.index} in", self._passed(layer))

    def _backward(self, layer: Layer) -> None:
        for source in layer.inputs:
            self.cut.edge(f"d {layer.index} out", f"d {source} in", self._passed(layer))
            if _bends(layer):
                for operand in layer.inputs:
                    self.cut.edge(f"x {operand} out", f"d {source} in", EVERYTHING)

    def _passed(self, layer: Layer) -> int:
        if layer.kind in _WEIGHTED:
            return layer_system(layer, (), self.batch).weight_rank
        if layer.kind in _NORMS:
            return self.batch * prod(layer.output_shape) - hidden_sets(layer, self.batch)
        return EVERYTHING

    def _gradients(self, layer: Layer) -> None:
        """The trained tensors of a layer; one computed from several tensors counts as trained."""
        trained = set(layer.settings.get("trained", ()))
        if layer.weight in trained or layer.settings.get("derived_weight"):
            name = layer.weight or f"weight of layer {layer.index}"
            if layer.kind in _WEIGHTED:
                self._weight(layer, name)
            else:
                self._takes(layer, name, prod(layer.settings.get("weight_shape", (EVERYTHING,))))
        if layer.bias in trained or layer.settings.get("derived_bias"):
            size = prod(layer.settings.get("bias_shape", layer.output_shape))
            self._takes(layer, layer.bias or f"bias of layer {layer.index}", size, by_input=0)
        for name in sorted(trained - {layer.weight, layer.bias}):
            self._takes(layer, name, EVERYTHING)

    def _weight(self, layer: Layer, name: str) -> None:
        """The gradient ``Σ_p δ_p u_pᵀ`` of a convolution or linear layer."""
        system, settings = layer_system(layer, (), self.batch), layer.settings
        if layer.kind == "convolution":
            columns = settings["in_channels"] // settings["groups"] * prod(settings["kernel"])
            terms = self.batch * prod(layer.output_shape[1:])
            by_error = EVERYTHING if settings["transposed"] else settings["out_channels"] * min(columns, terms)
            return self._takes(layer, name, system.gradient, by_input=system.gradient_rank, by_error=by_error)
        rows, columns, terms = settings["out_features"], settings["in_features"], self.batch * settings["tokens"]
        rank = min(rows, columns, terms)  # matrices of this rank are a manifold of dimension r (F + n - r)
        size = rows * columns if settings.get("shared") else rank * (rows + columns - rank)
        by_error = rows * min(columns, terms)
        return self._takes(layer, name, size, by_input=system.gradient_rank, by_error=by_error)

    def _takes(
        self, layer: Layer, name: str, size: int, *, by_input: int = EVERYTHING, by_error: int = EVERYTHING
    ) -> None:
        """A trained tensor takes equations about a layer's inputs and about the error at its output."""
        before, settings = self.sizes.get(name, 0), layer.settings
        parts = settings.get("weight_part") or settings.get("bias_part")
        self.sizes[name] = min(EVERYTHING, before + size if parts else max(before, size))
        for source in layer.inputs:
            self.cut.widen(f"x {source} out", f"g {name}", by_input)
        self.cut.widen(f"d {layer.index} out", f"g {name}", by_error)

    def _loss(self, last: Layer) -> None:
        logits = max(1, prod(last.output_shape) - 1)
        self.cut.edge(f"x {last.index} out", f"d {last.index} in", self.batch * logits)


def _bends(layer: Layer) -> bool:
    """Whether the error that passes it backwards depends on its operands."""
    if layer.kind == "activation":
        return layer.settings["function"] not in PIECEWISE_LINEAR
    if layer.kind == "multiply":
        return len(layer.inputs) > 1 or "operation" in layer.settings
    if layer.kind == "batchnorm":
        return bool(layer.settings["batch_statistics"])
    return layer.kind not in _LINEAR
