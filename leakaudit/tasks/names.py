"""What tasks and losses are called on the command line; imports nothing, so that its options can be made from here."""

from __future__ import annotations

from typing import Literal, get_args

TaskName = Literal["single-label", "multi-label", "regression"]
LossName = Literal["cross-entropy", "bce", "mse", "l1", "huber"]
NumberLoss = Literal["mse", "l1", "huber"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
LOSSES: tuple[LossName, ...] = get_args(LossName)
NUMBERS: tuple[NumberLoss, ...] = get_args(NumberLoss)
"""Losses of numbers."""
