"""The verdict: at least (what the attacks showed), at most (only with an accounted defence), assumed.

Status words, the strongest first; there is none that says "safe":

=========================== ==========================================================================================
``LEAKS (certified)``       A reconstruction proves itself without the private samples.
``LEAKS (measured)``        A reconstruction beats the floors and re-identifies its sample.
``BOUNDED``                 Nothing shown, and an accounted random defence bounds what any attack can show.
``NOT SHOWN (budget)``      Attacks that work with what they ran here (`leakaudit.findings.effort`) did not show a leak.
``NOT APPLICABLE (reason)`` No attack applies to this model and protocol, or the threat model allows none.
``INCONCLUSIVE``            Nothing shown, by attacks that do not work here either, ran too little, or did not run.
=========================== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from leakaudit.document.schema import (
    AttackEntry,
    DefenceEntry,
    FindingEntry,
    SampleResult,
    Verdict,
    VictimResult,
)
from leakaudit.document.status import RunStatus, VerdictStatus
from leakaudit.document.threat_models import ATTACKER, held
from leakaudit.findings import SEVERITIES, Evidence, samples_of
from leakaudit.findings.effort import efforts, listed
from leakaudit.findings.ladder import told
from leakaudit.findings.rules.fidelity import departures
from leakaudit.report.domains import card_type
from leakaudit.report.views.defence_facts import VACUOUS, at_most, bound_in_short, weakest
from leakaudit.scoring.interval import FEWEST_FOR_INTERVAL, leak_interval

CONFIDENCES = ("certified", "measured", "estimated")
"""How findings are known, the best first."""
NO_UPPER_BOUND = "No upper bound. Failure of these attacks is not evidence of safety."


def conclude(evidence: Evidence, findings: Sequence[FindingEntry], preset: str) -> Verdict:
    """Combine evidence and findings into the three statements. Never says "safe"."""
    scored, card = samples_of(evidence.attacks), card_type(evidence.target)
    leaks = [(a, v, s) for a, v, s in scored if s.leaked]
    attacked, hit = len({s.index for _, _, s in scored}), len({s.index for _, _, s in leaks})
    armed = _armed(leaks)
    if leaks:
        certified = any(v.certified or s.proved for _, v, s in leaks)
        code = VerdictStatus.LEAKS_CERTIFIED if certified else VerdictStatus.LEAKS_MEASURED
        reason = ""
        headline = card.headline([s for _, _, s in leaks], attacked)
        if armed.samples == hit:
            headline += f", by an attacker who also holds {armed.told}"
    else:
        code, reason, headline = _not_shown(evidence, preset)
    clients = _clients(evidence, leaks)
    worst = min(findings, key=_gravity, default=None)
    interval = leak_interval(hit, attacked)
    return Verdict(
        status=f"{code} ({reason})" if reason else str(code),
        code=code,
        severity=worst.severity if worst else "none",
        confidence=worst.confidence if worst and not departures(evidence.target.fidelity) else "estimated",
        headline=headline,
        at_least=_at_least(
            evidence.attacks,
            list(dict.fromkeys(a.title for a, _, _ in leaks)),
            attacked,
            hit,
            how=card.manner([s for _, _, s in leaks]),
            clients=clients,
            scored=all(s.scored for _, _, s in scored),
            armed=armed,
        )
        + told(evidence, leaked=bool(leaks)),
        at_most=_at_most(evidence.defences),
        assumed=_assumptions(evidence, preset),
        samples_leaked=hit,
        samples_attacked=attacked,
        interval=None if interval is None else list(interval),
        interval_reason="" if interval else f"an interval needs at least {FEWEST_FOR_INTERVAL} samples",
        clients_leaked=clients.leaked,
        clients_attacked=clients.attacked,
        clients_interval=None if clients.interval is None else list(clients.interval),
    )


def _gravity(finding: FindingEntry) -> tuple[int, int]:
    """The most severe first, of equally severe ones that which is known best."""
    return SEVERITIES.index(finding.severity), CONFIDENCES.index(finding.confidence)


class _Clients(NamedTuple):
    """Victims with a leak, of all attacked, and the interval of their share where each is a recorded round."""

    leaked: int
    attacked: int
    interval: tuple[float, float] | None = None

    @property
    def told(self) -> str:
        """A sentence, where there is an interval."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return f" Of {self.attacked} rounds {self.leaked} leak a sample: a share of {low:.0%} to {high:.0%} (95 %)."


class _Armed(NamedTuple):
    """How many samples leaked to an attacker with samples of its own alone, and what these are."""

    samples: int
    told: str = ""

    @property
    def sentence(self) -> str:
        """Whom the verdict is about, where it is not the update alone."""
        return f" {self.samples} of them only to an attacker who also holds {self.told}." if self.samples else ""


def _armed(leaks: Sequence[tuple[AttackEntry, VictimResult, SampleResult]]) -> _Armed:
    """Of the leaks, those that need samples which not everybody has; generated ones everybody does."""
    alone = {s.index for a, _, s in leaks if not (a.auxiliary and a.auxiliary.rare)}
    needed = {s.index: a.auxiliary.told for a, _, s in leaks if a.auxiliary and s.index not in alone}
    return _Armed(len(needed), next(iter(needed.values()), ""))


