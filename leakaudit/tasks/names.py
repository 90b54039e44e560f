"""What tasks and losses are called on the command line; imports nothing, so that its options can be made from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

TaskName = Literal["single-label", "multi-label", "regression", "segmentation", "next-token"]
LossName = Literal["cross-entropy", "focal", "bce", "mse", "l1", "huber", "dice", "dice-ce"]
NumberLoss = Literal["mse", "l1", "huber"]
PlaceLoss = Literal["cross-entropy", "dice", "dice-ce"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
LOSSES: tuple[LossName, ...] = get_args(LossName)
NUMBERS: tuple[NumberLoss, ...] = get_args(NumberLoss)
"""Losses of numbers."""
PLACES: tuple[LossName, ...] = ("dice", "dice-ce")
"""Losses of a class per place alone."""
SETTINGS: Mapping[LossName, tuple[str, ...]] = {
    "cross-entropy": ("smoothing", "weights"),
    "focal": ("gamma", "weights"),
    "bce": ("pos_weight",),
    "mse": (),
    "l1": (),
    "huber": ("delta",),
    "dice": (),
    "dice-ce": ("smoothing", "weights"),
}
"""What can be set of each loss."""
