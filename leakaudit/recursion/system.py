"""The linear equations that one layer's update gives for its input.

A fully connected layer and a convolution are bilinear: z = f(x, w). With δ = ∂ℓ/∂z and the trilinear ⟨δ, f(x, w)⟩::

    K(δ) x = ∂⟨δ, f(x, w)⟩/∂w = G          gradient constraints, known: G, δ
    W x    = f(x, w)          = z - b      weight constraints, known: z, b

Both matrices are applied without being formed: a bilinear map needs `forward` and its two gradients, which are
framework operators. K is block diagonal: one small matrix K0, repeated for every input channel of a group, so where
K0 has full column rank the gradient constraints alone give x from one small least-squares problem.

Unknowns are the entries of the input without padding. Fails for what is not bilinear; see `leakaudit.recursion.plan`.
Reference: Zhu & Blaschko, "R-GAP", ICLR 2021 (dense K and W with padding as extra rows); the products and K0 are ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_POWER_ITERATIONS = 12
"""For the norms by which the blocks are balanced; chosen: balanced so, layer 2 of the authors' CNN6 (arXiv 2010.07733)
takes LSMR 304 iterations, and unbalanced more than 4,000."""


class BilinearMap(ABC):
    """z = f(x, w), linear in both, for one sample; every tensor in float64 without a batch axis.

    Args:
        input_shape: Shape of x.
        output_shape: Shape of z.
        weight_shape: Shape of w.
    """

    def __init__(self, input_shape: Sequence[int], output_shape: Sequence[int], weight_shape: Sequence[int]) -> None:
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        self.weight_shape = tuple(weight_shape)

    @abstractmethod
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """f(x, w)."""

    @abstractmethod
    def input_gradient(self, q: Tensor, w: Tensor) -> Tensor:
        """∂⟨q, f(x, w)⟩/∂x."""

    @abstractmethod
    def weight_gradient(self, x: Tensor, q: Tensor) -> Tensor:
        """∂⟨q, f(x, w)⟩/∂w."""

    def reach(self) -> Tensor:
        """Entries of x that some output depends on; a stride may skip the others."""
        return self.input_gradient(torch.ones(self.output_shape).double(), torch.ones(self.weight_shape).double()) != 0

    @abstractmethod
    def block(self, delta: Tensor) -> Tensor | None:
        """K0 per group (groups, rows, S), or ``None`` where it is not available."""

    @abstractmethod
    def block_size(self) -> tuple[int, int]:
        """Rows and columns of one K0."""

    @abstractmethod
    def split(self, gradient: Tensor) -> Tensor:
        """G as right-hand sides of K0, (groups, rows, channels of a group)."""

    @abstractmethod
    def join(self, solution: Tensor) -> Tensor:
        """(groups, S, channels of a group) to the shape of x."""


class FullyConnected(BilinearMap):
    """z = x wᵀ with x (n,) or (T, n) for T tokens, and w (F, n)."""

    def __init__(self, input_shape: Sequence[int], output_shape: Sequence[int], weight_shape: Sequence[int]) -> None:
        super().__init__(input_shape, output_shape, weight_shape)
        self.filters, self.features = self.weight_shape
        self.tokens = prod(self.input_shape) // self.features

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """X wᵀ."""
        return (x.reshape(self.tokens, self.features) @ w.T).reshape(self.output_shape)

    def input_gradient(self, q: Tensor, w: Tensor) -> Tensor:
        """Q w."""
        return (q.reshape(self.tokens, self.filters) @ w).reshape(self.input_shape)

    def weight_gradient(self, x: Tensor, q: Tensor) -> Tensor:
        """Qᵀ X."""
        return q.reshape(self.tokens, self.filters).T @ x.reshape(self.tokens, self.features)

    def block(self, delta: Tensor) -> Tensor:
        """K0 = δᵀ (1, F, T)."""
        return delta.reshape(1, self.tokens, self.filters).mT

    def block_size(self) -> tuple[int, int]:
        """(F, T)."""
        return self.filters, self.tokens

    def split(self, gradient: Tensor) -> Tensor:
        """(1, F, n)."""
        return gradient[None]

    def join(self, solution: Tensor) -> Tensor:
        """Shape of x."""
        return solution.reshape(self.input_shape)


@dataclass(frozen=True)
class Pad:
    """A padding layer in front of a convolution: torch's ``pads`` (last axis first), mode and value."""

    pads: tuple[int, ...]
    mode: str
    value: float

    def __call__(self, x: Tensor, value: float | None = None) -> Tensor:
        """Pad (1, C, *S)."""
        if self.mode == "constant":
            return F.pad(x, self.pads, value=self.value if value is None else value)
        return F.pad(x, self.pads, mode={"reflection": "reflect", "replication": "replicate"}.get(self.mode, self.mode))

    def adjoint(self, q: Tensor, shape: Sequence[int]) -> Tensor:
        """Transpose of the padding without its value; ``shape`` is that of the padding's input."""
        if self.mode == "constant":
            return F.pad(q, [-p for p in self.pads])
        with torch.enable_grad():
            x = torch.zeros(tuple(shape), dtype=q.dtype, requires_grad=True)
            (gradient,) = torch.autograd.grad(self(x), x, q)
        return gradient


