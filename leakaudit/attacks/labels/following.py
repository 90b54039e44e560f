"""Labels of a language model: its own inputs, shifted by one. Whoever reads a text has them; nothing is inferred."""

from __future__ import annotations

from torch import Generator

from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess


def infer_following(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """Labels without meaning, which stand until a text is read; never looks at the batch.

    Args:
        target: The model, whose task is the next token.
        observation: For the batch size.
        generator: Nothing is drawn.
    """
    labels = target.task.probes(observation.batch_size)
    return LabelGuess(labels, "the labels are the texts themselves, shifted by one", exact=False, assumed=True)
