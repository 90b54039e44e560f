r"""The scale of an update whose client trained at a rate, or in a number of steps, that nobody knows.

With g the bias gradient in units that are off by an unknown factor s, class shares are
:math:`\nu_k = \bar p_k - g_k / s`. None is below zero, and a class that no sample has is at zero, so

.. math:: s = \max_k\; g_k / \bar p_k

is the scale as long as a class is missing, which holds for batches below the number of classes. For larger ones with
all classes it is too small, and the counts are too even by as much.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from leakaudit.observation import Observation

LEAST = 1e-12
"""Prediction that stands for zero; chosen."""


def scaled(observation: Observation, signal: Tensor, prediction: Tensor) -> Observation:
    """The observation with an update in units of a gradient, as far as classes that are missing tell them.

    Args:
        observation: With an update of unknown scale.
        signal: Entries of the last layer's bias gradient, or of what stands for it (K,).
        prediction: Mean prediction of look-alikes (K,).
    """
    scale = float((signal.double().cpu() / prediction.double().cpu().clamp_min(LEAST)).max())
    if not scale > 0:
        return observation
    return replace(observation, update={name: tensor / scale for name, tensor in observation.update.items()})
