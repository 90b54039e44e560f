"""A model as a chain of segments, each with its linear system, and the deficits that go from the loss to the input.

Claim. Where a tensor separates input from loss (an articulation tensor of the layer graph) the analysis can be cut:
given the gradient δ at a segment's output, the segment's input obeys Φ(x) = [ f(x; θ) ; ∂⟨δ, f(x; θ)⟩/∂θ ]. A segment
is one weighted layer with the activation, normalisation and pooling behind it, or a block with several paths.
Deficits propagate from the loss to the input; redundant outputs (virtual constraints) absorb them::

    d_i = |x_i| - r_i(d_{i+1}),    RA_prop = d_1

What a segment's system is, and where it has none, says `leakaudit.risk.segment`.
"""

from __future__ import annotations

from leakaudit.risk.segment import NEUTRAL, NORMS, Segment, described, is_chain
from leakaudit.risk.systems import WEIGHTED
from leakaudit.target.kinds import Layer


def segments(layers: tuple[Layer, ...], batch_size: int = 1) -> tuple[Segment, ...]:
    """Cut the inventory at articulation tensors and describe each piece; softmax behind the last layer is loss."""
    return tuple(described(group, batch_size) for group in _groups(_atoms(layers)))


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
        starts = len(atom) > 1 or atom[0].kind in (*WEIGHTED, *NORMS, "embedding")
        if groups and len(atom) == 1 and _folds(atom[0], groups[-1]):
            starts = False
        if starts and groups and all(layer.kind in (*NEUTRAL, "pad") for layer in groups[-1]):
            groups[-1].extend(atom)
        elif starts or not groups or atom[0].kind == "pad":
            groups.append(list(atom))
        else:
            groups[-1].extend(atom)
    if groups:
        ends = [i for i, layer in enumerate(groups[-1]) if layer.kind == "softmax" and is_chain(tuple(groups[-1]))]
        groups[-1] = groups[-1][: ends[0]] if ends and ends[0] > 0 else groups[-1]
    return [tuple(group) for group in groups]


def _folds(layer: Layer, group: list[Layer]) -> bool:
    """Whether it is a BatchNorm with fixed statistics right behind a weighted layer: a known affine map of z."""
    fixed = layer.kind == "batchnorm" and not layer.settings["batch_statistics"]
    return fixed and group[-1].kind in WEIGHTED and layer.inputs == (group[-1].index,)
