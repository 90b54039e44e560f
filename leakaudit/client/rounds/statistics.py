r"""Running statistics of BatchNorm that a client sent among its weights, as a server reads them.

After K local steps with momentum m,

.. math:: r' = (1 - m)^K\, r + m \sum_k (1 - m)^{K-k}\, \mu_k

so a single step gives the mean and variance of its batch (`leakaudit.target.batchnorm.read`), and several steps a
weighted mean over theirs, which is the statistics of no batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from leakaudit.client.rounds.naming import COUNTER
from leakaudit.errors import UpdateError
from leakaudit.protocols.base import Protocol
from leakaudit.target.batchnorm import Call, blank, normalised, normalising_with, read
from leakaudit.target.target import Target


class _Names(NamedTuple):
    """Buffers of the running mean and variance of a layer."""

    mean: str
    variance: str


def sent_statistics(target: Target, buffers: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The BatchNorm layers that use statistics of the batch, and whose running ones are among the buffers of an update.

    Args:
        target: The model that the client began with, in its mode.
        buffers: What came beside the trained tensors, by the model's names.
    """
    return tuple(name for name, names in _layers(target).items() if {*names} <= buffers.keys())


def recorded_statistics(
    target: Target, buffers: Mapping[str, Tensor], protocol: Protocol
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and biased variance (C,) of the batch by layer, where one step tells them; else nothing.

    Args:
        target: As of :func:`sent_statistics`.
        buffers: As there.
        protocol: How the update was made.

    Raises:
        UpdateError: They are said to be shared and are not among the buffers, or are of another shape.
    """
    if protocol.shared_statistics != "running":
        return {}
    layers = _layers(target)
    missing = [name for names in layers.values() for name in names if name not in buffers]
    if missing:
        raise UpdateError(
            f"the recorded update has no {missing[0]}, though running statistics are said to be shared",
            "leave out --share-bn-statistics, or record the whole state dict",
        )
    if protocol.steps != 1:
        return {}
    calls = _calls(target, protocol.batch_size)
    return {name: _read(target, calls[name], names, buffers) for name, names in layers.items() if calls[name].momentum}


def counted_steps(target: Target, buffers: Mapping[str, Tensor]) -> int | None:
    """The local steps that BatchNorm's own counters tell, where these came with an update and agree."""
    begun = dict(target.module.named_buffers())
    told = {
        int(tensor) - int(begun[name])
        for name, tensor in buffers.items()
        if name.rpartition(".")[2] == COUNTER and tensor.numel() == 1 and name in begun
    }
    return told.pop() if len(told) == 1 else None


def _read(target: Target, call: Call, names: _Names, buffers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    own = dict(target.module.named_buffers())
    for name in names:
        if buffers[name].shape != own[name].shape:
            got, expected = tuple(buffers[name].shape), tuple(own[name].shape)
            raise UpdateError(f"{name} of the recorded update has shape {got}, expected {expected}")
    before, after = (own[names.mean], own[names.variance]), tuple(buffers[name].to(own[name]) for name in names)
    return read(before, (after[0], after[1]), call.momentum, call.count)


def _calls(target: Target, size: int) -> dict[str, Call]:
    """The layers at work on a batch of so many samples, for their momentum and number of values."""
    with torch.no_grad():
        return normalised(target, blank(target, size))


@torch.no_grad()
def _layers(target: Target) -> dict[str, _Names]:
    """Names of the running statistics of the layers that normalise with the batch, by layer."""
    batchwise = {name for name, call in normalised(target, blank(target)).items() if call.running is None}
    owners = {id(tensor): name for name, tensor in target.module.named_buffers()}
    with normalising_with(target.module, "running"):
        calls = normalised(target, blank(target))
    found = {}
    for name in batchwise & calls.keys():
        running = calls[name].running
        if running is not None and all(id(tensor) in owners for tensor in running):
            found[name] = _Names(owners[id(running[0])], owners[id(running[1])])
    return dict(sorted(found.items()))
