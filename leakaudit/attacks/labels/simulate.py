r"""Class counts from a client that is simulated on look-alikes, until its last layer learns what the client's learnt.

Where a few steps swing the predictions from class to class (an untrained network of sigmoids, whose features are large
and nearly the same for every image), what a mean prediction was in every step depends on the labels themselves, and on
what all layers learnt of them. But it hardly depends on the images. So the local training is run on images with the
spectrum of photographs (1/f noise) under guessed labels, and the counts are those whose bias gradient is nearest to the
observed one: with the true ones it is off by less than half a sample, with one label changed by a whole one
(`benchmarks/results/local_steps.md`).

The search goes from the counts of a fit to those that differ by a label or two, the likelier the more a class is
over- or underrepresented, and goes on from the best few. All guesses are averaged in the end, each by how well it
explains the update. Only for small networks with such features, and where every step visits all samples: how these
share the steps otherwise adds more unknowns than the update has numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from leakaudit.attacks.reading.first_layer import masks_unknown
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.target.size import is_small
from leakaudit.target.target import Target

ROUNDS, BEAM, EACH = 12, 6, 8
"""Rounds of the search, guesses that it goes on from, and changes of each; chosen, and what
`benchmarks/results/local_steps.md` was measured with."""
DRAWS = 3
"""Batches of look-alikes whose updates are averaged; chosen, as ROUNDS."""
SECOND = 0.3
"""Chance of a second changed label; chosen, as ROUNDS."""
OFF = 0.3
"""Samples by which the true counts' update is off, one standard deviation, for the average; chosen, as ROUNDS."""
ALIKE = 0.15
"""Mean squared deviation of features over the square of their mean, below which all images look alike to the last
layer; chosen between the 0.06 to 0.08 of a LeNet of sigmoids and the 0.4 to 1.4 of a ConvNet."""
MOST_STEPS = 7000
"""Local steps that are simulated in all; chosen: five seconds on that LeNet."""


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
    return whole and plain and alike and not masks_unknown(target, observation) and is_small(target)


def simulated_shares(
    target: Target, observation: Observation, bias: str, guess: Tensor, generator: Generator
) -> Tensor | None:
    """Class shares (K,) whose simulated training changes the last layer's bias as the client's did.

    ``None`` for a model that cannot be run on several guesses at once, and where one round takes too many steps.

    Args:
        target: With the weights before the first step.
        observation: The update.
        bias: Name of the last layer's bias.
        guess: Labels to begin with (B,).
        generator: CPU generator of look-alikes and changes.
    """
    rounds = min(ROUNDS, MOST_STEPS // (BEAM * EACH * DRAWS * observation.protocol.steps))
    if rounds == 0:
        return None
    size = len(guess)
    like = next(iter(target.parameters.values()))
    drawn = [observation.domain.look_alikes(size, generator).to(like) for _ in range(DRAWS)]
    run = _Search(target, observation, bias, drawn)
    begun = guess.sort().values[None]
    try:
        run.tries(begun)
    except RuntimeError:  # torch: no rule for an operator, or one that writes in place
        return None
    for _ in range(rounds):
        run.tries(run.changed(generator))
    return run.shares()


@dataclass(eq=False)
class _Search:
    """Guesses that were simulated, the best first."""

    target: Target
    observation: Observation
    bias: str
    images: list[Tensor]
    known: set[tuple[int, ...]] = field(default_factory=set)
    best: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    excess: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    tried: list[tuple[float, Tensor]] = field(default_factory=list)

    def shares(self) -> Tensor:
        """Of all guesses, by how well they explain the update (K,)."""
        misfit = torch.tensor([off for off, _ in self.tried], dtype=torch.float64)
        weight = (-misfit / (2 * OFF**2)).softmax(0)
        counts = torch.stack([counts for _, counts in self.tried])
        return weight @ counts / counts[0].sum()

    def tries(self, labels: Tensor) -> None:
        """Simulate guesses (M, B) that are new, and keep the best few."""
        fresh = []
        for row in labels:
            key = tuple(row.tolist())
            if key not in self.known:
                self.known.add(key)
                fresh.append(row)
        if not fresh:
            return
        more = torch.stack(fresh)
        excess = self.lacking(more)
        counts = torch.nn.functional.one_hot(more, self.target.classes).sum(1).double()
        self.tried += zip(excess.square().sum(1).tolist(), counts, strict=True)
        every = torch.cat([self.best, more]) if len(self.best) else more
        off = torch.cat([self.excess, excess]) if len(self.excess) else excess
        kept = off.square().sum(1).argsort(stable=True)[:BEAM]
        self.best, self.excess = every[kept], off[kept]

    def lacking(self, labels: Tensor) -> Tensor:
        """How many samples of a class each guess lacks, by its simulated bias gradient (M, K)."""
        classes = self.target.classes
        soft = torch.nn.functional.one_hot(labels, classes).to(self.images[0])
        protocol, total = self.observation.protocol, torch.zeros(())
        for images in self.images:

            def update(own: Tensor, images: Tensor = images) -> Tensor:
                return protocol.update(self.target, Play(images, own), functional=True)[self.bias].flatten()

            total = total + torch.func.vmap(update)(soft).detach().double().cpu()
        observed = self.observation.update[self.bias].flatten().double().cpu()
        return labels.shape[1] * (total / len(self.images) - observed)

    def changed(self, generator: Generator) -> Tensor:
        """Guesses next to the best ones, a label or two apart (M, B)."""
        found = []
        for row, excess in zip(self.best, self.excess, strict=True):
            for _ in range(BEAM * EACH // len(self.best)):
                other = row.clone()
                for _ in range(1 + int(torch.rand((), generator=generator) < SECOND)):
                    place = torch.multinomial((-excess[other]).softmax(0), 1, generator=generator)
                    other[place] = torch.multinomial(excess.softmax(0), 1, generator=generator)
                found.append(other.sort().values)
        return torch.stack(found)
