"""Which levels of a category occur in a batch, from zeros in the gradient of a layer that reads it.

A level that no row has is an entry u = 0 of every operand, so its column of ``∂ℓ/∂W = δ uᵀ`` is zero to the last bit,
summed over the batch as well; of an embedding, which is such a product, it is a row that was not looked up. Needs the
gradient itself: noise and rounding hide it, pruning and dropout make zeros of their own. A category all of whose
columns are zero is left alone: then it is the layer that does not learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakaudit.attacks.reading.first_layer import find_linears, masks_unknown
from leakaudit.observation import Observation
from leakaudit.target.target import Target


def occurring(target: Target, observation: Observation) -> Tensor | None:
    """Entries (D,) of a row that may not be zero in all rows, as booleans; ``None`` where the update hides it."""
    blocks, protocol = observation.domain.blocks, observation.protocol
    if not blocks or not protocol.one_gradient or observation.pruned or not observation.plain:
        return None
    entries = [entry for entry in find_linears(target) if entry.weight in observation.update]
    if not entries or masks_unknown(target, observation):
        return None
    index = entries[0].map.index
    found = torch.ones(observation.domain.shape[-1], dtype=torch.bool, device=index.device)
    for entry in entries:
        zero = (entry.rows(observation.update) == 0).all(0) & (entry.map.shift == 0)
        found[entry.map.index[zero]] = False
    for start, stop in blocks:
        found[start:stop] |= ~found[start:stop].any()
    return found
