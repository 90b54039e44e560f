r"""Weight decay of local training, found in the weights that a client sent.

K steps of SGD leave :math:`θ_K = a\,θ_0` of a row that no sample touched, where a follows from λ and what else is
known of the training. So 1 − a is fitted as the decay of a gradient is (`leakaudit.client.rounds.decay`), and λ is
solved for. Where the learning rate or the steps are not known, that λ is one of the training assumed in their place,
and a alone is told.

Finds nothing where every row was touched. Momentum that was carried over from an earlier round changes a, and then λ
comes out too large; what attacks read uses a alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import scipy
from torch import Tensor

from leakaudit.client.rounds.decay import fitted
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.protocols.fedavg import FedAvg


def local_decay(recorded: RecordedUpdate, weights: Mapping[str, Tensor], protocol: FedAvg) -> RecordedUpdate:
    """Weights or their difference after local steps, with the λ of their weight decay where untouched rows tell it.

    Tensors of one axis that do not decay are shifted as if they did, so that one λ holds for all.

    Args:
        recorded: What the client sent.
        weights: Those that it started from, by the same names and more.
        protocol: What is known of its training, without weight decay.
    """
    begun = {name: weights[name].detach().double().cpu() for name in recorded.tensors}
    sent = {name: tensor.double().cpu() for name, tensor in recorded.tensors.items()}
    shift = {name: 0.0 if recorded.kind == "delta" else tensor for name, tensor in begun.items()}
    shrunk = fitted({name: shift[name] - tensor for name, tensor in sent.items()}, begun)
    if shrunk is None:
        return recorded
    rate = _rate_of(shrunk.rate, protocol)
    if rate is None:
        return recorded
    decay = replace(shrunk, rate=rate, taken=shrunk.rate if protocol.withheld else None)
    tensors = dict(recorded.tensors)
    if not decay.one_axis:
        alone = {name: tensor for name, tensor in sent.items() if tensor.dim() < 2}
        tensors |= {n: (tensor - shrunk.rate * begun[n]).to(tensors[n]) for n, tensor in alone.items()}
    return replace(recorded, tensors=tensors, decay=decay)


def _rate_of(shrunk: float, protocol: FedAvg) -> float | None:
    """The λ under which an untouched weight loses such a share of itself, 1 − a; ``None`` if none shrinks it so."""

    def beyond(rate: float) -> float:
        return shrunk - (1 - replace(protocol, weight_decay=rate).kept)

    most = 2 * shrunk / protocol.learning_rate  # one step alone takes ηλ off
    return float(scipy.optimize.brentq(beyond, 0.0, most)) if beyond(most) <= 0 else None
