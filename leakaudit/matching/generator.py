"""The user's own generator of samples as a prior, ``--generator module:function``.

The function takes nothing and returns a ``torch.nn.Module`` with an attribute ``latent``: the sizes of one latent, a
number or a tuple. The module maps standard normal latents (B, *latent) to samples (B, *shape) as the batch file has
them: pixels or voxels in 0..1, signals in their unit. It is evaluated in eval mode, and makes the same of the same
latent each time. It is code of the user's, as the function of ``--factory`` is, and is called once in a process.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakaudit.domains.base import Domain
from leakaudit.errors import LeakauditError, UsageError
from leakaudit.safety.importing import raised_by, user_function, user_source

OPTION = "--generator"
PROBES = 4
"""Samples that are made to see whether a generator fits; chosen."""
OUTSIDE = 0.1
"""Share of a generator's values outside the range of the samples from which it is taken for one in another unit;
chosen: of one in -1..1 half are."""
SLACK = 1e-3
"""Of the range, by which values may lie outside of it; chosen, less than one level of 8 bits."""
HINT = "give module:function of nothing, which returns a torch module with an attribute latent"


@dataclass(frozen=True)
class OwnGenerator:
    """A generator of the user's.

    Args:
        path: ``module:function``.
        latent: Sizes of one latent.
        sha256: Hash of its weights and of the file that the function stands in, so that results of another version are
            not taken for its own.
    """

    path: str
    latent: tuple[int, ...]
    sha256: str

    @classmethod
    def of(cls, path: str, domain: Domain) -> OwnGenerator:
        """Import it, and try it on a few latents.

        Raises:
            UsageError: There is no such function, it fails, or what it makes is no sample of the domain.
        """
        network = _returned(path)
        found = cls(path, _latent(path, network), _content(path, network))
        _refuse_unfit(found, domain)
        return found

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its trainable tensors by name."""
        return dict(_returned(self.path).named_parameters())

    def values(self, latents: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Samples (B, *shape) as the batch file has them, differentiable.

        Args:
            latents: (B, *latent).
            weights: Tensors in place of its own, by name, each (B, …): one set for each sample.

        Raises:
            UsageError: The user's code raised.
        """
        network = _placed(self.path, str(latents.device), latents.dtype)
        try:
            if not weights:
                return self._tensor(network(latents))
            made = [
                functional_call(network, {name: own[i] for name, own in weights.items()}, (latents[i : i + 1],))
                for i in range(len(latents))
            ]
            return torch.cat(made)
        except (LeakauditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the user's own code, whatever it raises
            raise raised_by(OPTION, self.path, error, f", called with latents {tuple(latents.shape)}") from error

    def inputs(self, domain: Domain, latents: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The same as model inputs of a domain, moved into their range."""
        made = domain.encode(self.values(latents, weights))
        low, high = domain.box(made)
        return torch.minimum(torch.maximum(made, low), high)

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal ones (count, *latent), drawn on the CPU."""
        return torch.randn((count, *self.latent), generator=generator)

    @torch.no_grad()
    def drawn(self, count: int, domain: Domain, generator: torch.Generator) -> Tensor:
        """Model inputs (count, *shape) of random latents: what it makes without any update."""
        parts = torch.split(self.latents(count, generator), PROBES)
        return torch.cat([self.inputs(domain, part) for part in parts])

    def _tensor(self, made: Any) -> Tensor:
        if not isinstance(made, Tensor) or not made.is_floating_point():
            got = f"a tensor of {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
            raise UsageError(f"{OPTION} {self.path}: its module returned {got}, expected samples of floats", HINT)
        return made


def _refuse_unfit(own: OwnGenerator, domain: Domain) -> None:
    """Try a generator.

    Raises:
        UsageError: What it makes has another shape or unit, is not finite, is random, or has no derivative.
    """
    latents = own.latents(PROBES, torch.Generator().manual_seed(0)).requires_grad_()
    made, again = own.values(latents), own.values(latents)
    begin = f"{OPTION} {own.path}: its module"
    if made.shape != (PROBES, *domain.shape):
        raise UsageError(
            f"{begin} made {tuple(made.shape)} of latents {tuple(latents.shape)}, the model takes samples of "
            f"{tuple(domain.shape)}",
            "return (B, *shape) for latents (B, *latent)",
        )
    if not bool(torch.isfinite(made).all()):
        raise UsageError(f"{begin} made numbers that are not finite", "check its weights")
    if not torch.equal(made, again):
        raise UsageError(f"{begin} made two samples of one latent in eval mode", "fix the noise that it draws itself")
    if not made.requires_grad:
        raise UsageError(
            f"{begin} made samples that do not depend on the latent by a derivative",
            "compute them with torch's differentiable operators, without .detach() or torch.no_grad()",
        )
    _refuse_unit(begin, made.detach(), domain)


def _refuse_unit(begin: str, made: Tensor, domain: Domain) -> None:
    inputs = domain.encode(made)
    low, high = domain.box(inputs)
    slack = SLACK * (high - low)
    outside = ((inputs < low - slack) | (inputs > high + slack)).float().mean()
    if float(outside) > OUTSIDE:
        ends = [domain.decode(end.expand(1, *domain.shape)) for end in (low, high)]
        raise UsageError(
            f"{begin} made values from {float(made.min()):.3g} to {float(made.max()):.3g}, the samples have "
            f"{float(ends[0].min()):.3g} to {float(ends[1].max()):.3g}",
            "return samples as the batch file has them: pixels in 0..1, signals in their unit",
        )


def _latent(path: str, network: nn.Module) -> tuple[int, ...]:
    given = getattr(network, "latent", None)
    sizes = (given,) if isinstance(given, Integral) else given
    listed = sizes if isinstance(sizes, tuple | list) else ()
    if not listed or not all(isinstance(size, Integral) and int(size) > 0 for size in listed):
        raise UsageError(
            f"{OPTION} {path}: the module's attribute latent is {given!r}, expected the sizes of one latent",
            "set it, as module.latent = 128 or (512, 1, 1)",
        )
    return tuple(int(size) for size in listed)


def _content(path: str, network: nn.Module) -> str:
    state = hashlib.sha256(user_source(path, _function(path)) or path.encode())
    for name, tensor in network.state_dict().items():
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


@cache
def _function(path: str) -> Any:
    return user_function(OPTION, path, HINT)


@cache
def _returned(path: str) -> nn.Module:
    """The module that the function returns, in eval mode and frozen.

    Raises:
        UsageError: It raised, or returned something else.
    """
    function = _function(path)
    try:
        made = function()
    except (LeakauditError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code, whatever it raises
        raise raised_by(OPTION, path, error) from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{OPTION} {path} returned {type(made).__name__}, expected a torch.nn.Module", HINT)
    return made.eval().requires_grad_(False)


@lru_cache(maxsize=4)
def _placed(path: str, device: str, dtype: torch.dtype) -> nn.Module:
    """A copy of the module on a device, in a type."""
    return copy.deepcopy(_returned(path)).to(device=device, dtype=dtype)
