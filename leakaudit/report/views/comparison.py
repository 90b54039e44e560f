"""An attack beside the one that it extends: median PSNR or SNR, over the victims on which both had all their steps.

A gain over an attack that ran out of time says nothing, so such victims are left out, and named.
"""

from __future__ import annotations

from statistics import median

from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, Comparison, VictimResult
from leakaudit.report.wording import clip, fixed, signed


def comparison_sentence(attack: AttackEntry) -> str:
    """What an attack adds to the one that it extends, and for which victims that cannot be said; "" without one."""
    rival = attack.beside
    if rival is None:
        return ""
    left_out = _left_out(attack, rival)
    whole = [r for r in attack.results if r.victim not in left_out]
    ours = {(r.victim, s.index): s.decibels for r in whole for s in r.samples if s.decibels is not None}
    theirs = {(r.victim, s.index): s.decibels for r in rival.results for s in r.samples if s.decibels is not None}
    both = sorted(ours.keys() & theirs.keys())
    named = "; ".join(f"victim {number}: {why}" for number, why in left_out.items())
    settings = " with the total variation that its own objective chose" if rival.hyperparameters.get("search") else ""
    begin = f"Beside it, {clip(rival.title, 80)}{settings}: "
    if not both or rival.gain is None:
        why = f"not both had all their steps ({clip(named)})" if named else "no sample has a PSNR in both"
        return f"{begin}not compared, since {why}."
    mine, other = median(ours[key] for key in both), median(theirs[key] for key in both)
    tail = f" Left out, since not both had all their steps: {clip(named)}." if named else ""
    return (
        f"{begin}median PSNR {fixed(other, 1)} dB against {fixed(mine, 1)} dB here, over the same "
        f"{count(len(both), 'sample')}; {_added(rival.gain)} in the median.{tail}"
    )


def _added(gain: float) -> str:
    """What an attack adds, or that it takes away."""
    if gain > 0:
        return f"what this attack adds is {signed(gain, 1)} dB"
    return f"this attack adds nothing: it is {fixed(-gain, 1)} dB further off"


def gain_in_short(attack: AttackEntry) -> str:
    """What an attack adds to the one that it extends and what it learnt from, in a few words; "" without one."""
    if attack.beside is None:
        return ""
    over = clip(attack.beside.title, 80)
    gain = attack.beside.gain
    adds = f"not compared with {over}" if gain is None else f"{signed(gain, 1)} dB over {over} in the median"
    light = ", tried in passing with less effort" if attack.in_passing else ""
    learnt = "" if attack.auxiliary is None else f"; learnt from {clip(attack.auxiliary.told)}"
    return f"{adds}{light}{learnt}"


def _left_out(attack: AttackEntry, rival: Comparison) -> dict[int, str]:
    """Why the victims that cannot be compared cannot, by number."""
    beside = {result.victim: result for result in rival.results}
    found: dict[int, str] = {}
    for result in attack.results:
        other = beside.get(result.victim)
        if cut := _cut(result):
            found[result.victim] = f"{attack.name}, {cut}"
        elif other is None:
            found[result.victim] = f"{rival.name}, {rival.reason or 'not run'}"
        elif cut := _cut(other):
            found[result.victim] = f"{rival.name}, {cut}"
    return found


def _cut(result: VictimResult) -> str:
    """What a run had less of than its settings say, that which stopped it before others; "" where it had all."""
    return next((cut.told for cut in sorted(result.cuts, key=lambda cut: not cut.stopped)), "")
