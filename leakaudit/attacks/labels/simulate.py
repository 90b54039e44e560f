r"""Class counts from a client that is simulated on look-alikes, until its last layer learns what the client's learnt.

Where a few steps swing the predictions from class to class (an untrained network of sigmoids, whose features are large
and nearly the same for every image), what a mean prediction was in every step depends on the labels themselves, and on
what all layers learnt of them. But it hardly depends on the images. So the local training is run on images with the
spectrum of photographs (1/f noise) under guessed labels, and the counts are those whose update of the last layer is
nearest to the observed one.

No class has fewer samples than :math:`n_k \ge -B g_k`, as no mean prediction is negative, and that leaves few counts:
ten to some thousands of the 24,310 of eight samples in ten classes. They are all tried, on one batch of look-alikes,
then the best on more and more. A local search on fewer had missed the true ones in four batches of six, though none
of those that it found fitted better (`benchmarks/results/local_steps.md`). It is left for where too many remain: it
goes from the counts of a fit to those that differ by a label or two, the likelier the more a class is over- or
underrepresented, and goes on from the best few.

The last guesses are averaged, each by how well it explains the update. Only for small networks with such features, and
where every step visits all samples: how these share the steps otherwise adds more unknowns than the update has numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from leakaudit.attacks.labels.head import Head
from leakaudit.attacks.reading.first_layer import masks_unknown
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.size import is_small
from leakaudit.target.target import Target

KEPT = (300, 100, 40)
"""Guesses that are left after each comparison, on 1, 2 and 4 batches of look-alikes; the last ones are compared on 8.
Chosen, and what `benchmarks/results/local_steps.md` was measured with."""
ROUNDS, BEAM, EACH = 12, 6, 8
"""Rounds of the local search, guesses that it goes on from, and changes of each; chosen, as KEPT."""
DRAWS = 3
"""Batches of look-alikes whose updates the local search averages; chosen, as KEPT."""
SECOND = 0.3
"""Chance of a second changed label in it; chosen, as KEPT."""
OFF = 0.3
"""Samples by which the update of the true counts is off in every direction on the best batch of look-alikes, one
standard deviation; chosen, as KEPT. The mean update of all batches counts worse
(`benchmarks/results/local_steps.md`)."""
ALIKE = 0.15
"""Mean squared deviation of features over the square of their mean, below which all images look alike to the last
layer; chosen between the 0.06 to 0.08 of a LeNet of sigmoids and the 0.4 to 1.4 of a ConvNet."""
MOST_STEPS = 12_000
"""Local steps that are simulated in all; chosen: some ten seconds on that LeNet."""
TOGETHER = 16
"""Guesses that are simulated at once; chosen: 64 took a fifth longer on that LeNet, and each alone twice as long."""


def applies(target: Target, observation: Observation, features: Tensor) -> bool:
    """Whether a client can be simulated under guessed labels, cheaply, and not better be fitted.

    Args:
        target: The model.
        observation: The update.
        features: Inputs of the last layer for public images (N, features).
    """
    protocol = observation.protocol
    whole = protocol.steps > 1 and set(protocol.step_sizes) == {observation.batch_size}
    plain = observation.plain and not observation.rescaled and not protocol.unrepeatable
    mean = features.mean(0)
    alike = float((features - mean).square().sum(1).mean()) < ALIKE * float(mean.square().sum())
    one = target.window is None  # a simulated client trains all heads, of which this is one
    return one and whole and plain and alike and not masks_unknown(target, observation) and is_small(target)


def simulated_shares(
    target: Target,
    observation: Observation,
    head: Head,
    guess: Callable[[], Tensor],
    least: Tensor,
    generator: Generator,
) -> Tensor | None:
    """Class shares (K,) whose simulated training changes the last layer as the client's did.

    ``None`` for a model that cannot be run on several guesses at once, and where one round takes too many steps.

    Args:
        target: With the weights before the first step.
        observation: The update.
        head: The last layer, with its weight, its bias and features of public images.
        guess: Makes the labels (B,) that a local search begins with; asked only where there is one.
        least: Samples that each class has at least (K,), whole numbers.
        generator: CPU generator of look-alikes and changes.
    """
    size, steps = observation.batch_size, observation.protocol.steps
    like = next(iter(target.parameters.values()))
    draws = 2 ** len(KEPT)
    drawn = [observation.domain.look_alikes(size, generator).to(like) for _ in range(draws)]
    client = Simulation(target, observation, head, drawn)
    few = (_counts(least, size) + _compared()) * steps <= MOST_STEPS
    rounds = min(ROUNDS, MOST_STEPS // (BEAM * EACH * DRAWS * steps))
    if not few and rounds == 0:
        return None
    try:
        client.off(torch.zeros((1, size), dtype=torch.long), 0, 1)
    except RuntimeError:  # torch: no rule for an operator, or one that writes in place
        return None
    if few:
        return _shares(*_of_all(client, every_guess(least, size)), target.classes)
    run = _Search(client, least)
    run.tries(guess().sort().values[None])
    for _ in range(rounds):
        run.tries(run.changed(generator))
    return _shares(torch.tensor(list(run.known)), torch.tensor(run.misfits, dtype=torch.float64), target.classes)


def every_guess(least: Tensor, size: int) -> Tensor:
    """All labels of so many samples (M, size), in order, of which each class has at least so many (K,)."""
    sure = torch.repeat_interleave(torch.arange(len(least)), least.long()).tolist()
    free = combinations_with_replacement(range(len(least)), size - len(sure))
    return torch.tensor([sorted((*sure, *rest)) for rest in free])


def _counts(least: Tensor, size: int) -> int:
    """How many those are."""
    return math.comb(size - int(least.sum()) + len(least) - 1, len(least) - 1)


def _compared() -> int:
    """Simulations of all comparisons after the first: each doubles the batches of look-alikes."""
    return sum(2**place * kept for place, kept in enumerate(KEPT))


def _of_all(client: Simulation, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The last guesses (M, B) after all comparisons, and their misfits (M,)."""
    apart = client.off(labels, 0, 1)[1]
    for kept in KEPT:
        best = likely(apart).argsort(stable=True)[:kept]
        labels, apart = labels[best], apart[:, best]
        apart = torch.cat([apart, client.off(labels, len(apart), 2 * len(apart))[1]])
    return labels, likely(apart)