def _clients(evidence: Evidence, leaks: Sequence[tuple[AttackEntry, VictimResult, SampleResult]]) -> _Clients:
    attacked = len({v.victim for _, v, _ in samples_of(evidence.attacks)})
    leaked = len({v.victim for _, v, _ in leaks})
    several = len(evidence.protocol.rounds) > 1
    return _Clients(leaked, attacked, leak_interval(leaked, attacked) if several else None)


def _not_shown(evidence: Evidence, preset: str) -> tuple[VerdictStatus, str, str]:
    """Status, the reason that stands with it, and headline where nothing leaked."""
    bounds = [d.accounting for d in evidence.defences if d.accounting and weakest(d.accounting) <= VACUOUS]
    if bounds:
        bound = bound_in_short(min(bounds, key=weakest))
        return VerdictStatus.BOUNDED, "", f"No reconstruction was shown, and a {bound}"
    if not samples_of(evidence.attacks):
        return _nothing_ran(evidence)
    scored = samples_of(evidence.attacks)
    unscored = len({s.index for _, _, s in scored if not s.scored})
    if unscored:
        total = len({s.index for _, _, s in scored})
        why = (
            f"{unscored} of {total} samples are nobody's to compare with, and no attack's own check proves any of them"
        )
        return VerdictStatus.INCONCLUSIVE, "", f"Nothing was proved: {why}"
    tried = efforts(evidence)
    weak = [effort for effort in tried if effort.counts]
    if not weak and all(effort.missing for effort in tried):
        weak = tried
    if weak:
        why = "; ".join(f"{effort.told}, and {effort.missing}" for effort in weak)
        return VerdictStatus.INCONCLUSIVE, "", f"Nothing was shown, which says little: {why}"
    return VerdictStatus.NOT_SHOWN, "", f"No reconstruction was shown with the {preset!r} budget: {listed(tried)}"


def _nothing_ran(evidence: Evidence) -> tuple[VerdictStatus, str, str]:
    real = [a for a in evidence.attacks if not a.upper_bound]
    stopped = [a for a in real if a.status is RunStatus.NOT_RUN and a.cut]
    refused = [a for a in real if a.status is RunStatus.NOT_APPLICABLE]
    if stopped or evidence.partial or not real:
        return VerdictStatus.INCONCLUSIVE, "", "No attack ran, so nothing was shown"
    why = refused[0].reason if len(refused) == 1 else "no attack applies; the ledger says why for each"
    if not refused:
        why = "the threat model allows none of the attacks"
    return VerdictStatus.NOT_APPLICABLE, why, "No attack applies, so nothing was shown"


def _at_least(
    attacks: Sequence[AttackEntry],
    leaking: Sequence[str],
    attacked: int,
    hit: int,
    *,
    how: str,
    clients: _Clients,
    scored: bool,
    armed: _Armed,
) -> str:
    ran = [a.title for a in attacks if a.status is RunStatus.RUN and not a.upper_bound]
    if not ran:
        return "Nothing: no attack ran."
    if not leaking:
        samples = "the sample" if attacked == 1 else f"any of the {attacked} samples"
        if not scored:
            return (
                f"Nothing is proved: what {', '.join(ran)} made of {samples} could not be compared with the originals."
            )
        return f"Nothing beyond the labels: {', '.join(ran)} did not lift {samples} clearly above the floors."
    alone = armed.samples < hit
    given = f"from the update, the model and the batch size{' alone' if alone else ''}"
    interval = leak_interval(hit, attacked)
    share = f" The share of samples that leak is {interval[0]:.0%} to {interval[1]:.0%} (95 %)." if interval else ""
    return f"{hit} of {attacked} samples, {how} by {', '.join(leaking)} {given}.{armed.sentence}{share}{clients.told}"


def _at_most(defences: Sequence[DefenceEntry]) -> str:
    """The bound of an accounted random defence; of several, each holds, since what follows one cannot weaken it."""
    bounds = [at_most(d.accounting) for d in defences if d.accounting]
    withheld = [f"{d.text} has {d.accounting_reason}." for d in defences if d.withheld]
    return " ".join(bounds or [NO_UPPER_BOUND, *withheld])


def _assumptions(evidence: Evidence, preset: str) -> list[str]:
    protocol = evidence.protocol
    letter = max(
        (a.threat_model for a in evidence.attacks if a.status is RunStatus.RUN and not a.upper_bound), default="B"
    )
    learnt = next((a.auxiliary for a in evidence.attacks if a.auxiliary and a.status is RunStatus.RUN), None)
    has = held(letter, detailed=True, similar="" if learnt is None else learnt.told)
    controls = "" if evidence.controls else " No controls were run, so confidence is capped."
    return [
        *(f"The audited network may not be the client's: {n.message}." for n in departures(evidence.target.fidelity)),
        f"Threat model {letter}: {ATTACKER} that has {has}.",
        *([protocol.assumption] if protocol.assumption else []),
        "Labels are inferred from the update, not given.",
        f"Budget: preset {preset!r}; a stronger or longer attack may recover more.{controls}",
        "The weights are those in the file; leakage changes during training.",
    ]
