"""The bundled networks of the positive control as targets, and generated samples for them.

The networks are those of the domain (`leakaudit.domains.references`); the private samples of one are made by the domain
too, so they are like the real ones and nobody's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from leakaudit.attacks.labels.head import probe_inputs
from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.references import Reference
from leakaudit.target.load import load
from leakaudit.target.target import Target
from leakaudit.tasks.base import Task
from leakaudit.tasks.single_label import SingleLabel

STATISTICS = 64
"""Generated samples whose statistics a bundled network with BatchNorm holds; chosen."""
PASSES = 50
"""Times that it sees them: with the momentum of 0.1, what it held before is then less than a hundredth; chosen."""


def reference_target(reference: Reference, domain: Domain, task: Task | int) -> Target:
    """A bundled network for samples of a domain, always with the same weights.

    Args:
        reference: Which.
        domain: Of the model under audit.
        task: What it is trained on; a number of classes stands for one class of so many.
    """
    task = SingleLabel(task) if isinstance(task, int) else task
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = reference.build(domain.shape, task.outputs)
        _train_statistics(module, domain)
    target = load(module, mode=reference.mode, image_shape=domain.shape)
    return replace(target, domain=domain.on(target.domain), task=task, task_asked=True)


def _train_statistics(module: nn.Module, domain: Domain) -> None:
    """Let BatchNorm layers hold the statistics of generated samples, as if they had been trained on such."""
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        return
    samples = domain.look_alikes(STATISTICS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(PASSES):
            module.train()(samples)
    module.eval()


def synthetic_batch(target: Target, domain: Domain, count: int, seed: int) -> Batch:
    """At least `count` generated samples of the domain with random labels, for a target."""
    generator = torch.Generator().manual_seed(seed)
    return labelled(target, domain.decode(probe_inputs(target, domain, count, generator).cpu()), generator)


def labelled(target: Target, values: Tensor, generator: torch.Generator) -> Batch:
    """Values (N, *shape) with labels for a target: random ones, or those that follow from the values."""
    own = target.task.of_inputs(values)
    labels = target.task.draw(len(values), generator) if own is None else own
    return Batch(values, labels, tuple(range(len(values))))