def likely(apart: Tensor) -> Tensor:
    """Squared distances (draws, M) as one (M,), as if the client's own batch were near one of those, any of them."""
    return -2 * OFF**2 * (torch.logsumexp(-apart / (2 * OFF**2), 0) - math.log(len(apart)))


def _shares(labels: Tensor, misfit: Tensor, classes: int) -> Tensor:
    """Of all guesses (M, B), by how well they explain the update (K,)."""
    weight = (-misfit / (2 * OFF**2)).softmax(0)
    return weight @ F.one_hot(labels, classes).double().mean(1)


@dataclass(frozen=True, eq=False)
class Simulation:
    """A client that trains on look-alikes under guessed labels.

    Args:
        target: With the weights before the first step.
        observation: The update.
        head: The last layer.
        images: Batches of look-alikes, each (B, *shape).
    """

    target: Target
    observation: Observation
    head: Head
    images: Sequence[Tensor]

    def off(self, labels: Tensor, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """What guesses (M, B) are off by, on the batches of look-alikes from `first` to before `stop`.

        Returns:
            How many samples of a class each guess lacks, by the mean bias (M, K); the squared distance of bias and
            weight in samples, on each batch (stop - first, M).
        """
        parts = [self._off(part, self.images[first:stop]) for part in torch.split(labels, TOGETHER)]
        return torch.cat([lacks for lacks, _ in parts]), torch.cat([misfits for _, misfits in parts], 1)

    def _off(self, labels: Tensor, drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        soft = F.one_hot(labels, self.target.classes).to(self.images[0])
        seen = [tensor.cpu() for tensor in self._of_head(dict(self.observation.update))]
        assert self.head.pool is not None
        feature = float(self.head.pool.mean(0).square().sum())
        lacks, misfits = torch.zeros(()), []
        for images in drawn:
            found = torch.func.vmap(lambda own, images=images: self._last(images, own))(soft)
            bias, weight = (labels.shape[1] * (x.cpu() - own).double() for x, own in zip(found, seen, strict=True))
            lacks = lacks + bias / len(drawn)
            misfits.append(bias.square().sum(1) + weight.square().sum((1, 2)) / feature)
        return lacks, torch.stack(misfits)

    def _last(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The update of the last layer under soft labels (B, K)."""
        update = self.observation.protocol.update(self.target, Play(images, labels), functional=True)
        return self._of_head({name: tensor.detach() for name, tensor in update.items()})

    def _of_head(self, update: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return update[str(self.head.bias)].flatten(), self.head.rows(update)


@dataclass(eq=False)
class _Search:
    """Guesses that were simulated, the best first."""

    client: Simulation
    least: Tensor
    known: dict[tuple[int, ...], None] = field(default_factory=dict)
    misfits: list[float] = field(default_factory=list)
    best: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    lacks: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    off: Tensor = field(default_factory=lambda: torch.empty(0))

    def tries(self, labels: Tensor) -> None:
        """Simulate guesses (M, B) that are new, and keep the best few."""
        fresh = dict.fromkeys(row for row in map(tuple, labels.tolist()) if row not in self.known)
        if not fresh:
            return
        self.known |= fresh
        more = torch.tensor(list(fresh))
        lacks, apart = self.client.off(more, 0, DRAWS)
        misfit = likely(apart)
        self.misfits += misfit.tolist()
        every, lacks, off = (
            torch.cat([old, new]) if len(old) else new
            for old, new in ((self.best, more), (self.lacks, lacks), (self.off, misfit))
        )
        kept = off.argsort(stable=True)[:BEAM]
        self.best, self.lacks, self.off = every[kept], lacks[kept], off[kept]

    def changed(self, generator: Generator) -> Tensor:
        """Guesses next to the best ones, a label or two apart (M, B)."""
        found = []
        for row, lacks in zip(self.best, self.lacks, strict=True):
            for _ in range(BEAM * EACH // len(self.best)):
                counts = row.bincount(minlength=len(lacks))
                for _ in range(1 + int(torch.rand((), generator=generator) < SECOND)):
                    spare = (counts - self.least).clamp_min(0)
                    if bool(spare.any()):
                        counts[torch.multinomial(spare * (-lacks).softmax(0), 1, generator=generator)] -= 1
                        counts[torch.multinomial(lacks.softmax(0), 1, generator=generator)] += 1
                found.append(torch.repeat_interleave(torch.arange(len(counts)), counts))
        return torch.stack(found)
