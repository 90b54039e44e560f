"""What is left of the algebra of one gradient where an update is of several local steps of SGD.

With or without momentum, the update is a weighted mean of the steps' gradients. A layer on the data gets the same x in
every visit of a sample, so

.. math:: \\frac{∂ℓ}{∂W} = \\sum_n \\Big(\\sum_k w_k\\, δ_{k,n}\\Big) x_n^T

has the form of a single gradient, with errors that are sums over the visits: ratios, spans and ranks stay as they are.
What changes is what confirms a reading. The errors of a sample are taken at weights between those before and those
after the training, and both ends are known. And where a step takes some of the samples only, the update depends on an
order that nobody but the client knows: it cannot be regenerated from samples and labels, however exact.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from leakaudit.attacks.reading.first_layer import masks_unknown
from leakaudit.observation import Observation
from leakaudit.target.target import Target

Weights = Mapping[str, Tensor]


def ends(target: Target, observation: Observation) -> tuple[Weights, ...]:
    """The weights at which the gradients were taken: those before, and after several steps also those that were sent.

    Tensors that were not sent are taken to be as they were.
    """
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    moved = None if observation.protocol.steps == 1 else observation.protocol.moved(observation.update, before)
    if moved is None:
        return (before,)
    return before, {name: tensor + moved[name] if name in moved else tensor for name, tensor in before.items()}


def regenerable(target: Target, observation: Observation) -> bool:
    """Whether the update follows from samples and labels: no dropout masks and no order that the client alone knows."""
    return not (observation.protocol.unrepeatable or masks_unknown(target, observation))
