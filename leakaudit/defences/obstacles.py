"""When a mechanism's guarantee does not hold for what a client shares: no bound is better than a false one.

A guarantee is a theorem about a mechanism: every sample changes the update by so much at most, noise of such a size is
added, and nothing else is shared. The theorem says nothing where one of its premises fails:

* samples are **coupled**: a layer (BatchNorm that normalises with the batch) lets one sample change the gradients of
  the others, so clipping each of them bounds nothing. Opacus refuses such models for the same reason (Yousefpour et al.
  2021, arXiv 2109.12298);
* something is shared **beside** the update without noise, such as BatchNorm statistics;
* a later defence looks at the samples **again**, so that what it adds is no post-processing (Dwork and Roth 2014,
  doi 10.1561/0400000042, proposition 2.1);
* the update itself **refutes** the mechanism: a check of it, or of what the client claims, failed;
* a recorded update was **not checked** at all.

Here stands what holds for every defence that has a guarantee; what only one can know is its `Defence.obstacle`.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakaudit.protocols.base import Protocol


@dataclass(frozen=True)
class Circumstances:
    """What a guarantee is to hold under.

    Args:
        batch_size: Samples behind one update.
        coupled: Layers through which samples of a batch change each other's gradients, or what stands for them.
        beside: What is shared un-noised beside the update, in words.
        again: Defences that act later and look at the samples again.
        recorded: Whether a real client's update is audited, which only the checks say anything about.
        unchecked: Why the update was not held against the defence, or "".
        failed: Properties that the defence, or a claim, says the update has, and that it does not have.
        protocol: How the update is made, defences included; ``None`` for one gradient of the samples.
        entries: Of the trainable tensors; 0 where that is not known.
        scalars: Trainable tensors that are a single number without an axis.
    """

    batch_size: int
    coupled: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    recorded: bool = False
    unchecked: str = ""
    failed: tuple[str, ...] = ()
    protocol: Protocol | None = None
    entries: int = 0
    scalars: tuple[str, ...] = ()


def obstacle(circumstances: Circumstances) -> str:
    """Why no guarantee holds here, in words; empty where nothing stands against one."""
    if circumstances.failed:
        return f"the update is not what was claimed: {_some(circumstances.failed)} (LA501)"
    if circumstances.beside:
        return f"shared beside the update without noise: {_some(circumstances.beside)}"
    if circumstances.coupled:
        return (
            f"samples of a batch are coupled by {_some(circumstances.coupled)}, so one of them changes what the others "
            "give: use GroupNorm, freeze BatchNorm (batchnorm = running), or train in eval mode"
        )
    if circumstances.again:
        return f"after the noise was added the samples are looked at again by {_some(circumstances.again)}"
    if circumstances.recorded and circumstances.unchecked:
        return f"the recorded update was not held against it: {circumstances.unchecked}"
    return ""


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
