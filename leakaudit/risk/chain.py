"""A model as a chain of segments, each with the linear system that an update gives for its input.

Claim. Where a tensor separates input from loss (an articulation tensor of the layer graph) the analysis can be cut:
given the gradient δ at a segment's output, the segment's input obeys Φ(x) = [ f(x; θ) ; ∂⟨δ, f(x; θ)⟩/∂θ ]. A segment
is one weighted layer with the activation, normalisation and pooling behind it, or a block with several paths.
Deficits propagate from the loss to the input; redundant outputs (virtual constraints) absorb them::

    d_i = |x_i| - r_i(d_{i+1}),    RA_prop = d_1

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
from leakaudit.risk.structural import Convolution, StructuralRank, convolution_rank, linear_rank
from leakaudit.target.kinds import Layer
from leakaudit.target.pointwise import INVERTIBLE, LOCALLY_INVERTIBLE, PIECEWISE_LINEAR

_WEIGHTED = ("convolution", "linear")
_NORMS = ("batchnorm", "layernorm", "groupnorm")
_POOLS = ("max_pool", "avg_pool", "global_pool")
_NEUTRAL = ("reshape", "affine", "activation", "dropout", "add", "multiply")


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
        weighted = [layer for layer in self.layers if layer.kind in _WEIGHTED]
        return weighted[0] if len(weighted) == 1 else None


def segments(layers: tuple[Layer, ...], batch_size: int = 1) -> tuple[Segment, ...]:
    """Cut the inventory at articulation tensors and describe each piece; softmax behind the last layer is loss."""
    return tuple(_describe(group, batch_size) for group in _groups(_atoms(layers)))


def propagate(parts: tuple[Segment, ...]) -> tuple[int | None, ...]:
    """Deficit d_i of every segment's input, loss first; ``None`` in front of a segment without a system."""
    deficits: list[int | None] = []
    missing: int | None = 0
    for part in reversed(parts):
        missing = part.local.propagated(missing) if part.local is not None and missing is not None else None
        deficits.append(missing)
    return tuple(reversed(deficits))


def _atoms(layers: tuple[Layer, ...]) -> list[tuple[Layer, ...]]:
    """Split at every tensor that all paths from input to loss go through."""
    last_use = {index: index for index in range(-1, len(layers))}
    for layer in layers:
        for source in layer.inputs:
            last_use[source] = max(last_use[source], layer.index)
    atoms: list[tuple[Layer, ...]] = []
    current: list[Layer] = []
    open_until = -1  # furthest consumer of any tensor but the newest
    reach = last_use[-1]
    for layer in layers:
        open_until = max(open_until, reach)
        reach = last_use[layer.index]
        current.append(layer)
        if open_until <= layer.index:
            atoms.append(tuple(current))
            current = []
    return [*atoms, tuple(current)] if current else atoms


def _groups(atoms: list[tuple[Layer, ...]]) -> list[tuple[Layer, ...]]:
    """Attach activations, pools and reshapes to the weighted atom before them; drop what follows the last one."""
    groups: list[list[Layer]] = []
    for atom in atoms:
        starts = len(atom) > 1 or atom[0].kind in (*_WEIGHTED, *_NORMS, "embedding")
        if groups and len(atom) == 1 and _folds(atom[0], groups[-1]):
            starts = False
        if starts and groups and all(layer.kind in (*_NEUTRAL, "pad") for layer in groups[-1]):
            groups[-1].extend(atom)
        elif starts or not groups or atom[0].kind == "pad":
            groups.append(list(atom))
        else:
            groups[-1].extend(atom)
    if groups:
        ends = [i for i, layer in enumerate(groups[-1]) if layer.kind == "softmax" and _is_chain(tuple(groups[-1]))]
        groups[-1] = groups[-1][: ends[0]] if ends and ends[0] > 0 else groups[-1]
    return [tuple(group) for group in groups]


