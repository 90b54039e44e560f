"""Measured ranks: of one segment (RA_seg) and of the whole map from input to gradient (RA_J).

Claim. For a segment with input x, output f(x; θ) and fixed output gradient δ, the directions of x that its update fixes
locally are the row space of the Jacobian of::

    Φ(x) = [ f(x; θ) ; s · ∂⟨δ, f(x; θ)⟩/∂θ ],    s = 1/‖δ‖,    RA_seg = |x| - rank J_Φ(x)

and for the whole model with G(x) = ∂ℓ/∂θ, RA_J = n - rank ∂vec(G)/∂x. Both are taken in float64 at a random input with
the model's own weights, column by column (forward over reverse), so any differentiable operator is covered.
Above a few thousand unknowns the spectrum of JᵀJ is estimated without a matrix by stochastic Lanczos quadrature.

Fails: a rank at one point is local and generic, not global; smooth but nearly flat directions count as known (see
`Spectrum.condition`); the estimate counts singular values above a thousandth of the largest, and cannot tell a
deficit of a few per cent of n.

References: R-GAP (Zhu & Blaschko, ICLR 2021) for the layer systems; Ubaru, Chen & Saad, SIAM J. Matrix Anal. 2017 for
stochastic Lanczos quadrature. The segment Jacobian is ours.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, fx
from torch.func import grad, jvp, vjp, vmap

from leakaudit.target.pointwise import out_of_place
from leakaudit.target.trace import Trace, op_name

RELATIVE_TOLERANCE = 1e-9
"""Relative singular value in float64 above which a direction counts; chosen: on CNN6-d of arXiv 2010.07733 the last one
that counts has 2e-3, the next 7e-17."""
LARGEST_MATRIX = 60_000_000
"""Entries of the largest Jacobian that is formed; chosen for memory: 480 MB in float64."""
VISIBLE = 1e-3
"""Relative singular value above which an *estimated* direction counts; chosen, as a hundred Lanczos steps resolve no
less."""
UNDECIDED_GAP = 1e3
"""Ratio of the last counted to the first uncounted singular value below which a rank is a matter of the tolerance;
chosen, not measured."""
_BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm")

Vector = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SegmentRank:
    """Measured ranks of a segment.

    Args:
        unknowns: |x|.
        gradient: Rank of the gradient constraints alone.
        output: Rank of the output constraints alone.
        joint: Rank of both.
        condition: Largest over smallest counted singular value of both.
        outputs: |f(x)|.
        weights: |θ|.
        gap: Smallest counted over largest uncounted singular value of both; ``None`` at full rank.
    """

    unknowns: int
    gradient: int
    output: int
    joint: int
    condition: float
    outputs: int
    weights: int
    gap: float | None = None


@dataclass(frozen=True)
class Spectrum:
    """Singular values of ∂vec(G)/∂x.

    Args:
        unknowns: n.
        rank: Measured or estimated number of directions that the update fixes.
        measured: Whether all singular values were computed.
        largest: Largest singular value.
        condition: Largest over smallest counted singular value; ``None`` where estimated.
        gap: Smallest counted over largest uncounted singular value; ``None`` at full rank or where estimated.
        seconds: Time spent.
    """

    unknowns: int
    rank: int
    measured: bool
    largest: float
    condition: float | None
    gap: float | None
    seconds: float

    @property
    def deficit(self) -> int:
        """RA_J."""
        return self.unknowns - self.rank


class Subgraph:
    """The recorded operators between two nodes as a function of the first one's value and the trainable tensors.

    Args:
        trace: Recording.
        start: Node whose value is the argument.
        end: Node whose value is the result.
        trainable: Names of the tensors that are shared.
    """

    def __init__(self, trace: Trace, start: fx.Node, end: fx.Node, trainable: frozenset[str]) -> None:
        self.trace, self.start, self.end = trace, start, end
        self.nodes = self._between()
        self.fixed = {name: _double(value) for name, value in trace.values.items()}
        used = {trace.inputs[n] for n in self.nodes if n in trace.inputs}
        self.trainable = {name: self.fixed[name] for name in trace.values if name in used & trainable}

    def _between(self) -> list[fx.Node]:
        needed, stack = {self.start}, [self.end]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(node.all_input_nodes)
        return [node for node in self.trace.nodes if node in needed]

    def __call__(self, value: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The value at ``end`` for ``value`` at ``start``, with some tensors replaced."""
        values: dict[fx.Node, Any] = {self.start: value}
        for node in self.nodes:
            if node is not self.start:
                values[node] = self._evaluate(node, values, tensors)
        result: Tensor = values[self.end]
        return result

    def _shape_only(self, image: fx.Node) -> Tensor:
        """Zeros in the place of the image, where only operators that ask for its shape read it (``new_ones``)."""
        if any(user in self.nodes and self.trace.is_data(user) for user in image.users):
            raise NotImplementedError("it reads the model input beside its own input")
        return torch.zeros(self.trace.shape(image), dtype=torch.float64)

    def _evaluate(self, node: fx.Node, values: dict[fx.Node, Any], tensors: Mapping[str, Tensor]) -> Any:
        if node in self.trace.inputs:
            name = self.trace.inputs[node]
            return tensors.get(name, self.fixed[name])
        if node.op == "get_attr":
            return _double(self.trace.constants[str(node.target)])
        if node is self.trace.input:
            return self._shape_only(node)
        arguments: Any = fx.node.map_arg(node.args, lambda n: values[n])
        options: Any = fx.node.map_arg(node.kwargs, lambda n: values[n])
        if op_name(node) in ("view", "_unsafe_view"):
            return arguments[0].reshape(arguments[1])
        if op_name(node) == "_to_copy":
            return arguments[0]
        if op_name(node) in _BATCH_NORMS and node.args[5 if len(node.args) > 6 else 3]:
            arguments = (*arguments[:3], None, None, *arguments[5:])  # batch statistics; do not update the running ones
        return out_of_place(node)(*arguments, **options)


