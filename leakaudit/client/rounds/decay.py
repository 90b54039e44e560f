"""Weight decay in a recorded update, taken out: what was sent is :math:`u = g + λθ`, what attacks read is :math:`g`.

A client that trains with weight decay (``torch.optim.SGD(…, weight_decay=λ)``, or decoupled as in AdamW) and divides
its change of the weights by the learning rate sends :math:`(θ_0 - θ_1)/η = g + λθ_0`.

Where λ is not known it is *fitted*: rows of a weight that no sample touched (of tokens that do not occur, of units and
kernels that were off) have g = 0, so they are λ times the weight, all with the same λ. A row counts as untouched if it
is parallel to its weight up to :data:`MISFIT`; two rows of at least :data:`SHORTEST` entries must agree. Biases of such
rows say whether tensors of one axis decay as well; where none says, they are taken to, as torch's optimisers do it.

Rows that nothing else touched are exactly zero afterwards, not what rounding leaves of them: whether a row is zero is
what reveals tokens.

Finds nothing where every row was touched; then only λ itself (``--weight-decay``) helps, and whoever holds the samples
sees it in the difference to the computed update (`leakaudit.defences.claims.check_decay`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MISFIT = 0.03
"""Largest sine of the angle between a row and its weight for which it counts as parallel; chosen: a random row of nine
entries is so with a probability below 1e-11, and rounding of (θ₀ - θ₁)/η reaches 0.01 at η = 0.1 and λ = 1e-4."""
SHORTEST = 9
"""Entries of a row that can be told from chance, those of a 3×3 kernel; chosen."""
AGREEMENT = 0.05
"""Largest relative difference of one row's λ from the median; chosen, as MISFIT."""
SPREAD = 5.0
"""A row is untouched if it misses λθ by no more than this many times what the median untouched row does; chosen."""


@dataclass(frozen=True)
class Decay:
    """What was taken out.

    Args:
        rate: λ.
        rows: Untouched rows that it was fitted on; 0 where it was given.
        one_axis: Whether tensors of one axis decay too.
        taken: The share of a weight that decay took off in all, where λ does not follow as the training is not known.
    """

    rate: float
    rows: int = 0
    one_axis: bool = True
    taken: float | None = None

    def told(self) -> str:
        """What was done, for the report."""
        how = f"fitted on {self.rows} rows that nothing else touched" if self.rows else "as given"
        rest = "" if self.one_axis else ", but from no tensor of one axis"
        if self.taken is not None:
            return f"weight decay, which took {100 * self.taken:.4g} % off every weight, was subtracted ({how}){rest}"
        return f"weight decay of {self.rate:.4g} was subtracted ({how}){rest}"


def without_decay(
    update: Mapping[str, Tensor], weights: Mapping[str, Tensor], given: float | None
) -> tuple[dict[str, Tensor], Decay | None]:
    """An update without weight decay.

    Args:
        update: As it was sent, by tensor.
        weights: Those that the client started from, by the same names and more.
        given: λ, 0 for a client that has none, or ``None`` where it is to be fitted.

    Returns:
        The update, and what was taken out of it, if anything.
    """
    decay = fitted(update, weights) if given is None else Decay(given)
    if decay is None or decay.rate == 0:
        return dict(update), None
    return {name: _cleaned(tensor, weights[name].detach(), decay) for name, tensor in update.items()}, decay


def _rows(tensor: Tensor) -> Tensor:
    """A tensor as rows (R, n) in float64, on the CPU; no rows where it has one axis only."""
    flat = tensor.detach().double().cpu()
    return flat.reshape(len(flat), -1) if flat.dim() > 1 else flat.new_zeros((0, 1))


def _misfits(sent: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """λ of each row (R,), and the sine of its angle to its weight (R,), 1 where either is zero."""
    square = weights.square().sum(1)
    rate = (sent * weights).sum(1) / square.clamp_min(1e-300)
    size = sent.norm(dim=1)
    misfit = (sent - rate[:, None] * weights).norm(dim=1) / size.clamp_min(1e-300)
    return rate, torch.where((square > 0) & (size > 0), misfit, torch.ones_like(misfit))


def fitted(update: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Decay | None:
    """λ, the multiple of their weights that untouched rows of an update are, if they agree on one."""
    found: list[tuple[str, Tensor, Tensor]] = []
    for name, tensor in update.items():
        sent, own = _rows(tensor), _rows(weights[name])
        if sent.shape[1] < SHORTEST or not len(sent):
            continue
        if bool(((sent == 0).all(1) & (own != 0).any(1)).any()):
            return None  # a row that stayed as it was: nothing decays
        rate, misfit = _misfits(sent, own)
        chosen = (misfit <= MISFIT) & (rate > 0)
        found.append((name, chosen, rate))
    rates = torch.cat([rate[chosen] for _, chosen, rate in found]) if found else torch.zeros(0)
    if len(rates) < 2:
        return None
    middle = float(rates.median())
    agreeing = (rates - middle).abs() <= AGREEMENT * middle
    if int(agreeing.sum()) < 2 or not bool(agreeing.all()):
        return None
    return Decay(middle, len(rates), _one_axis(update, weights, found, middle))


def _one_axis(
    update: Mapping[str, Tensor], weights: Mapping[str, Tensor], found: list[tuple[str, Tensor, Tensor]], rate: float
) -> bool:
    """Whether biases of untouched rows decay; yes where none says."""
    votes = 0
    for name, chosen, _ in found:
        scope = name.rpartition(".")[0]
        for other, tensor in update.items():
            if other != name and other.rpartition(".")[0] == scope and tensor.shape == (len(chosen),):
                sent, own = tensor.double().cpu()[chosen], weights[other].detach().double().cpu()[chosen]
                votes += int(((sent - rate * own).abs() <= AGREEMENT * rate * own.abs())[own != 0].sum())
                votes -= int((sent == 0)[own != 0].sum())
    return votes >= 0


def _cleaned(sent: Tensor, weight: Tensor, decay: Decay) -> Tensor:
    """A tensor without its decay; rows that hold nothing else are zero."""
    if sent.dim() < 2 and not decay.one_axis:
        return sent
    left = sent - decay.rate * weight.to(sent)
    rows, own = _rows(left), decay.rate * _rows(weight)
    if not len(rows):
        return left
    share = rows.norm(dim=1) / own.norm(dim=1).clamp_min(1e-300)
    near = share[(share <= MISFIT) & own.any(1)]
    if not len(near):
        return left
    untouched = (share <= SPREAD * near.median().clamp_min(1e-12)) & (share <= MISFIT) & own.any(1)
    cleaned = left.reshape(len(rows), -1).clone()
    cleaned[untouched.to(cleaned.device)] = 0
    return cleaned.reshape(left.shape)