def _folds(layer: Layer, group: list[Layer]) -> bool:
    """Whether it is a BatchNorm with fixed statistics right behind a weighted layer: a known affine map of z."""
    fixed = layer.kind == "batchnorm" and not layer.settings["batch_statistics"]
    return fixed and group[-1].kind in _WEIGHTED and layer.inputs == (group[-1].index,)


@lru_cache(maxsize=1024)  # what-if variants share most of their segments
def _describe(group: tuple[Layer, ...], batch: int) -> Segment:
    weighted = [layer for layer in group if layer.kind in _WEIGHTED]
    norms = [layer for layer in group if layer.kind in _NORMS]
    single_path = all(len(layer.inputs) == 1 for layer in group) and _is_chain(group)
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


def _is_chain(group: tuple[Layer, ...]) -> bool:
    return all(after.inputs == (before.index,) for before, after in pairwise(group))


def _name(group: tuple[Layer, ...]) -> str:
    named = [layer.name for layer in group if layer.kind in (*_WEIGHTED, *_NORMS)] or [group[0].name]
    return named[0] if len(named) == 1 or not _several(group) else f"{named[0]} … {named[-1]}"


def _several(group: tuple[Layer, ...]) -> bool:
    return sum(layer.kind in _WEIGHTED for layer in group) > 1 or not _is_chain(group)


def _kind(group: tuple[Layer, ...]) -> str:
    main = next((layer.kind for layer in group if layer.kind in (*_WEIGHTED, *_NORMS, "embedding")), group[0].kind)
    pools = [layer.kind for layer in group if layer.kind in _POOLS and layer.kind != main]
    return "+".join([main, *dict.fromkeys(pools)])


def _weights(group: tuple[Layer, ...]) -> int:
    total = 0
    for layer in group:
        if layer.settings.get("frozen"):
            continue
        if layer.kind in (*_WEIGHTED, *_NORMS, "embedding") and layer.weight is not None:
            total += prod(layer.settings.get("weight_shape", ()))
        if layer.kind in _NORMS and layer.bias is not None:
            total += prod(layer.settings.get("bias_shape", ()))
    return total


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
        if layer.kind not in _WEIGHTED or _untreatable(layer) or not delta_known(layer.index):
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
        return (fixed or user.kind in ("add", "concat", "reshape", "affine", *_WEIGHTED)) and delta_known(user.index)

    (source,) = {s for layer in block for s in layer.inputs if s not in inside}
    return value_known(source)


def _untreatable(layer: Layer) -> bool:
    return any(layer.settings.get(flag) for flag in ("derived_weight", "shared", "frozen")) or layer.weight is None


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
        if part.kind not in (*_NEUTRAL, *_POOLS, "batchnorm", "concat"):  # concat: with constants, on one path
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
    if any(layer.settings.get("frozen") for layer in base.layers if layer.kind in _WEIGHTED):
        remarks.append("not trained: its gradient is not shared, weight constraints only, as if its outputs were known")
    return tuple(remarks)


def _norm(base: Segment, layer: Layer, batch: int) -> Segment:
    """Elementwise affine in eval mode; otherwise blind to the mean of each normalised set."""
    functions = [p for p in base.layers[base.layers.index(layer) + 1 :] if p.kind not in _NEUTRAL]
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
    if any(kind not in (*_NEUTRAL, *_POOLS, "pad") for kind in kinds):
        odd = next(layer for layer in base.layers if layer.kind not in (*_NEUTRAL, *_POOLS, "pad"))
        return replace(base, note=f"{_operator(odd)} without weights is not covered by the count")
    rank = min([base.unknowns, *(base.unknowns * prod(p.output_shape) // prod(base.layers[0].input_shape)
                                 for p in base.layers if p.kind in _POOLS)])  # fmt: skip
    system = StructuralRank(base.unknowns, 0, base.weight, 0, rank, 0, base.unknowns)
    return replace(base, system=system, local=system, note="no weights: outputs only")
