"""The client: the only place where an update is computed from private samples.

.. math:: g^* = \\nabla_\\theta \\frac{1}{B} \\sum_{i=1}^{B} \\ell(f_\\theta(x_i), y_i)

This is FedSGD, the update that an honest client shares after one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from leakaudit.batch import Batch
from leakaudit.errors import AuditError
from leakaudit.observation import InputSpace, Observation, Protocol
from leakaudit.target.target import Target


def observe(target: Target, batch: Batch, protocol: Protocol, space: InputSpace, seed: int = 0) -> Observation:
    """Compute the update that the client would share and wrap it with the declared knowledge.

    Args:
        target: The model as the attacker evaluates it (dropout off). In train mode the client's dropout is on.
        batch: Private samples; ``len(batch)`` equals ``protocol.batch_size``.
        protocol: How the update is made.
        space: Normalisation of the inputs.
        seed: Of the dropout masks in train mode.

    Returns:
        An observation without labels: the attacker infers them.

    Raises:
        AuditError: The gradient is not finite, or zero everywhere.
    """
    device = next(iter(target.parameters.values())).device
    inputs = space.normalize(batch.images.to(device))
    with _client_mode(target.module, protocol, seed):
        gradients = target.gradient(inputs, batch.labels.to(device))
    update = {name: gradient.detach() for name, gradient in gradients.items()}
    broken = [name for name, gradient in update.items() if not bool(torch.isfinite(gradient).all())]
    if broken:
        raise AuditError(
            f"the update has NaN or infinite values in {broken[0]} ({len(broken)} of {len(update)} tensors)",
            "check the model's weights and the --mean and --std of its inputs",
        )
    if all(not bool(gradient.any()) for gradient in update.values()):
        raise AuditError(
            "the update is zero in every tensor: this batch leaves no trace in it",
            "the model may be saturated on these inputs; check --mean and --std, or draw other samples with --seed",
        )
    return Observation(update=update, protocol=protocol, space=space)


@contextmanager
def _client_mode(module: nn.Module, protocol: Protocol, seed: int) -> Iterator[None]:
    """Dropout on while the client computes a train-mode update, with masks drawn from `seed`; off again afterwards."""
    layers = [m for m in module.modules() if isinstance(m, _DropoutNd)] if protocol.mode == "train" else []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()