class Convolution(BilinearMap):
    """Convolution in one to three dimensions with stride, padding, dilation and groups, or a transposed one.

    Args:
        settings: Of the inventory's layer.
        pads: Padding layers right in front of it, in order; ``input_shape`` is the input of the first one.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        weight_shape: Sequence[int],
        settings: dict[str, Any],
        pads: Sequence[Pad] = (),
    ) -> None:
        super().__init__(input_shape, output_shape, weight_shape)
        self.settings, self.pads = settings, tuple(pads)
        self.geometry = (settings["stride"], settings["padding"], settings["dilation"])
        self.groups = int(settings["groups"])
        self.transposed = bool(settings["transposed"])
        self.tail = (self.transposed, settings["output_padding"], self.groups)
        self.shapes = self._shapes()

    def _shapes(self) -> list[tuple[int, ...]]:
        """Shape before each padding, and of what the convolution sees."""
        x = torch.empty((1, *self.input_shape))
        shapes = [tuple(x.shape)]
        for pad in self.pads:
            x = pad(x)
            shapes.append(tuple(x.shape))
        return shapes

    def _padded(self, x: Tensor, value: float | None = 0.0) -> Tensor:
        x = x.reshape(1, *self.input_shape)
        for pad in self.pads:
            x = pad(x, value)
        return x

    def offset(self) -> Tensor | None:
        """What non-zero padding values put into the convolution's input (1, C, *S), or ``None``."""
        if all(pad.mode != "constant" or pad.value == 0 for pad in self.pads):
            return None
        return self._padded(torch.zeros(self.input_shape, dtype=torch.float64), None)

    def convolve(self, padded: Tensor, w: Tensor) -> Tensor:
        """z of an input that is already padded."""
        z: Tensor = torch.ops.aten.convolution(padded, w, None, *self.geometry, *self.tail)
        return z.reshape(self.output_shape)

    def correlate(self, padded: Tensor, q: Tensor) -> Tensor:
        """Weight gradient of an input that is already padded."""
        return self._backward(q, padded, torch.empty(self.weight_shape, dtype=q.dtype), [False, True, False])[1]

    def _backward(self, q: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> tuple[Tensor, ...]:
        q = q.reshape(1, *self.output_shape)
        result: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            q, x, w, None, *self.geometry, *self.tail, mask
        )
        return result

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Convolve, with padding values taken as zero."""
        return self.convolve(self._padded(x), w)

    def input_gradient(self, q: Tensor, w: Tensor) -> Tensor:
        """Transposed convolution of q."""
        x = torch.empty(self.shapes[-1], dtype=q.dtype)
        gradient = self._backward(q, x, w, [True, False, False])[0]
        for pad, shape in zip(reversed(self.pads), reversed(self.shapes[:-1]), strict=True):
            gradient = pad.adjoint(gradient, shape)
        return gradient.reshape(self.input_shape)

    def weight_gradient(self, x: Tensor, q: Tensor) -> Tensor:
        """Correlation of x and q."""
        return self.correlate(self._padded(x), q)

    def block_size(self) -> tuple[int, int]:
        """(F/groups · taps, positions)."""
        filters = self.output_shape[0] // self.groups
        return filters * prod(self.settings["kernel"]), prod(self.input_shape[1:])

    def block(self, delta: Tensor) -> Tensor | None:
        """Row (f, u), column s: Σ_p δ[f, p] over the windows p whose tap u lies on entry s; (groups, F·taps, S)."""
        if len(self.settings["kernel"]) > 2:
            return None
        filters = self.output_shape[0]
        rows, columns = self.block_size()
        if self.transposed:
            taps = self._windows(delta.reshape(1, filters, *self.output_shape[1:]))[0]  # (F·taps, S)
            return taps.reshape(self.groups, rows, columns)
        numbers = torch.arange(1, columns + 1, dtype=torch.float64).expand(1, 1, columns)
        entries = self._windows(self._padded_channel(numbers))[0].long()  # (taps, P), 0 is padding
        block = torch.zeros((filters, entries.shape[0], columns + 1), dtype=delta.dtype)
        flat = delta.reshape(filters, 1, -1).expand(-1, entries.shape[0], -1)
        block.scatter_add_(2, entries.expand(filters, -1, -1), flat)
        return block[..., 1:].reshape(self.groups, rows, columns)

    def _padded_channel(self, values: Tensor) -> Tensor:
        x = values.reshape(1, 1, *self.input_shape[1:])
        for pad in self.pads:
            x = pad(x, 0.0)
        return x

    def _windows(self, x: Tensor) -> Tensor:
        """im2col of (1, C, *S) in one or two dimensions: (1, C·taps, P)."""
        stride, padding, dilation = self.geometry
        kernel = tuple(self.settings["kernel"])
        if len(kernel) == 1:
            x = x[:, :, None]
            kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
            padding = (0, *padding)
        return F.unfold(x, kernel, dilation, padding, stride)

    def split(self, gradient: Tensor) -> Tensor:
        """(groups, F·taps, C): ordinary weights are (F, C, *k), transposed ones (C, F, *k)."""
        per_group = gradient.reshape(self.groups, -1, gradient.shape[1], prod(self.settings["kernel"]))
        if self.transposed:
            return per_group.permute(0, 2, 3, 1).reshape(self.groups, self.block_size()[0], -1)
        return per_group.permute(0, 1, 3, 2).reshape(self.groups, self.block_size()[0], -1)

    def join(self, solution: Tensor) -> Tensor:
        """(groups, S, C) to (groups·C, *S)."""
        return solution.mT.reshape(self.input_shape)


@dataclass(frozen=True, eq=False)
class LayerSystem:
    """K x = g and diag(r) W x = diag(r) z, for one layer and one sample.

    Args:
        map: The bilinear map.
        weight: w.
        delta: Gradient at the output.
        gradient: G without the share of padding values, or ``None`` for a layer that is not trained.
        outputs: z - b without the share of padding values, or ``None`` where no output is known.
        trust: r ≥ 0, shaped as z: σ'(z), so that each row has the error of y = σ(z); 0 where z is not known.
    """

    map: BilinearMap
    weight: Tensor
    delta: Tensor
    gradient: Tensor | None
    outputs: Tensor | None
    trust: Tensor

    def apply(self, x: Tensor, scale: float) -> Tensor:
        """[scale·K x; r∘W x], flat."""
        parts = []
        if self.gradient is not None:
            parts.append(scale * self.map.weight_gradient(x, self.delta).flatten())
        if self.outputs is not None:
            parts.append((self.trust * self.map.forward(x, self.weight)).flatten())
        return torch.cat(parts)

    def adjoint(self, q: Tensor, scale: float) -> Tensor:
        """Transpose of `apply`, shaped as x."""
        x = torch.zeros(self.map.input_shape, dtype=q.dtype)
        taken = 0
        if self.gradient is not None:
            taken = self.gradient.numel()
            x += scale * self.map.input_gradient(self.delta, q[:taken].reshape(self.map.weight_shape))
        if self.outputs is not None:
            x += self.map.input_gradient(self.trust * q[taken:].reshape(self.map.output_shape), self.weight)
        return x

    def right_side(self, scale: float) -> Tensor:
        """[scale·g; r∘z], flat."""
        parts = [scale * self.gradient.flatten()] if self.gradient is not None else []
        if self.outputs is not None:
            parts.append((self.trust * self.outputs).flatten())
        return torch.cat(parts)

    def balance(self) -> float:
        """‖r∘W‖₂ / ‖K‖₂, the factor that makes both systems equally large; 1 where one of them is missing."""
        if self.gradient is None or self.outputs is None:
            return 1.0
        weight_norm = self._norm(
            lambda x: self.map.input_gradient(self.trust.square() * self.map.forward(x, self.weight), self.weight)
        )
        gradient_norm = self._norm(
            lambda x: self.map.input_gradient(self.delta, self.map.weight_gradient(x, self.delta))
        )
        return weight_norm / gradient_norm if gradient_norm > 0 and weight_norm > 0 else 1.0

    def _norm(self, normal: Callable[[Tensor], Tensor]) -> float:
        """Square root of the largest eigenvalue of AᵀA by power iteration from a fixed start."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.map.input_shape, generator=generator, dtype=torch.float64)
        size = 0.0
        for _ in range(_POWER_ITERATIONS):
            x = normal(x / x.norm())
            size = float(x.norm())
            if size == 0:
                break
        return float(size**0.5)

    def residual(self, x: Tensor, scale: float) -> float:
        """‖A x - b‖ / ‖b‖ with equally large blocks."""
        right = self.right_side(scale)
        return float((self.apply(x, scale) - right).norm() / right.norm().clamp_min(1e-300))