def load_forward_mode() -> None:
    """Forward mode compiles its decompositions on first use; PyTorch warns about its own ``torch.jit.script`` there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def segment_rank(function: Subgraph, generator: Generator) -> SegmentRank | None:
    """RA_seg of one segment at a random input; ``None`` where its Jacobian would not fit in memory."""
    load_forward_mode()
    shape = function.trace.shape(function.start)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    output = function(x, {})
    delta = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    weights = sum(value.numel() for value in function.trainable.values())
    if x.numel() * (weights + output.numel()) > LARGEST_MATRIX:
        return None

    def gradient(point: Tensor) -> Tensor:
        if not function.trainable:
            return point.new_zeros(0)
        found = grad(lambda tensors: (function(point, tensors) * delta).sum() / delta.norm())(function.trainable)
        return torch.cat([g.flatten() for g in found.values()])

    by_output = _jacobian(lambda point: function(point, {}).flatten(), x)
    by_gradient = _jacobian(gradient, x) if function.trainable else by_output[:, :0]
    alone = _singular_values(by_gradient)
    complete = _count(alone) == x.numel()  # then outputs add nothing, and one decomposition is enough
    both = alone if complete else _singular_values(torch.cat([_scaled(by_output), _scaled(by_gradient)], dim=1))
    joint = _count(both)
    return SegmentRank(
        unknowns=x.numel(),
        gradient=_count(alone),
        output=_count(_singular_values(by_output)),
        joint=joint,
        condition=float(both[0] / both[joint - 1]) if joint else float("inf"),
        outputs=output.numel(),
        weights=weights,
        gap=_gap(both, joint),
    )


def gradient_spectrum(
    function: Subgraph,
    loss: Callable[[Tensor], Tensor],
    generator: Generator,
    *,
    seconds: float = 20.0,
    largest: int = 4000,
) -> Spectrum:
    """RA_J: singular values of the derivative of the shared gradient by the input.

    Args:
        function: From the image batch to the logits.
        loss: Of the logits, to a scalar.
        generator: Of the random input.
        seconds: Time that may be spent; beyond it, the estimate.
        largest: Most unknowns for which all singular values are computed.
    """
    load_forward_mode()
    started = time.perf_counter()
    x = torch.randn(function.trace.shape(function.start), generator=generator, dtype=torch.float64)

    def gradient(point: Tensor) -> Tensor:
        found = grad(lambda tensors: loss(function(point, tensors)))(function.trainable)
        return torch.cat([g.flatten() for g in found.values()])

    if x.numel() <= largest and _seconds_for_all_columns(gradient, x) <= seconds:
        gram = _gram(gradient, x)
        if gram is not None:
            values = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0.0).sqrt()
            return _spectrum(values, x.numel(), started)
    return _estimate(gradient, x, generator, started, seconds)


def _spectrum(values: Tensor, unknowns: int, started: float) -> Spectrum:
    rank = _count(values, 1e-7)  # the Gram matrix squares the condition: floor 1e-8
    gap = _gap(values, rank)
    condition = float(values[0] / values[rank - 1]) if rank else None
    return Spectrum(unknowns, rank, True, float(values[0]), condition, gap, time.perf_counter() - started)


def _estimate(gradient: Vector, x: Tensor, generator: Generator, started: float, seconds: float) -> Spectrum:
    """Stochastic Lanczos quadrature of JᵀJ: the share of singular values above `VISIBLE` times the largest."""
    shares: list[float] = []
    top = 0.0
    deadline = started + seconds
    for _ in range(8):
        start = torch.randn(x.numel(), generator=generator, dtype=torch.float64)
        nodes, weights = lanczos_quadrature(_normal_operator(gradient, x), start, steps=120, deadline=deadline)
        top = max(top, float(nodes.max()))
        shares.append(float(weights[nodes > top * VISIBLE**2].sum()))
        if time.perf_counter() > deadline:
            break
    rank = round(x.numel() * min(1.0, sum(shares) / len(shares)))
    return Spectrum(x.numel(), rank, False, top**0.5, None, None, time.perf_counter() - started)


def lanczos_quadrature(
    operator: Vector, start: Tensor, *, steps: int, deadline: float = float("inf")
) -> tuple[Tensor, Tensor]:
    """Gauss quadrature of the spectral measure of a symmetric operator seen from one vector.

    Args:
        operator: v ↦ A v.
        start: Starting vector (n,).
        steps: Most Lanczos steps.
        deadline: `time.perf_counter` after which no further step is begun; two are always made.

    Returns:
        Nodes (Ritz values) and their weights, which sum to one.
    """
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(min(steps, start.numel())):
        image = operator(basis[-1])
        diagonal.append(basis[-1] @ image)
        block = torch.stack(basis)
        for _ in range(2):  # full reorthogonalisation, twice
            image = image - block.T @ (block @ image)
        length = image.norm()
        if length <= 1e-12 * diagonal[0].abs() or (step > 1 and time.perf_counter() > deadline):
            break
        beside.append(length)
        basis.append(image / length)
    size = len(diagonal)
    matrix = torch.diag(torch.stack(diagonal))
    if size > 1:
        off = torch.stack(beside[: size - 1])
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    nodes, vectors = torch.linalg.eigh(matrix)
    return nodes, vectors[0].square()


def _normal_operator(gradient: Vector, x: Tensor) -> Vector:
    def apply(vector: Tensor) -> Tensor:
        forward = jvp(gradient, (x,), (vector.view_as(x),))[1]
        pull = vjp(gradient, x)[1]
        image: Tensor = pull(forward)[0]
        return image.flatten()

    return apply


def _jacobian(function: Vector, x: Tensor, chunk: int = 64) -> Tensor:
    """Transposed Jacobian (n, m), a chunk of columns at a time by forward mode."""
    basis = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    columns = vmap(lambda tangent: jvp(function, (x,), (tangent,))[1], chunk_size=chunk)
    result: Tensor = columns(basis)
    return result


def _gram(gradient: Vector, x: Tensor) -> Tensor | None:
    rows = gradient(x).numel()
    if rows * x.numel() > LARGEST_MATRIX:
        return None
    matrix = _jacobian(gradient, x)
    return matrix @ matrix.T


def _seconds_for_all_columns(gradient: Vector, x: Tensor, probe: int = 4) -> float:
    started = time.perf_counter()
    tangents = torch.zeros((probe, *x.shape), dtype=x.dtype)
    vmap(lambda tangent: jvp(gradient, (x,), (tangent,))[1])(tangents)
    return (time.perf_counter() - started) / probe * x.numel()


def _scaled(matrix: Tensor) -> Tensor:
    """Equilibrated: largest singular value roughly one, so that neither block hides the other."""
    if matrix.numel() == 0:
        return matrix
    norm = matrix.norm() / max(1, min(matrix.shape)) ** 0.5
    return matrix / norm if norm > 0 else matrix


def _singular_values(matrix: Tensor) -> Tensor:
    """Largest first. The Gram matrix, ten times faster, decides where it leaves no doubt: condition below 1e6."""
    if matrix.numel() == 0:
        return matrix.new_zeros(0)
    if matrix.shape[0] <= matrix.shape[1]:
        values: Tensor = torch.linalg.eigvalsh(matrix @ matrix.T).flip(0).clamp_min(0.0).sqrt()
        if values[-1] > 1e-6 * values[0]:
            return values
    result: Tensor = torch.linalg.svdvals(matrix)
    return result


def rank_above(matrix: Tensor, tolerances: Sequence[float]) -> list[int]:
    """Singular values above each tolerance, relative to the largest."""
    values = _singular_values(matrix)
    return [_count(values, tolerance) for tolerance in tolerances]


def _gap(values: Tensor, rank: int) -> float | None:
    return float(values[rank - 1] / values[rank].clamp_min(1e-300)) if 0 < rank < len(values) else None


def _count(values: Tensor, tolerance: float = RELATIVE_TOLERANCE) -> int:
    if values.numel() == 0 or values[0] <= 0:
        return 0
    return int((values > tolerance * values[0]).sum())


def _double(value: Tensor) -> Tensor:
    return value.detach().cpu().double() if value.is_floating_point() else value.detach().cpu()
