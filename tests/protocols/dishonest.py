"""The seam for another client: a protocol tells a client's play, which has an order, from a guess, which has none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from leakaudit import FedSGD, Play, Target
from leakaudit.protocols.base import Update
from tests.conftest import smooth_images


@dataclass(frozen=True)
class OtherSamples(FedSGD):
    """A client of `smooth_images` that shares the gradient of other ones; who has other samples is honest."""

    count: int = 20
    seed: int = 77

    def order(self, generator: Generator, samples: int) -> Tensor:
        return torch.arange(samples)[None]

    def update(self, target: Target, play: Play, **how: Any) -> Update:
        if play.order is not None and self._owns(target.domain.decode(play.inputs)):
            others = torch.from_numpy(smooth_images(len(play.inputs), seed=self.seed))
            play = replace(play, inputs=target.domain.encode(others))
        return super().update(target, replace(play, order=None), **how)

    def _owns(self, images: Tensor) -> bool:
        own = torch.from_numpy(smooth_images(self.count)).flatten(1)
        return bool((torch.cdist(images.flatten(1), own).amin(1) < 1e-3).all())
