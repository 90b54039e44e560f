"""What a model's outputs may be: scores of a sample (B, K), or scores at each of its places (B, K, H, W).

Everything else is refused here, with what it looks like: a forecast, a map of another size than the sample, several
heads.
"""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.document.counting import count
from leakaudit.errors import ModelError

MOST_MAPPED = 256
"""Channels of a map that are taken for classes, at most; chosen: ADE20K has 150, COCO-Stuff 182."""
MOST_TAGS = 100
"""The same of token ids; chosen: the smallest hidden states in use have 128 entries."""


def maps(shape: Sequence[int], places: Sequence[int]) -> bool:
    """Whether outputs of one sample (K, *places) or (*places, K) hold scores at each place.

    Args:
        shape: Of the outputs, without the batch axis.
        places: Sizes of the sample's axes beside its channels.
    """
    if not places or len(shape) != len(places) + 1:
        return False
    return tuple(shape[1:]) == tuple(places) or tuple(shape[:-1]) == tuple(places)


def resembles(shape: Sequence[int], native: Sequence[int]) -> bool:
    """Whether outputs may turn out to be scores at each place of inputs of a native shape, channels wherever."""
    sides = [native, native[1:], native[:-1]]
    return any(maps(shape, places) for places in sides)


def check_outputs(
    shape: tuple[int, ...], batch: int, label: str, places: Sequence[int], ids: int = 0, others: Sequence[str] = ()
) -> None:
    """Refuse outputs that are no scores.

    Args:
        shape: Of the outputs, with the batch axis.
        batch: Samples that they are of.
        label: What returns them, for messages.
        places: Sizes of the sample's axes beside its channels.
        ids: How many values an entry of a sample can have; 0 of real numbers.
        others: Names of the file's outputs, where it has several.

    Raises:
        ModelError: Says what they look like.
    """
    if shape[:1] == (batch,) and maps(shape[1:], places):
        channels = shape[1] if shape[2:] == tuple(places) else shape[-1]
        if channels <= (MOST_TAGS if ids else MOST_MAPPED) or channels == ids:
            return
        raise ModelError(
            f"{label} returns shape {list(shape)}, expected one score per class and sample or place: {channels} "
            "numbers at each place are features, not classes",
            "it needs logits" + (f"; choose another output with --output NAME: {', '.join(others)}" if others else ""),
        )
    if len(shape) == 3 and shape[2] == 1 and shape[1] > 1 and shape[0] == batch:
        raise ModelError(
            f"{label} returns shape {list(shape)}: a forecast or one score per position, not one per class",
            "sequence models are not supported yet; if these are classes, take the last axis off in the model",
        )
    if shape[:1] != (batch,) or sum(size > 1 for size in shape[1:]) > 1:
        own = f" or one at each of the {'×'.join(map(str, places))} places of a sample" if len(places) else ""
        raise ModelError(
            f"{label} returns shape {list(shape)} for {count(batch, 'sample')}, expected one score per class and "
            f"sample{own}: detection, and maps of another size than the sample, are not supported",
            "it needs logits (B, K), or (B, K, H, W) of the sample's own size",
        )
