"""Whether a shared update looks like the defence that its client believes in.

A filter that is configured but not applied, applied to the wrong tensors, or applied before a step that undoes it, is
the most common way for a defence to fail. For the auditor, who computes the undefended update too, that is plain to
see: each defence names the properties that it gives every update (`Defence.check`), and they are measured.
"""

from __future__ import annotations

from leakaudit.defences.base import ClientStep, Defence
from leakaudit.defences.evidence import Check, Tensors, flat

SAME, SAME_NORM = 0.999, 0.01
"""Least cosine and largest relative difference of norms of two computations of the same update; chosen, not measured.
"""

DECAYED = 0.1
"""Largest share of the difference between two updates that may be no multiple of the weights; chosen."""


def check_claim(claim: Defence, step: ClientStep, raw: Tensors, shared: Tensors) -> list[Check]:
    """Compare a shared update with what a defence should make of the undefended one.

    Args:
        claim: What the client believes is applied, and nothing else.
        step: The samples behind the update.
        raw: The undefended update.
        shared: What the client shares.
    """
    return [*claim.check_step(step, raw, shared), _resemblance(raw, shared)]


def check_undefended(raw: Tensors, shared: Tensors, *, judged: bool = True) -> list[Check]:
    """Compare a recorded update with the one computed from the samples that are said to be behind it.

    Args:
        raw: The computed update.
        shared: The recorded one.
        judged: Whether all that the client drew is known, so that the two must agree.
    """
    names = [name for name in raw if name in shared]
    ratio = float(flat(shared, names).norm() / flat(raw, names).norm().clamp_min(1e-300))
    count = Check("shared tensors", str(len(raw)), str(len(names)), len(names) == len(raw))
    cosine = _cosine(raw, shared)
    if not judged:
        unknown = "not judged: what the client drew or chose is not known"
        return [
            count,
            Check("norm over that of the computed update", unknown, f"{ratio:.4g}", True),
            Check("cosine with the computed update", unknown, f"{cosine:.4f}", True),
        ]
    return [
        count,
        Check("norm over that of the computed update", "1", f"{ratio:.4g}", abs(ratio - 1) <= SAME_NORM),
        Check("cosine with the computed update", f"at least {SAME:g}", f"{cosine:.4f}", cosine >= SAME),
    ]


def check_decay(raw: Tensors, shared: Tensors, weights: Tensors) -> list[Check]:
    """Whether what a recorded update has beside the computed one is a multiple of the weights: weight decay.

    Args:
        raw: The undefended update.
        shared: What the client shared.
        weights: The model's, by the same names.

    Returns:
        A check that fails and names the multiple, or nothing.
    """
    names = [name for name in raw if name in shared]
    own = flat(weights, names)
    beside = flat(shared, names) - flat(raw, names)
    rate = float(beside @ own / (own @ own).clamp_min(1e-300))
    small = float(beside.norm()) <= SAME_NORM * float(flat(raw, names).norm())
    if small or rate <= 0 or float((beside - rate * own).norm()) > DECAYED * float(beside.norm()):
        return []
    return [Check("weight decay left in the update", "none", f"{rate:.4g}: pass --weight-decay {rate:.4g}", False)]


def _resemblance(raw: Tensors, shared: Tensors) -> Check:
    """A defence that changes the update leaves a cosine below 1; stated, not judged."""
    return Check("cosine with the undefended update", "-", f"{_cosine(raw, shared):.4f}", True)


def _cosine(raw: Tensors, shared: Tensors) -> float:
    """Over the tensors that both have."""
    names = [name for name in raw if name in shared]
    a, b = flat(raw, names), flat(shared, names)
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
