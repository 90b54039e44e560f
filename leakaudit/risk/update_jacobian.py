"""The Jacobian of the shared update by the inputs, as products: what a play's update says about its inputs locally.

With Φ(x) what a client with inputs x shares, ``J = ∂Φ/∂x``. It is never formed. For a random ``z``, conjugate gradients
on ``min ‖J v − J z‖`` from zero converge to the part of ``z`` in the row space, so ``n ‖z − v‖² / ‖z‖²`` estimates the
dimension of the null space, n being the number of unknowns (the trace estimate of Hutchinson 1990 on the projector).

J stands for ``∂Φ/∂x`` with its columns scaled to lengths of about one, which leaves the rank as it is and takes down to
half the steps (`benchmarks/results/certificates.md`). Their lengths are estimated, as the mean of ``(Jᵀ w)²`` over
random ``w``, and only what sets them further apart than chance would is evened out.

Needs a model with second derivatives, as the attacks do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.parts import squared
from leakaudit.target.target import Target

CONVERGED = 1e-8
"""Residual of the normal equations, over that at the start, at which conjugate gradients have converged; rounding of
float64, squared."""
BALANCING = 20
"""Random vectors that the lengths of the columns are estimated from; chosen from 5, 10, 20 and 40 on one image of eight
networks, where none took 2 % more steps than without (`benchmarks/results/certificates.md`)."""


class StoppedError(Exception):
    """Time was over before an answer was found."""


class UpdateJacobian:
    """``J = ∂Φ/∂x`` at a play as two products, by reverse mode alone.

    ``Jᵀ w`` is one backward pass of ``⟨Φ, w⟩``; as it is linear in ``w``, ``J z`` is its derivative by ``w``. Vectors
    as long as the update are a tensor for each of its tensors that depends on the inputs: as one, autograd would add
    up one of that length for each of them.

    Args:
        target: The model.
        observation: How clients make an update, which tensors they share, and through which channel.
        play: At which the Jacobian is taken.
        distinct: Rows (u,) of the play's inputs that vary; by default all.
        places: Which of these each row of the play is (B,).
        free: Entries (*shape) of a sample that vary, as booleans; by default all.
    """

    def __init__(
        self,
        target: Target,
        observation: Observation,
        play: Play,
        distinct: Tensor | None = None,
        places: Tensor | None = None,
        free: Tensor | None = None,
    ) -> None:
        self.free = None if free is None or bool(free.all()) else free.to(play.inputs.device)
        self.scale: Tensor | None = None if self.free is None else self.free.to(play.inputs)
        inputs = play.inputs if distinct is None else play.inputs[distinct]
        self.inputs = inputs.detach().clone().requires_grad_(True)
        whole = self.inputs if places is None else self.inputs[places]
        at = replace(play, inputs=whole)
        shared = observation.regenerate(target, at, create_graph=True)
        self.value = tuple(g for g in shared.values() if g.requires_grad) or tuple(shared.values())
        self.dual = tuple(torch.zeros_like(g).requires_grad_(True) for g in self.value)
        (self.pullback,) = torch.autograd.grad(
            self.value, [self.inputs], self.dual, create_graph=True, materialize_grads=True
        )

    def times(self, direction: Tensor) -> tuple[Tensor, ...]:
        """J z of a direction shaped as the inputs."""
        if not self.pullback.requires_grad:
            return tuple(map(torch.zeros_like, self.value))
        return torch.autograd.grad(
            self.pullback, self.dual, self._scaled(direction), retain_graph=True, materialize_grads=True
        )

    def transposed_times(self, dual: Sequence[Tensor]) -> Tensor:
        """Jᵀ w, shaped as the inputs."""
        (product,) = torch.autograd.grad(self.value, [self.inputs], dual, retain_graph=True, materialize_grads=True)
        return self._scaled(product)

    def balance(self, generator: Generator, over: Callable[[], bool]) -> None:
        """Scale the columns to about one length.

        Args:
            generator: CPU generator of the random vectors.
            over: Asked before every product.

        Raises:
            StoppedError: It said so.
        """
        squares = torch.zeros_like(self.inputs)
        for _ in range(BALANCING):
            if over():
                raise StoppedError
            drawn = [torch.randn(value.shape, generator=generator).to(value) for value in self.value]
            squares += self.transposed_times(drawn).square()
        there = squares > 0
        logarithms = squares[there].log()
        if len(logarithms) < 2:
            return
        apart = logarithms - logarithms.mean()
        by_chance = float(torch.special.polygamma(1, torch.tensor(BALANCING / 2)))
        kept = max(0.0, 1 - by_chance / max(float(apart.var()), by_chance))
        lengths = torch.ones_like(squares)
        lengths[there] = (kept / 2 * apart).exp()
        self.scale = self._scaled(1 / lengths)

    def only_free(self, direction: Tensor) -> Tensor:
        """A direction shaped as the inputs, without the entries that do not vary."""
        return direction if self.free is None else direction * self.free

    def _scaled(self, direction: Tensor) -> Tensor:
        """A direction shaped as the inputs, each entry times the scale of its column; zero where nothing varies."""
        return direction if self.scale is None else direction * self.scale

    @property
    def unknowns(self) -> int:
        """Entries that vary."""
        return self.inputs.numel() if self.free is None else len(self.inputs) * int(self.free.sum())


def part_in_row_space(
    jacobian: UpdateJacobian, probe: Tensor, products: int, near: float, over: Callable[[], bool]
) -> tuple[Tensor, bool]:
    """The part of a vector in the row space of J, by conjugate gradients on ``min ‖J v − J z‖`` from zero (CGLS).

    The iterates come ever closer to their end in the Euclidean norm (Hestenes and Stiefel 1952), and the rest of z is
    orthogonal to all of them. So once one of them is near z, their end is as near, and no further one is needed.

    Args:
        jacobian: J.
        probe: z, shaped as the inputs.
        products: Iterations allowed, each one product with J and one with its transpose.
        near: Squared distance from z at which an iterate counts as the end.
        over: Asked before every iteration.

    Returns:
        The last iterate, and whether it is the end, or near z.

    Raises:
        StoppedError: It said so.
    """
    solution = torch.zeros_like(jacobian.inputs)
    rest = [part.clone(memory_format=torch.contiguous_format) for part in jacobian.times(probe)]
    gradient = jacobian.transposed_times(rest)
    direction = gradient.clone()
    first = power = float(gradient.square().sum())
    for _ in range(products):
        if over():
            raise StoppedError
        if power <= CONVERGED**2 * first or float((probe - solution).square().sum()) <= near:
            return solution, True
        image = jacobian.times(direction)
        step = power / sum(map(squared, image))
        solution.add_(direction, alpha=step)
        for part, along in zip(rest, image, strict=True):
            part.sub_(along, alpha=step)
        gradient = jacobian.transposed_times(rest)
        previous, power = power, float(gradient.square().sum())
        direction = torch.add(gradient, direction, alpha=power / previous)
    return solution, False


def missing_directions(
    jacobian: UpdateJacobian,
    products: int,
    generator: Generator,
    *,
    probes: int,
    tolerance: float,
    over: Callable[[], bool] = lambda: False,
) -> tuple[list[float], bool]:
    """Estimates of the dimension of J's null space, one per probe, and whether all of them converged.

    Args:
        jacobian: J, in float64.
        products: Iterations allowed per probe.
        generator: CPU generator of the probes.
        probes: How many; fewer where one leaves it undecided, whatever another would say.
        tolerance: Estimate up to which a probe says that nothing is missing; none goes on below it.
        over: Asked before every product.

    Raises:
        StoppedError: It said so.
    """
    inputs = jacobian.inputs
    jacobian.balance(generator, over)
    missing, converged = [], True
    for _ in range(probes):
        drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        probe = jacobian.only_free(drawn.to(inputs.device))
        scale = float(probe.square().sum()) / jacobian.unknowns
        found, done = part_in_row_space(jacobian, probe, products, tolerance * scale, over)
        missing.append(float((probe - found).square().sum()) / scale)
        converged &= done
        if not done and missing[-1] > tolerance:
            break
    return missing, converged
