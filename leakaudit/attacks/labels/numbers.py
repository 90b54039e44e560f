r"""Labels that are numbers: what an update tells of them is the error at the outputs, not the number.

The last layer's bias gradient is the mean of :math:`\rho'(z_i - y_i) / D` over the batch. Of one sample that is its own
error, exactly, and the number follows from the output once an attack has found the input
(`leakaudit.tasks.regression.Regression.behind`). Until then it is estimated with the mean output of look-alikes. Of a
batch only the mean error is known: the numbers are unknowns beside the inputs.
"""

from __future__ import annotations

from torch import Generator

from leakaudit.attacks.labels.head import find_head, last_layer_signal
from leakaudit.observation import Observation
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess


def infer_numbers(target: Target, observation: Observation, generator: Generator) -> LabelGuess:
    """The error at the outputs of one sample, or where the numbers of a batch begin; never looks at the batch.

    Args:
        target: The model, whose task is of numbers.
        observation: The update and the batch size.
        generator: CPU generator of the probe samples whose mean output stands for the unknown one.
    """
    head, size = find_head(target, observation, generator), observation.batch_size
    signal, exact = last_layer_signal(observation, head, one_class=False)
    likely = head.logits.detach().mean(0, keepdim=True)
    if signal is None:
        start = likely.expand(size, -1).cpu().clone()
        return LabelGuess(start, "no linear last layer found: the mean output assumed", False, assumed=True, open=True)
    errors = signal.detach().reshape(1, -1)
    start = target.task.behind(likely, errors.to(likely)).expand(size, -1).cpu().clone()
    if size > 1:
        how = "only the mean error of the batch is in the update: numbers are found beside the inputs"
        return LabelGuess(start, how, exact=False, assumed=True, open=True)
    plain = exact and observation.plain and not observation.rescaled and observation.protocol.one_gradient
    how = "the last layer's error, from the output of the reconstruction"
    return LabelGuess(start, how, exact=plain, errors=errors if plain else None, open=not plain)
