r"""The last token of texts of a language model: it enters the update as a label alone.

No token follows the last one, so its place has no loss, and in a causal model no other place sees it: neither its row
of the embedding nor its reading by any layer is in the update. It is the label of the place before. With another label
v in its stead the update differs, in the rows of the output layer, by

.. math:: \frac1n (e_{v^*} - e_v) h^T,

so the rows that differ most name the few candidates, among which the regenerated update decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leakaudit.attacks.base import relative_residual
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.reading.first_layer import like
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.target import Target

CANDIDATES = 4
"""Rows beyond one for each text that are tried; chosen: with a tied table the texts' own tokens differ too."""
ROUNDS = 2
"""How often the last tokens of several texts are chosen in turn; chosen."""


def with_last_tokens(target: Target, observation: Observation, texts: Tensor) -> tuple[Tensor, float]:
    """Texts (n, L) with their last tokens, and the relative residual of the update that they regenerate.

    Args:
        target: The model; its labels follow from the texts.
        observation: The update of exactly these texts.
        texts: Ids; what stands at the last place does not count.
    """
    ids = texts.clone()
    ids[:, -1] = 0
    differing = _differing(target, observation, ids)
    most = min(2 * len(ids) + CANDIDATES, len(differing))
    candidates = list(dict.fromkeys([*differing.topk(most).indices.tolist(), 0]))
    enough, best = tolerance_of(observation) / 10, float("inf")
    for _ in range(ROUNDS if len(ids) > 1 else 1):
        for text in ids:
            if best > enough:
                best = _chosen(target, observation, ids, text, candidates, enough)
    return ids, best


def _chosen(
    target: Target, observation: Observation, ids: Tensor, text: Tensor, candidates: Sequence[int], enough: float
) -> float:
    """Give a text (L,), one of `ids` (n, L), the candidate that fits best, or the first that does; its residual."""
    tried: dict[int, float] = {}
    for candidate in candidates:
        text[-1] = candidate
        tried[candidate] = relative_residual(target, observation, _play(target, ids))
        if tried[candidate] <= enough:
            break
    text[-1] = min(tried, key=lambda token: tried[token])
    return tried[int(text[-1])]


def _play(target: Target, ids: Tensor) -> Play:
    inputs = ids.to(like(target)).view(len(ids), *target.image_shape)
    labels = target.task.of_inputs(inputs)
    assert labels is not None
    return Play(inputs, labels)


def _differing(target: Target, observation: Observation, ids: Tensor) -> Tensor:
    """How much the rows of tensors with one for each id differ from the observed (V,), each tensor by its own size."""
    made, vocabulary = observation.regenerate(target, _play(target, ids)), target.domain.ids
    total = torch.zeros(vocabulary, dtype=torch.float64, device=ids.device)
    for name, seen in observation.update.items():
        if seen.dim() == 0 or len(seen) != vocabulary:
            continue
        away = (made[name].detach() - seen).double().reshape(vocabulary, -1).norm(dim=1)
        total += away.to(total.device) / away.max().clamp_min(torch.finfo(torch.float64).tiny).to(total.device)
    return total
