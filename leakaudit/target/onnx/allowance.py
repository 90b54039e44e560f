"""How much memory a graph may ask for: what its own weights justify, and what every network may have.

A graph of a few bytes can ask for any amount: by a shape in ConstantOfShape, Expand, Tile, Pad, Resize or Range, by the
padding of a convolution, or by the declared size of its input. All sizes are known before anything is computed, because
a graph is traced with tensors without values (`leakaudit.target.onnx.tracer`), so they are added up first.

| what | limit |
|---|---|
| nodes, local functions expanded | :data:`leakaudit.target.onnx.read.MAX_NODES` |
| constants that are made of a few bytes | :data:`MADE`, together |
| one sample of the input, and a batch of the file's size | :data:`SAMPLE`, :data:`BATCH` |
| results of all nodes for one sample | :data:`RESULTS`, and :data:`PER_WEIGHT` times the weights |
| those of a batch of the file's size | as much for each of :data:`FIXED` samples at most |

All limits are far above those of mainstream models, and are lifted by ``--trust``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from leakaudit.errors import ModelError
from leakaudit.safety.confined import grant

MADE = 640 << 20
"""Bytes of constants that a graph may make; chosen: a VGG-19 whose weights are ConstantOfShape nodes has 548 MiB."""
MADE_COPIES, RESULT_COPIES = 8, 2
"""How often what is allowed may stand in memory: weights as arrays, in the module, in the reference implementation, and
three gradients of them; results kept for a gradient, in every trace; chosen."""
SAMPLE = 64 << 20
"""Bytes of one sample; chosen: 2048 × 2048 pixels in colour have 48 MiB."""
BATCH = 8 * SAMPLE
"""Bytes of a batch of the size that the file asks for; chosen: 256 images of 3 × 224 × 224 have 147 MiB."""
RESULTS = 512 << 20
"""Bytes of all results of nodes for one sample; chosen, DenseNet-121 at 224 × 224 has about 300 MiB."""
PER_WEIGHT = 64
"""Bytes of results for each byte of weights; chosen, a few times what an input of 1024 × 1024 makes of ResNet-50."""
FIXED = 8
"""Samples of a batch whose size the file decides that justify results; chosen: what MobileNetV2 at 224 × 224 needs for
a batch of 64, and no more, since nobody but the file asks for them."""
WAY_OUT = "the file is damaged or hostile; if you made it, pass --trust"


class Allowance:
    """What is left to a graph.

    Args:
        most: Bytes.
        what: Of what, for the message.
        trusted: The caller vouches for the file, so nothing is refused.
        copies: How many times the bytes a child may have in memory for them.
    """

    def __init__(self, most: int, what: str, trusted: bool = False, copies: int = 0) -> None:
        self.most, self.what, self.trusted, self.copies, self.taken = most, what, trusted, copies, 0

    def take(self, size: int, where: str) -> None:
        """Count bytes that are about to be asked for.

        Raises:
            ModelError: Together they are too many.
        """
        self.taken += size
        if self.taken > self.most and not self.trusted:
            raise ModelError(
                f"{where} brings {self.what} to {self.taken} bytes, more than the {self.most} that the file justifies",
                WAY_OUT,
            )
        grant(self.copies * size)


def made(trusted: bool = False) -> Allowance:
    """For constants that a graph makes."""
    return Allowance(MADE, "the constants that the graph makes", trusted, MADE_COPIES)


def results(weights: int, samples: int, trusted: bool = False, *, asked_by_file: bool = False) -> Allowance:
    """For the results of nodes.

    Args:
        weights: Bytes of the tensors of the file.
        samples: For how many samples.
        trusted: Whether the caller vouches for the file.
        asked_by_file: Whether the file says how many samples those are; then they justify no more than
            :data:`FIXED` do.
    """
    counted = min(samples, FIXED) if asked_by_file else samples
    return Allowance(
        (RESULTS + PER_WEIGHT * weights) * max(1, counted), "the results of its nodes", trusted, RESULT_COPIES
    )


def check_input(shape: Sequence[int], samples: int, name: str, trusted: bool = False) -> None:
    """Refuse an input that is too large, before one is made.

    Args:
        shape: Of a sample; its entries have four bytes.
        samples: That the file asks for at least.
        name: Of the input.
        trusted: Whether the caller vouches for the file.

    Raises:
        ModelError: A sample is too large, or as many samples are.
    """
    size = 4 * math.prod(shape)
    Allowance(SAMPLE, "a sample", trusted).take(size, f"input {name!r}")
    Allowance(BATCH, f"a batch of {samples}", trusted).take(size * samples, f"input {name!r}")
