"""One stretch of a model between two articulation tensors, with the linear system that an update gives for its input.

ReLU-like activations hide z where it is negative: the propagated rank of such a layer counts half of the outputs.
GELU-like ones determine z up to one of two branches, so all of their outputs count.
Max-pooling keeps the constraints of the winners only (three quarters of them behind a ReLU). Both are locally linear,
so the counts stay exact generically.

Blocks with several paths and pooling of a linear or smooth layer are bounded by the smallest cut of their equations
(`leakaudit.risk.flow`).

Fails, and says so by ``system=None`` and a note: operators that are not known, weights that are shared or derived.
`leakaudit.risk.jacobian` measures those, and what is bounded, where they are small.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from math import prod

from leakaudit.risk.flow import block_rank, uncovered
from leakaudit.risk.structural import StructuralRank
from leakaudit.risk.systems import WEIGHTED, layer_system, solved_by_gradients
from leakaudit.target.kinds import Layer
from leakaudit.target.pointwise import INVERTIBLE, LOCALLY_INVERTIBLE, PIECEWISE_LINEAR

NORMS = ("batchnorm", "layernorm", "groupnorm")
_POOLS = ("max_pool", "avg_pool", "global_pool")
NEUTRAL = ("reshape", "affine", "activation", "dropout", "add", "multiply")


@dataclass(frozen=True)
class Segment:
    """A stretch of the model between two articulation tensors.

    Args:
        layers: Its layers in order.
        name: Name of the weighted layer, or ``first … last``.
        kind: ``convolution``, ``convolution+max_pool``, ``linear``, ``batchnorm``, ``block``, …
        system: Its linear system as R-GAP sees it, every δ and z known; ``None`` where shapes do not give it.
        local: The system with what the activation and the pooling hide taken out; used for propagation.
        invertible: Whether every activation in it can be inverted.
        locally_invertible: Whether every activation determines its input up to a choice of branch.
        note: Why ``system`` is missing, or what restricts it.
        unknowns: Size of its input, times the batch size.
        gradient: Number of trainable weights, biases of weighted layers left out as in R-GAP.
        weight: Size of its output, times the batch size.
        notes: Restrictions beside ``note``.
        bound: Whether ``system`` is an upper bound only: a deficit is certain, its absence is not.
    """

    layers: tuple[Layer, ...]
    name: str
    kind: str
    system: StructuralRank | None
    local: StructuralRank | None
    invertible: bool
    locally_invertible: bool
    note: str
    unknowns: int
    gradient: int
    weight: int
    notes: tuple[str, ...] = field(default=())
    bound: bool = False

    @property
    def main(self) -> Layer | None:
        """Its only weighted layer, or ``None``."""
        weighted = [layer for layer in self.layers if layer.kind in WEIGHTED]
        return weighted[0] if len(weighted) == 1 else None


@lru_cache(maxsize=1024)  # what-if variants share most of their segments
def described(group: tuple[Layer, ...], batch: int) -> Segment:
    """The segment that layers (in order) are, for so many samples."""
    weighted = [layer for layer in group if layer.kind in WEIGHTED]
    norms = [layer for layer in group if layer.kind in NORMS]
    single_path = all(len(layer.inputs) == 1 for layer in group) and is_chain(group)
    functions = [str(layer.settings["function"]) for layer in group if layer.kind == "activation"]
    base = Segment(
        layers=group,
        name=_name(group),
        kind="block" if not single_path or len(weighted) > 1 else _kind(group),
        system=None,
        local=None,
        invertible=all(name in INVERTIBLE for name in functions),
        locally_invertible=all(name in LOCALLY_INVERTIBLE for name in functions),
        note="",
        unknowns=batch * prod(group[0].input_shape),
        gradient=_weights(group),
        weight=batch * prod(group[-1].output_shape),
    )
    if base.kind == "block":
        return _block(base, batch)
    if weighted:
        return _weighted(base, weighted[0], functions, batch)
    if norms:
        return _norm(base, norms[0], batch)
    return _parameter_free(base)


def is_chain(group: tuple[Layer, ...]) -> bool:
    """Whether each layer takes what the one before it gives, and nothing else."""
    return all(after.inputs == (before.index,) for before, after in pairwise(group))


def _name(group: tuple[Layer, ...]) -> str:
    named = [layer.name for layer in group if layer.kind in (*WEIGHTED, *NORMS)] or [group[0].name]
    return named[0] if len(named) == 1 or not _several(group) else f"{named[0]} … {named[-1]}"


def _several(group: tuple[Layer, ...]) -> bool:
    return sum(layer.kind in WEIGHTED for layer in group) > 1 or not is_chain(group)


def _kind(group: tuple[Layer, ...]) -> str:
    main = next((layer.kind for layer in group if layer.kind in (*WEIGHTED, *NORMS, "embedding")), group[0].kind)
    pools = [layer.kind for layer in group if layer.kind in _POOLS and layer.kind != main]
    return "+".join([main, *dict.fromkeys(pools)])


def _weights(group: tuple[Layer, ...]) -> int:
    total = 0
    for layer in group:
        if layer.settings.get("frozen"):
            continue
        if layer.kind in (*WEIGHTED, *NORMS, "embedding") and layer.weight is not None:
            total += prod(layer.settings.get("weight_shape", ()))
        if layer.kind in NORMS and layer.bias is not None:
            total += prod(layer.settings.get("bias_shape", ()))
    return total


def _block(base: Segment, batch: int) -> Segment:
    if solved_by_gradients(base.layers, batch):
        n = base.unknowns
        system = StructuralRank(n, base.gradient, base.weight, n, 0, 0, n)
        note = "several paths; gradient constraints alone suffice"
        return replace(base, system=system, local=system, note=note, notes=_remarks(base))
    return _bounded(base, batch, "several paths")


def _bounded(base: Segment, batch: int, cause: str) -> Segment:
    """An upper bound where the rank itself cannot be read off shapes."""
    reason = uncovered(base.layers)
    if reason:
        return replace(base, note=f"{cause}: {reason}")

    def counted(everything: bool) -> StructuralRank:
        return block_rank(
            base.layers, lambda layer: layer_system(layer, (), batch), base.gradient, batch, everything=everything
        )

    return replace(
        base,
        system=counted(True),
        local=counted(False),
        bound=True,
        note=f"{cause}: smallest cut of its equations, an upper bound on their rank",
        notes=_remarks(base),
    )


def _weighted(base: Segment, layer: Layer, functions: list[str], batch: int) -> Segment:
    at = base.layers.index(layer)
    before, after = base.layers[:at], base.layers[at + 1 :]
    reason = _outside_formula(before, after, layer)
    if reason:
        return replace(base, note=reason)
    system = layer_system(layer, before, batch)
    if layer.weight is None or layer.settings.get("frozen"):
        system = replace(system, gradient=0, gradient_rank=0, overlap=0)
    pools = [part for part in after if part.kind in _POOLS]
    filters = min(base.layers[at].output_shape[0] if layer.kind == "convolution" else 1, system.overlap)
    local = system
    if not base.locally_invertible:
        local = _only(local, system.weight // 2, filters)  # half of the units are zero and tell only a sign
    if pools:
        smooth = [name for name in functions if name not in PIECEWISE_LINEAR]
        linear_average = any(p.kind != "max_pool" for p in pools) and not functions
        if smooth or linear_average or any(p.settings.get("function", "max") == "sum" for p in pools):
            return _bounded(base, batch, "pooling of a smooth or linear layer")
        whole = _only(system, base.weight, filters)
        winners = base.weight * 3 // 4  # the largest of several is rarely negative
        share = winners if not base.invertible and pools[-1].kind == "max_pool" else base.weight
        return replace(base, system=whole, local=_only(system, share, filters), notes=_remarks(base, system))
    return replace(base, system=system, local=local, notes=_remarks(base, system))


def _only(system: StructuralRank, outputs: int, overlap: int) -> StructuralRank:
    """Keep ``outputs`` of the weight constraints; only the identities of a filter with itself survive."""
    return replace(
        system, weight=outputs, weight_rank=min(system.weight_rank, outputs), overlap=min(overlap, system.overlap)
    )


def _outside_formula(before: tuple[Layer, ...], after: tuple[Layer, ...], layer: Layer) -> str:
    if layer.settings.get("derived_weight"):
        return "its weight is computed from several tensors (weight or spectral normalisation)"
    if layer.settings.get("shared"):
        return "its weight is shared with another layer: the shared gradient is a sum that cannot be separated"
    for part in before:
        if part.kind == "pad" and part.settings["mode"] != "constant":
            return f"padding mode {part.settings['mode']} is not covered by the count"
        if part.kind not in ("reshape", "affine", "pad", "dropout", "add", "multiply"):
            return f"{part.name} ({part.kind}) in front of it is not covered by the count"
    for part in after:
        if part.kind not in (*NEUTRAL, *_POOLS, "batchnorm", "concat"):  # concat: with constants, on one path
            return f"{_operator(part)} behind it is not covered by the count"
    return ""


def _operator(layer: Layer) -> str:
    return f"operator {layer.settings['operator']}" if layer.kind == "other" else layer.kind


def _remarks(base: Segment, system: StructuralRank | None = None) -> tuple[str, ...]:
    remarks = []
    if system is not None and system.reachable < system.unknowns:
        remarks.append(
            f"{system.unknowns - system.reachable} of {system.unknowns} entries of its input are read by no window"
        )
    if any(layer.kind == "dropout" for layer in base.layers):
        remarks.append("dropout is active: counted as if its mask were known, the worst case")
    if any(layer.settings.get("frozen") for layer in base.layers if layer.kind in WEIGHTED):
        remarks.append("not trained: its gradient is not shared, weight constraints only, as if its outputs were known")
    return tuple(remarks)


def _norm(base: Segment, layer: Layer, batch: int) -> Segment:
    """Elementwise affine in eval mode; otherwise blind to the mean of each normalised set."""
    functions = [p for p in base.layers[base.layers.index(layer) + 1 :] if p.kind not in NEUTRAL]
    if functions:
        return _bounded(base, batch, f"{_operator(functions[0])} behind a normalisation")
    n = base.unknowns
    sets, note = 0, ""
    if layer.kind == "batchnorm" and layer.settings["batch_statistics"]:
        sets, note = layer.input_shape[0], "batch statistics: blind to each channel's mean, nearly so to its scale"
    elif layer.kind == "layernorm":
        sets = n // max(1, prod(layer.settings["normalized_shape"]))
        note = "blind to the mean of each normalised vector, nearly so to its scale"
    elif layer.kind == "groupnorm":
        sets, note = batch * int(layer.settings["groups"]), "blind to each group's mean, nearly so to its scale"
    rank = n - sets
    gradient_rank = min(base.gradient // 2, rank)
    system = StructuralRank(n, base.gradient, n, gradient_rank, rank, gradient_rank, rank)
    local = (
        system if base.locally_invertible else replace(system, weight=n // 2, weight_rank=min(rank, n // 2), overlap=0)
    )
    return replace(base, system=system, local=local, note=note)


def _parameter_free(base: Segment) -> Segment:
    if base.layers[0].kind == "embedding":
        return replace(base, note="discrete input: the rows of its gradient that are not zero name the tokens outright")
    kinds = [layer.kind for layer in base.layers]
    if any(kind not in (*NEUTRAL, *_POOLS, "pad") for kind in kinds):
        odd = next(layer for layer in base.layers if layer.kind not in (*NEUTRAL, *_POOLS, "pad"))
        return replace(base, note=f"{_operator(odd)} without weights is not covered by the count")
    rank = min([base.unknowns, *(base.unknowns * prod(p.output_shape) // prod(base.layers[0].input_shape)
                                 for p in base.layers if p.kind in _POOLS)])  # fmt: skip
    system = StructuralRank(base.unknowns, 0, base.weight, 0, rank, 0, base.unknowns)
    return replace(base, system=system, local=system, note="no weights: outputs only")
