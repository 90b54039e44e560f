r"""Mean prediction over K local steps, from dummy features whose replayed training of the last layer gives its update.

After several steps the predictions in :math:`g = \sum_k c_k\,\overline{(p_k - y)} / \sum_k c_k` are those of weights
that move from step to step, and the model before the first step tells too little of them. What moves them most is the
last layer itself. Its training needs no weights: with the features fixed, a step on samples S moves the logits of every
sample n by

.. math:: z_n \leftarrow z_n - \eta \sum_{i \in S} (h_i \cdot h_n + 1)\,(p_i - y_i) / |S|

and momentum and weight decay act on z as they do on the weights. So the fit of `leakaudit.attacks.labels.features` is
made through all steps: dummy features with soft labels, in the client's own schedule, whose update of the last layer is
the observed one. The features are those of public images half-way between the weights before and after.

Fails where the layers below move far in one round; for optimizers that are not linear, the model half-way is all that
there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from leakaudit.attacks.labels.features import FeatureFit
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target.target import Target

HALFWAY = 0.5
"""Where between the weights before and after features are taken; by definition the middle, as SME's α begins."""


@dataclass(frozen=True, eq=False)
class Training:
    """What the last layer's replay needs of a client's local training.

    Args:
        visits: Positions of the samples of every step.
        weights: How much each step's gradient counts, c_k.
        rate: η.
        momentum: Of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: λ, added to the gradient.
    """

    visits: Sequence[Tensor]
    weights: Sequence[float]
    rate: float
    momentum: float
    nesterov: bool
    weight_decay: float

    @classmethod
    def of(cls, client: FedAvg, size: int) -> Training:
        """Of a client with so many samples, visited as they stand."""
        blank = Play(torch.zeros(size, 1), torch.zeros(size, dtype=torch.long))
        settings = (client.learning_rate, client.momentum, client.nesterov, client.weight_decay)
        return cls(list(client.visits(blank)), client.step_weights, *settings)

    def replay(self, logits: Tensor, gram: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train the last layer on dummy samples.

        Args:
            logits: Before the first step (…, N, K).
            gram: h_n · h_i + 1 (…, N, N).
            labels: Soft labels (…, N, K).

        Returns:
            Errors p − y of every sample, weighted as its visits count in the update (…, N, K); mean prediction (…, K).
        """
        velocity = torch.zeros_like(logits)
        errors, mean = torch.zeros_like(logits), logits.new_zeros(())
        total = sum(self.weights)
        for number, (chosen, weight) in enumerate(zip(self.visits, self.weights, strict=True)):
            predictions = logits[..., chosen, :].softmax(-1)
            error = (predictions - labels[..., chosen, :]) / len(chosen)
            errors = errors.index_add(-2, chosen, weight / total * error)
            mean = mean + weight / total * predictions.mean(-2)
            slope = gram[..., chosen] @ error + self.weight_decay * logits
            velocity = self.momentum * velocity + slope if number else slope
            logits = logits - self.rate * (slope + self.momentum * velocity if self.nesterov else velocity)
        return errors, mean


@dataclass(frozen=True, eq=False)
class StepsFit(FeatureFit):
    """As the fit of one gradient, through a client's local steps.

    Args:
        training: The steps.
        rest: ‖h − V Vᵀ h‖² of the mean feature, what its principal directions leave out.
    """

    training: Training
    rest: float

    def _replayed(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inside = features * self.scale + self.mean  # Vᵀ h
        gram = inside @ inside.transpose(-1, -2) + (self.rest + 1)
        return self.training.replay(features @ self.weight.T + self.offset, gram, labels)

    def _mean(self, features: Tensor, labels: Tensor) -> Tensor:
        return self._replayed(features, labels.softmax(-1))[1].mean(0)

    def _misfit(self, features: Tensor, labels: Tensor) -> Tensor:
        errors, _ = self._replayed(features, labels.softmax(-1))
        gradient = errors.transpose(1, 2) @ (features * self.scale + self.mean)
        return self._distance(gradient, errors.sum(1), features)


def halfway(target: Target, observation: Observation) -> Target:
    """The model with weights half-way between those before and after the local steps; itself where a gradient was sent.

    Args:
        target: With the weights before the first step.
        observation: The update; tensors that it lacks stay.
    """
    protocol = observation.protocol
    way = None if protocol.steps == 1 else protocol.moved(observation.update, target.parameters)
    if way is None:
        return target
    return target.at({name: target.parameters[name].detach() + HALFWAY * moved for name, moved in way.items()})


def through_steps(fit: FeatureFit, pool: Tensor, observation: Observation) -> StepsFit | None:
    """The fit through a client's local steps; ``None`` of one, of unknown ones, and where the optimizer is not linear.

    Args:
        fit: Of one gradient, with the weights before the first step.
        pool: Features of the public images (N, features).
        observation: For the protocol.
    """
    client = observation.protocol
    if not isinstance(client, FedAvg) or client.steps == 1 or not client.linear or client.withheld:
        return None
    known = {each.name: getattr(fit, each.name) for each in fields(fit)}
    rest = pool.mean(0).square().sum() - fit.mean.square().sum()
    return StepsFit(**known, training=Training.of(client, client.batch_size), rest=float(rest.clamp_min(0)))
