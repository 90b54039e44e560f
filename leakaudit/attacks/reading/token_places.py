"""The order of one text from the gradient of a learned position table.

Claim: at a place t the embedding ``s E_v + P_t`` of its token enters the network once, so with ``δ_t`` the error there

.. math:: \\frac{∂ℓ}{∂P_t} = δ_t, \\qquad \\frac{∂ℓ}{∂E_v} = s \\sum_{t:\\, x_t = v} δ_t .

Every moved row of the table is the sum of the position rows at which its token stands: a token that occurs once has a
row equal to one position row, bit by bit, and pairs and triples are found by trying them. What is left (tokens that
occur more often) is solved by least squares with one token per place. Rows are compared each by its own size, since the
errors of a text may differ by orders of magnitude (pooling at the first token). The scale s (1, or what the model
multiplies its embeddings by) follows from the sums of both tables.

Through known noise only what agrees up to it is read, and only where nothing else does
(:func:`sequence_through_noise`).

Fails where two places have proportional errors (a model blind to order): the caller's certificate notices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakaudit.attacks.reading.noise import same_limit

EXACT = 1e-5
"""Relative distance of sums that counts as equality in float32: 84 times its precision."""
ROUNDED = 2.0
"""Times the expected norm of the rounding of a sum that it may be wrong by; chosen, far above its fluctuation."""
MAX_COMBINATIONS = 20_000
"""Most sums of places that are compared; chosen: the triples of 50 places are 19,600."""


def sequence_by_positions(
    table_gradient: Tensor, position_gradient: Tensor, tokens: Tensor, rounding: float = 0.0
) -> tuple[Tensor, float]:
    """Tokens (T,) of one text, one per place, and the worst relative misfit of a token's row beyond the rounding.

    Args:
        table_gradient: (V, d).
        position_gradient: (T, d), row by row.
        tokens: Ids (k,) whose row in the table's gradient is not zero.
        rounding: Standard deviation of what exchanging weights leaves wrong in an entry of either.
    """
    rows, places = table_gradient[tokens].double(), position_gradient.double()
    places = places * position_scale(rows, places)
    chosen = torch.full((len(places),), -1, device=tokens.device)
    wrong = ROUNDED * rounding * rows.shape[1] ** 0.5
    for size in (1, 2, 3):
        _match_sums(rows, places, chosen, size, wrong * (size + 1) ** 0.5)
    _match_rest(rows, places, chosen)
    sums = torch.zeros_like(rows).index_add_(0, chosen, places)
    terms = torch.bincount(chosen, minlength=len(rows)) + 1
    beyond = ((sums - rows).norm(dim=1) - wrong * terms.sqrt()).clamp_min(0)
    return tokens[chosen], float((beyond / rows.norm(dim=1)).max())


def position_scale(rows: Tensor, places: Tensor) -> float:
    """s, from the sums of both tables' gradients (k, d) and (T, d)."""
    return float(rows.sum(0) @ places.sum(0) / places.sum(0).square().sum().clamp_min(1e-300))


def sequence_through_noise(
    table_gradient: Tensor, position_gradient: Tensor, tokens: Tensor, noise: float
) -> tuple[Tensor, Tensor]:
    """Tokens (T,) of one text, and the places (T,) at which no other fits up to the noise.

    A token that stands at one or two places has their sum as its row. Sums that are further apart than noise alone puts
    equal ones, with probability `leakaudit.attacks.reading.noise.FALSE_ALARM`, are different.

    Args:
        table_gradient: (V, d).
        position_gradient: (T, d), row by row, scaled by s.
        tokens: Ids (k,) whose row in the table's gradient is more than noise.
        noise: Standard deviation of the noise on every entry of both.
    """
    rows, places = table_gradient[tokens].double(), position_gradient.double()
    chosen = torch.full((len(places),), -1, device=tokens.device)
    for size in (1, 2):
        free, wanted = _open(rows, chosen)
        groups = torch.combinations(free, size)
        if len(wanted) == 0 or len(groups) == 0 or len(groups) > MAX_COMBINATIONS:
            break
        limit = noise * same_limit(rows.shape[1], size + 1, len(groups) * len(wanted))
        near = torch.cdist(places[groups].sum(1), rows[wanted]) <= limit
        alone = near & (near.sum(0) == 1) & (near.sum(1) == 1)[:, None]
        for group, token in alone.nonzero().tolist():
            if bool((chosen[groups[group]] < 0).all()):
                chosen[groups[group]] = wanted[token]
    placed = chosen >= 0
    return tokens[chosen.clamp_min(0)], placed


def _open(rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Places without a token, and tokens without a place."""
    taken = torch.zeros(len(rows), dtype=torch.bool, device=chosen.device)
    taken[chosen[chosen >= 0]] = True
    return (chosen < 0).nonzero().flatten(), (~taken).nonzero().flatten()


def _match_sums(rows: Tensor, places: Tensor, chosen: Tensor, size: int, wrong: float) -> None:
    """Give tokens the `size` places whose sum is their row, the best matches first; fills `chosen` in place.

    Rows may miss their sums by `wrong` where that is more than `EXACT` of them.
    """
    free, wanted = _open(rows, chosen)
    if len(wanted) == 0 or len(free) < size:
        return
    groups = torch.combinations(free, size)
    if len(groups) > MAX_COMBINATIONS:
        return
    distance = torch.cdist(places[groups].sum(1), rows[wanted]) / rows[wanted].norm(dim=1)
    done: set[int] = set()
    candidates = (distance <= (wrong / rows[wanted].norm(dim=1)).clamp_min(EXACT)).nonzero()
    for index in distance[candidates[:, 0], candidates[:, 1]].argsort().tolist():
        group, token = groups[candidates[index, 0]], int(wanted[candidates[index, 1]])
        if token not in done and bool((chosen[group] < 0).all()):
            chosen[group] = token
            done.add(token)


def _match_rest(rows: Tensor, places: Tensor, chosen: Tensor) -> None:
    """Give every place that is left the token of its largest share in a least-squares solution; fills in place."""
    free, wanted = _open(rows, chosen)
    if len(free) == 0:
        return
    placed = (chosen >= 0).nonzero().flatten()
    missing = rows - torch.zeros_like(rows).index_add_(0, chosen[placed], places[placed])
    if len(wanted) == 0:
        wanted = torch.arange(len(rows), device=chosen.device)
    size = places[free].norm(dim=1).clamp_min(1e-300)
    share = torch.linalg.lstsq((places[free] / size[:, None]).T, missing[wanted].T, driver="gelsd").solution
    chosen[free] = wanted[(share / size[:, None]).argmax(1)]
