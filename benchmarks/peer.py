"""The ``invertinggradients`` attack of ``breaching`` as a contender, where that package is installed.

It is no dependency of leakaudit: ``pip install --no-deps breaching hydra-core omegaconf antlr4-python3-runtime==4.9.3``
and PyYAML, in an environment of its own or in a folder on ``PYTHONPATH``. Its total variation is the mean over pixels
of both directions together, so that its scale is twice the weight here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.target.target import Target

DEFAULT_ITERATIONS = 24_000
DEFAULT_TV = 0.1
"""Of its shipped configuration, a scale of 0.2 there."""


def missing() -> str:
    """Why the peer cannot be measured, or ""."""
    try:
        _package()
    except ImportError as error:
        return f"breaching is not importable: {error}"
    return ""


def name_and_version() -> str:
    """For the line under a table."""
    return f"breaching {version('breaching')}" if not missing() else "no breaching"


def _package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("breaching")


@dataclass(eq=False)
class Peer:
    """One attack on one observation.

    Args:
        net: The model, over images; the attack runs on its device.
        observation: With labels, which the peer is given.
        iterations: Of its schedule.
        tv_weight: In the units of leakaudit.
    """

    net: Target
    observation: Observation
    iterations: int = DEFAULT_ITERATIONS
    tv_weight: float = DEFAULT_TV

    def __post_init__(self) -> None:
        breaching = _package()
        with contextlib.redirect_stdout(io.StringIO()):
            config = breaching.get_attack_config("invertinggradients")
        config.optim.max_iterations = self.iterations
        config.regularization.total_variation.scale = 2 * self.tv_weight
        module, space = self.net.module, self.net.domain
        assert isinstance(space, Images)
        setup = {"dtype": torch.float, "device": next(module.parameters()).device}
        self._attacker = breaching.attacks.prepare_attack(module, torch.nn.CrossEntropyLoss(), config, setup)
        public = SimpleNamespace(shape=space.shape, mean=space.mean, std=space.std, modality="vision")
        batch = {"num_data_points": self.observation.batch_size, "labels": self.observation.labels}
        state = {"parameters": [p.detach() for p in module.parameters()], "buffers": list(module.buffers())}
        self._payload = [{**state, "metadata": public}]
        update = list(self.observation.update.values())
        self._shared = [{"gradients": update, "buffers": None, "metadata": {**batch, "local_hyperparams": None}}]
        self._models, self._labels, self._stats = self._attacker.prepare_attack(self._payload, self._shared)

    def loop(self, start: Tensor) -> Tensor:
        """Its optimisation loop alone, without setting up and scoring: the best iterate (B, C, H, W).

        Attention runs through the math path, as here: the one that torch chooses by itself has no second derivative.
        """
        with sdpa_kernel(SDPBackend.MATH):
            found: Tensor = self._attacker._run_trial(
                self._models, self._shared, self._labels, self._stats, 0, initial_data=start
            )
        return found
