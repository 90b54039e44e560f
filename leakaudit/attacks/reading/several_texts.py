"""Several texts of a causal model, token by token (DAGER's second layer, Petrov et al. 2024, arXiv 2405.15586).

In a causal model what a layer behind the attention reads at place t depends on the tokens up to t alone. The gradient
of such a layer spans what it read of all texts, so a beginning of a text is one if its reading lies in that span.
Beginnings grow by one token at a time, each tried with all tokens that the first layer's span allows at the next place.
The last place, which no loss reaches, is left to `leakaudit.attacks.reading.last_token`.

Fails where the span is the whole space, that is for more tokens in the batch than the layer has inputs, and where the
beginnings that pass become more than `MOST_BEGINNINGS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from leakaudit.attacks.reading.first_layer import like, watch
from leakaudit.attacks.reading.spans import TOGETHER, Reader, constant, outside_share, read_by_place, rows_of, span_of
from leakaudit.observation import Observation
from leakaudit.target.target import Target

MOST_BEGINNINGS = 64
"""Beginnings that are kept from place to place, at most; chosen, eight times the largest batch."""
MOST_TEXTS = 8
"""Largest batch that is tried; chosen for time."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that tells beginnings of texts.

    Args:
        reader: It.
        outside: An orthonormal basis (in, missing) of what is outside the span of its gradient.
        reach: Distance from the span that a beginning which occurred may have.
        placed: Whether its rows stand place by place and not sample by sample.
    """

    reader: Reader
    outside: Tensor
    reach: float
    placed: bool = False


def causal_readers(target: Target, table: str) -> list[Reader]:
    """The linear layers whose input at a place depends on tokens before it, and on none behind it."""
    places = prod(target.image_shape)
    if places < 2 or target.batch_sizes is not None:
        return []
    plain, first = constant(target, 0), constant(target, 0, first=1)
    last = plain.clone()
    last.view(1, -1)[:, -1] = 1
    uses = [watch(target, inputs) for inputs in (plain, first, last)]
    found = []
    for name, own in uses[0].items():
        if name == table or len(own) != 1 or own[0].operator not in ("addmm", "mm"):
            continue
        if own[0].operand.shape[:-1].numel() != places:
            continue
        zero, begun, ended = (use[name][0].operand.reshape(places, -1) for use in uses)
        if torch.equal(zero[:-1], ended[:-1]) and not torch.equal(zero[1:], begun[1:]):
            found.append(Reader(name, own[0].transposed, zero.shape[1]))
    return found


def read_texts(
    target: Target, observation: Observation, table: str, allowed: Tensor, tokens: Tensor, span: float
) -> Tensor:
    """The texts (n, L) whose every beginning lies in the span of a causal layer; none where it cannot be told.

    Where nothing was read at the last place, a zero stands there.

    Args:
        target: The model, over token ids.
        observation: The update of a batch.
        table: Name of the embedding table.
        allowed: Which of the tokens pass the first layer's span at each place (k, L).
        tokens: Ids (k,).
        span: Largest distance that a setting allows.
    """
    none = torch.empty((0, allowed.shape[1]), dtype=torch.long)
    if not 1 < observation.batch_size <= MOST_TEXTS or observation.one_bit or observation.pruned:
        return none
    layer = _telling(target, observation, table, len(tokens), span)
    if layer is None:
        return none
    texts = tokens[allowed[:, 0]][:, None]
    for place in range(1, allowed.shape[1]):
        following = tokens[allowed[:, place]]
        if place == allowed.shape[1] - 1 and not len(following):
            following = torch.zeros_like(tokens[:1])
            return torch.cat([texts, following.expand(len(texts), 1)], 1).cpu()
        if not len(texts) or not len(following):
            return none
        grown = torch.cat([texts.repeat_interleave(len(following), 0), following.repeat(len(texts))[:, None]], 1)
        away = _distances(target, layer, grown, place)
        order = away.argsort()[: int((away <= layer.reach).sum())]
        if len(order) > MOST_BEGINNINGS:
            return none
        texts = grown[order]
    return texts.cpu()


def _telling(target: Target, observation: Observation, table: str, tokens: int, span: float) -> Layer | None:
    """The causal layer with the most room beside its span; ``None`` where there is none."""
    best: Layer | None = None
    tried = tokens * MOST_BEGINNINGS * prod(target.image_shape)
    readers = causal_readers(target, table)
    placed = read_by_place(target, readers)
    for reader in readers:
        found = span_of(observation, reader, span, tried) if reader.weight in observation.update else None
        if found is not None and (best is None or found[0].shape[1] > best.outside.shape[1]):
            best = Layer(reader, *found, placed=reader in placed)
    return best


def _distances(target: Target, layer: Layer, beginnings: Tensor, place: int) -> Tensor:
    """Of what a layer reads at a place of beginnings (n, place + 1) from its span (n,)."""
    places, found = prod(target.image_shape), []
    for chunk in torch.split(beginnings, max(1, TOGETHER // places)):
        ids = torch.zeros((len(chunk), places), device=chunk.device, dtype=chunk.dtype)
        ids[:, : chunk.shape[1]] = chunk
        seen = watch(target, ids.to(like(target)).view(len(chunk), *target.image_shape))
        rows = rows_of(seen[layer.reader.weight][0].operand, len(chunk), layer.placed)[:, place]
        found.append(outside_share(rows, layer.outside).norm(dim=1))
    return torch.cat(found)
