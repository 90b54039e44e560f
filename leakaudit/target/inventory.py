"""The layers of a model, whatever file it came from.

Claim: every operator between input and logits appears as one `Layer` with its shapes, the names of its tensors and the
layers that feed it. Views are merged, weights that arrive transposed are traced to their parameter, constants (input
normalisation) are told from trainable tensors, and exported decompositions of activations are put together again.

What is not known has the kind ``other`` and the operator's name in ``settings["operator"]``; nothing is guessed.
Fails with `TraceError` where the model cannot be recorded, see `leakaudit.target.trace`.
"""

from __future__ import annotations

from torch import fx

from leakaudit.target.kinds import Layer
from leakaudit.target.layers import Builder
from leakaudit.target.target import Target
from leakaudit.target.trace import Trace, trace


def inventory(target: Target) -> tuple[Layer, ...]:
    """The layers of ``target`` in order of execution, in the mode (train or eval) that its module is in.

    Raises:
        TraceError: The model's operators cannot be recorded; the message names the operator.
    """
    return layers_of(trace(target))


def layers_of(recorded: Trace) -> tuple[Layer, ...]:
    """The layers of a recorded trace."""
    layers, _ = Builder(recorded).build()
    return layers


def layers_and_outputs(recorded: Trace) -> tuple[tuple[Layer, ...], dict[int, fx.Node]]:
    """The layers, and the node of the trace that is each one's output."""
    return Builder(recorded).build()
