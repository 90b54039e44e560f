"""The user's own loss, ``--loss module:function``: a function of outputs and labels that returns a scalar.

It is code of the user's, as the function of ``--factory`` is, and is imported when the task is chosen. Outputs come as
the task has them, labels as the reader of the batch file makes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from leakaudit.errors import LeakauditError, UsageError, first_line
from leakaudit.safety.importing import raised_by, user_function, user_source

MOVED = 0.1
"""How far outputs are moved to see whether a first derivative varies; chosen."""
INVERSION = 60
"""Iterations of L-BFGS that look for the label behind an error; chosen."""


@dataclass(frozen=True)
class OwnLoss:
    """A loss of the user's.

    Args:
        path: ``module:function``.
        sha256: Hash of the file that the function stands in, so that results of another version are not taken for its
            own; empty where it stands in none.
    """

    path: str
    sha256: str = ""

    @classmethod
    def of(cls, path: str) -> OwnLoss:
        """Import it.

        Raises:
            UsageError: There is no such function, or its module fails.
        """
        source = user_source(path, _imported(path))
        return cls(path, hashlib.sha256(source).hexdigest() if source else "")

    def __call__(self, outputs: Tensor | dict[str, Tensor], labels: Tensor) -> Tensor:
        """The loss, a scalar, of outputs, or of those of several heads by name.

        Raises:
            UsageError: The function raised, or returned no scalar that depends on the outputs.
        """
        found = _called(self.path, outputs, labels)
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            got = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(
                f"--loss {self.path} returned {got} for outputs {_shapes(outputs)} and labels "
                f"{tuple(labels.shape)}, expected a scalar tensor",
                "return the mean over the samples",
            )
        each = outputs.values() if isinstance(outputs, dict) else (outputs,)
        if any(output.requires_grad for output in each) and not found.requires_grad:
            raise UsageError(
                f"--loss {self.path} returned a number that does not depend on the outputs by a derivative",
                "compute it with torch's differentiable operators, without .detach(), .item() or numpy",
            )
        return found.reshape(())


def lacks(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, labels: Tensor) -> str:
    """Why a task's loss has no second derivative at these outputs (B, …) and labels, or "".

    Raises:
        UsageError: It has no first one.
    """
    leaf = outputs.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, labels), leaf, create_graph=True)
    if not slope.requires_grad:
        moved = (leaf.detach() + MOVED).requires_grad_()
        (other,) = torch.autograd.grad(loss(moved, labels), moved)
        if torch.allclose(slope, other):
            return ""  # as of an absolute error: the second derivative is zero, which is no obstacle
        return "its first derivative varies, and has no derivative of its own"
    try:
        torch.autograd.grad(slope.square().sum(), leaf)
    except RuntimeError as error:
        return first_line(error)
    return ""


def label_behind(loss: OwnLoss, outputs: Tensor, errors: Tensor) -> Tensor:
    """The numbers (1, D) under which a loss has these errors ∂ℓ/∂z (1, D) at outputs (1, D), by descent from there.

    The outputs themselves where the error does not vary with the label.
    """
    free = outputs.detach().clone().requires_grad_()
    at, wanted = outputs.detach().clone().requires_grad_(), errors.to(outputs)
    optimizer = torch.optim.LBFGS([free], max_iter=INVERSION, line_search_fn="strong_wolfe", tolerance_change=0)
    scale = wanted.square().sum().clamp_min(torch.finfo(outputs.dtype).tiny)

    def closure() -> Tensor:
        (slope,) = torch.autograd.grad(loss(at, free), at, create_graph=True)
        misfit = (slope - wanted).square().sum() / scale
        (free.grad,) = torch.autograd.grad(misfit, free)
        return misfit.detach()

    try:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    except RuntimeError:  # the error does not depend on the label by a derivative
        return outputs.detach()
    return free.detach() if bool(torch.isfinite(free).all()) else outputs.detach()


def _shapes(outputs: Tensor | dict[str, Tensor]) -> str:
    """Of outputs, for messages."""
    if isinstance(outputs, dict):
        return ", ".join(f"{name} {tuple(output.shape)}" for name, output in outputs.items())
    return str(tuple(outputs.shape))


def _called(path: str, outputs: Tensor | dict[str, Tensor], labels: Tensor) -> Any:
    """What the function returns.

    Raises:
        UsageError: It raised; says what, and in which line of the user's file.
    """
    function = _imported(path)
    try:
        return function(outputs, labels)
    except (LeakauditError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code, whatever it raises
        given = f", called with outputs {_shapes(outputs)} and labels {tuple(labels.shape)} of {labels.dtype}"
        raise raised_by("--loss", path, error, given) from error


@cache
def _imported(path: str) -> Callable[..., Any]:
    """The function of outputs and labels.

    Raises:
        UsageError: There is no such module or function.
    """
    return user_function("--loss", path, "give module:function of outputs and labels, or one of our losses")
