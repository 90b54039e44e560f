"""What the tests of the exact readings share: observations with inferred labels, and a judge that knows the truth."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.base import Mode, Protocol
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target

EXACT = 1e-3


def seen(
    target: Target,
    batch: Batch,
    space: Images,
    mode: Mode = "eval",
    seed: int = 0,
    protocol: Protocol | None = None,
) -> Observation:
    """What an attacker sees of a batch, with labels inferred from it; of one gradient by default."""
    observation = observe(target, batch, protocol or FedSGD(len(batch.labels), mode), space, seed)
    labels = infer_labels(target, observation, cpu_generator(0)).labels
    return replace(observation, labels=labels, label_source="inferred")


def errors(result: Reconstruction, batch: Batch, space: Images) -> Tensor:
    """RMSE in pixels between each row of a reconstruction and each sample (rows, samples)."""
    rows = space.decode(result.inputs).flatten(1)
    truth = batch.images.flatten(1)
    return torch.cdist(rows, truth) / truth.shape[1] ** 0.5


def confirmed_count(result: Reconstruction) -> int:
    """The number of samples that the attack claims; its first note says so."""
    return int(result.notes[0].split(" of ")[0])


def judge(result: Reconstruction, batch: Batch, space: Images) -> tuple[int, int]:
    """Claims that are in the batch, and claims that are not."""
    claims = errors(result, batch, space)[: confirmed_count(result)]
    right = int((claims.min(1).values < EXACT).sum()) if len(claims) else 0
    return right, len(claims) - right


def relu_mlp(hidden: int = 128, bias: bool = True, seed: int = 0, classes: int = 5) -> nn.Module:
    """12×12 colour images to classes through Linear+ReLU."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, classes))


def dropout_mlp(p: float, hidden: int = 128, seed: int = 0, classes: int = 5) -> nn.Module:
    """Two hidden ReLU layers with dropout."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (432, hidden):
        layers += [nn.Linear(inputs, hidden), nn.ReLU(), Dropout(p)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


def noise_batch(count: int, seed: int = 0, classes: int = 5, shape: tuple[int, int, int] = (3, 12, 12)) -> Batch:
    """Independent random images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((count, *shape), generator=generator)
    return Batch(images, torch.randint(classes, (count,), generator=generator), tuple(range(count)))
