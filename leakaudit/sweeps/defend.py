"""Measure defences on the user's own model: attack each setting, train with it, name the cheapest that is enough.

::

    for each setting: audit with the defence (the attacker knows it) ─▶ best reconstruction, samples leaked, interval
                      train with the defended update                ─▶ loss and accuracy beside the undefended ones
    settings that meet the goal, cheapest first ─▶ stronger audit, another seed  ─▶ recommended if it still holds

A recommendation is a measurement with these attacks, this budget and these samples; only clipping with accounted noise
also has a bound, printed beside it. Every audit is a cell of a sweep (`leakaudit.sweeps.audits`), so workers can share
them and a store keeps them; results of attacks are in the cache, so an interrupted run goes on where it was either way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from leakaudit.attacks.registry import available
from leakaudit.audit.cache import Cache
from leakaudit.audit.intake import Material, read_material, settled
from leakaudit.audit.memory import Memory
from leakaudit.audit.pipeline import audit
from leakaudit.audit.request import Request
from leakaudit.client.batch import Batch
from leakaudit.defences.base import Defence
from leakaudit.defences.registry import default_grid
from leakaudit.defences.spec import parse_defence
from leakaudit.document.schema import DefenceTrial
from leakaudit.document.status import ControlStatus, RunStatus
from leakaudit.errors import AuditError, LeakauditError, UsageError
from leakaudit.findings import closest, samples_of
from leakaudit.findings.effort import starved
from leakaudit.matching.settings import MatchSettings
from leakaudit.observer import Observer, SilentObserver
from leakaudit.protocols.base import Protocol
from leakaudit.report.saving import Report
from leakaudit.scoring.base import specs_of
from leakaudit.scoring.interval import leak_interval
from leakaudit.sweeps.audits import Audits, Outcome
from leakaudit.sweeps.goal import Goal
from leakaudit.sweeps.request import DefendRequest, TrainingPlan
from leakaudit.sweeps.run import Running
from leakaudit.sweeps.utility import Utility, train
from leakaudit.target.target import Target

VICTIMS = 2
"""Independent batches per setting where the user names no number; chosen for time."""
CONFIRMING = 1000
"""Iterations of the scan that confirms a recommendation, where the sweep was quick; chosen for time."""
UNDEFENDED = "no defence"
LAME = "the attacks do not recover what is known to leak, so what they miss says nothing"
GOES_ON = "The same command goes on from here."
_UNFINISHED = f"Interrupted on the undefended model. {GOES_ON}"
SECOND_SEED = 1_000_003
"""Added to the seed for the scan that confirms a recommendation; chosen, far from the seeds that users take."""


def defend(
    target: Target,
    samples: Batch,
    request: DefendRequest,
    *,
    utility: Batch | None = None,
    observer: Observer | None = None,
    running: Running | None = None,
    store: str | Path | None = None,
) -> Report:
    """Audit the undefended model, then every setting of the grid.

    Args:
        target: The model, with the client's normalisation.
        samples: Private samples.
        request: Grid, goal, and how each setting is audited.
        utility: Samples to train and evaluate with; default those of the batch file.
        observer: Told the progress.
        running: Where the audits run; by default one after the other in this process. Training is done here.
        store: Folder or URL that keeps them; by default they are not kept.

    Returns:
        The report of the undefended model, with the trials and the recommendation.

    Raises:
        UsageError: A setting that cannot be parsed, a request that does not fit the samples, or a runner or store that
            cannot be used.
    """
    observer = observer or SilentObserver()
    started = time.monotonic()
    sweep = _sweep(target, samples, request, utility or samples, observer)
    protocol = sweep.request.protocol
    grid = request.grid or tuple(
        text for text in default_grid(max(protocol.step_sizes), len(samples)) if fits(parse_defence(text), protocol)
    )
    for text in grid:
        parse_defence(text)
    with Audits(sweep.audit, observer, running, store) as audits:
        report, trials, unfinished = sweep.measure(audits, grid)
        chosen, why = (None, _UNFINISHED) if unfinished else sweep.recommend(trials, audits)
    report.trials = [t.model_copy(update={"recommended": t is chosen}) for t in trials]
    report.goal, report.recommendation = str(sweep.goal), why
    report.seconds = time.monotonic() - started
    if observer.interrupted():
        measured = sum(trial.status is RunStatus.RUN for trial in trials[1:])
        report.partial = f"interrupted: {measured} of {len(grid)} defences measured"
    return report


def _sweep(target: Target, samples: Batch, request: DefendRequest, utility: Batch, observer: Observer) -> _Sweep:
    """What all trials have in common; what the request names is read once."""
    goal = request.wanted().among(specs_of(target.domain))
    each = settled(request.scanning(), samples)
    if each.victims is None:
        each = replace(each, victims=min(VICTIMS, max(1, len(samples) // each.protocol.batch_size)))
    material = read_material(each, target, samples)
    memory = Memory(Cache() if request.cache else None)
    return _Sweep(target, samples, material, each, goal, request.plan, utility, observer, memory)


def _stronger(request: Request) -> Request:
    """For confirming what a quick sweep found: presets that choose their method, with the steps that are affordable."""
    if request.preset != "quick":
        return request
    settings = {name: dict(given) for name, given in request.settings.items()}
    for name, kind in available().items():
        if name not in settings and isinstance(kind.presets["standard"], MatchSettings):
            settings[name] = {"iterations": str(CONFIRMING)}
    return replace(request, preset="standard", settings=settings)


@dataclass(eq=False)
class _Sweep:
    """The common ground of all trials."""

    target: Target
    samples: Batch
    material: Material
    request: Request
    goal: Goal
    plan: TrainingPlan
    trained_on: Batch
    observer: Observer
    memory: Memory
    lame: bool = False
    """No attack recovered what is known to leak: then no setting can be said to stop one."""

    def audit(self, request: Request, observer: Observer) -> Report:
        """The audit of a request in this process, with what all have in common."""
        return audit(
            *(self.target, self.samples, request), observer=observer, memory=self.memory, material=self.material
        )

    def measure(self, audits: Audits, grid: Sequence[str]) -> tuple[Report, list[DefenceTrial], bool]:
        """Attack and train undefended and with every setting.

        Returns:
            The report of the undefended model, one row for it and for each setting that was begun, and whether the user
            ended it before any was.
        """
        trials, requests = _Trials(self), [self.request]
        places, titles = [0], [UNDEFENDED]
        for place, text in enumerate(grid, 1):
            try:
                requests.append(self.defended(text, self.request.seed))
            except LeakauditError as error:
                trials.rows[place] = unmeasured(text, error.discreet)
                continue
            places.append(place)
            titles.append(f"defence {place} of {len(grid)}: {text}")
        texts = ["", *grid]
        audits.run(requests, titles, lambda n, outcome: trials.ended(places[n], texts[places[n]], outcome))
        if trials.undefended is None:
            raise AuditError("not audited: interrupted")
        rows = [trials.rows[place] for place in sorted(trials.rows)]
        self.lame = not rows[0].leaked and _lame(trials.undefended)
        return trials.undefended, [_undecided(row) for row in rows] if self.lame else rows, trials.unfinished

    def defended(self, text: str, seed: int, *, stronger: bool = False) -> Request:
        """The request that audits a setting.

        Raises:
            UsageError: It does not fit what clients do.
        """
        request = _stronger(self.request) if stronger else self.request
        threats = tuple(name for name, kind in available().items() if kind.by_default and not kind.upper_bound)
        attacks = request.attacks or threats  # no yardsticks: they decide nothing here
        return replace(request, defences=(text,), seed=seed, controls="none", attacks=attacks)

    def _confirming(self, text: str, audits: Audits) -> Report | None:
        """The stronger audit of a setting with another seed; ``None`` where it was not begun."""
        request = self.defended(text, self.request.seed + SECOND_SEED, stronger=True)
        found: list[Report] = []

        def ended(_: int, outcome: Outcome) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            found.extend([] if outcome is None else [outcome])

        audits.run([request], [f"confirming {text} with another seed"], ended)
        return found[0] if found else None

    def utility(self, text: str) -> Utility:
        """Training with this setting, or undefended for an empty text."""
        defences = (parse_defence(text),) if text else ()
        protocol = replace(self.request.protocol_for(self.target), shared_statistics="none")
        return train(self.target, self.trained_on, protocol, defences, self.plan, self.request.seed)

    def trial(self, text: str, report: Report, utility: Utility) -> DefenceTrial:
        """The row of one setting."""
        scored = samples_of(report.attacks)
        attacked = {s.index for _, _, s in scored}
        leaked = {s.index for _, _, s in scored if s.leaked}
        interval = leak_interval(len(leaked), len(attacked), fewest=1)  # wide, and said so
        best = closest(scored)
        entry = report.defences[0] if report.defences else None
        evaluated = _evaluated(report)
        return DefenceTrial(
            text=text,
            title=entry.title if entry else "No defence",
            status=RunStatus.RUN,
            adaptive_attack=entry.adaptive_attack if entry else "",
            evaluated=evaluated,
            attacked=len(attacked),
            leaked=len(leaked),
            leaked_interval=None if interval is None else list(interval),
            psnr=None if best is None else best[2].psnr,
            metrics={} if best is None else best[2].metrics,
            told="" if best is None else best[2].told,
            attack="" if best is None else best[0].title,
            value=self.goal.value(report),
            meets=bool(scored) and evaluated and self._holds(report),
            loss=utility.loss,
            accuracy=utility.accuracy,
            evaluated_on=utility.samples,
            accounting=entry.accounting if entry else None,
            seconds=report.seconds,
        )

    def _holds(self, report: Report) -> bool:
        """Whether the goal is met, by attacks that had time and that recover what is known to leak."""
        broken = any(c.kind == "positive" and c.status is ControlStatus.FAILED for c in report.controls)
        return self.goal.met(report) and not broken and not starved(report.attacks)

    def recommend(self, trials: Sequence[DefenceTrial], audits: Audits) -> tuple[DefenceTrial | None, str]:
        """The cheapest setting that meets the goal, and meets it again with another seed."""
        goal = self.goal
        if self.lame:
            return None, f"No setting can be recommended: {LAME}. Give the attacks more (--preset, --set)."
        if trials[0].meets:
            return None, f"The undefended model already meets {goal} against these attacks: nothing is recommended."
        kind = "standard" if self.request.preset == "quick" else "second"
        failed: list[str] = []
        enough = cheapest(trials[1:])
        for trial in enough:
            if self.observer.interrupted():
                break
            confirmed = self._confirming(trial.text, audits)
            met = confirmed is not None and _evaluated(confirmed) and self._holds(confirmed)
            if met and not self.observer.interrupted():
                again = f" {', '.join(failed)} met it once and missed it then." if failed else ""
                return trial, (
                    f"{trial.text} is the cheapest setting tried that meets {goal}, measured on this model with these "
                    f"attacks and confirmed by a {kind} scan with another seed: held-out loss {trial.loss:.3g} against "
                    f"{trials[0].loss:.3g} undefended{_accuracies(trial, trials[0])}.{again}"
                )
            failed.append(trial.text)
        if self.observer.interrupted():
            once = ", ".join(trial.text for trial in enough) or "none"
            return None, f"Interrupted before a setting was confirmed; {once} met {goal} once. {GOES_ON}"
        missed = f" ({', '.join(failed)} only once)" if failed else ""
        leaking = [t for t in trials if t.leaked and t.value is not None and goal.reached(t.value) and not t.meets]
        names = ", ".join(t.text or "no defence" for t in leaking)
        leaks = f", since samples leak although the limit holds ({names})" if names else ""
        return None, f"No setting tried meets {goal}{missed}{leaks}: combine defences, or do not share such updates."


@dataclass(eq=False)
class _Trials:
    """The rows of settings as their audits end, the undefended model's at place 0."""

    sweep: _Sweep
    rows: dict[int, DefenceTrial] = field(default_factory=dict)
    undefended: Report | None = None
    unfinished: bool = False

    def ended(self, place: int, text: str, outcome: Outcome) -> None:
        """Train with a setting that was attacked, and make its row; one that does not fit says why.

        Raises:
            Exception: What ended the audit of the undefended model, or what is no error of a setting.
        """
        interrupted = self.sweep.observer.interrupted()
        if outcome is None:
            return
        if isinstance(outcome, Exception):
            if place == 0 or not isinstance(outcome, LeakauditError):
                raise outcome
            self.rows[place] = unmeasured(text, outcome.discreet)
        elif place and interrupted:  # an attack that was cut short says nothing of the defence
            self.rows[place] = unmeasured(text, "interrupted")
        else:
            self._trained(place, text, outcome)

    def _trained(self, place: int, text: str, report: Report) -> None:
        try:
            self.rows[place] = self.sweep.trial(text, report, self.sweep.utility(text))
        except LeakauditError as error:
            if place == 0:
                raise
            self.rows[place] = unmeasured(text, error.discreet)
        if place == 0:
            self.undefended, self.unfinished = report, self.sweep.observer.interrupted()


def _lame(report: Report) -> bool:
    """Whether attacks were tried where a leak is known, and none recovered it."""
    known = [control.status for control in report.controls if control.kind == "positive"]
    return ControlStatus.FAILED in known and ControlStatus.PASSED not in known


def _undecided(trial: DefenceTrial) -> DefenceTrial:
    """A row of which nothing is said, but for a leak that was shown."""
    if trial.leaked or trial.status is not RunStatus.RUN:
        return trial
    return trial.model_copy(update={"meets": False, "reason": LAME})


def unmeasured(text: str, reason: str) -> DefenceTrial:
    """The row of a setting that was not measured."""
    return DefenceTrial(text=text, title=parse_defence(text).title, status=RunStatus.NOT_RUN, reason=reason)


def fits(defence: Defence, protocol: Protocol) -> bool:
    """Whether a setting is for clients of this protocol."""
    try:
        defence.protocol(protocol)
    except UsageError:
        return False
    return True


def _accuracies(trial: DefenceTrial, undefended: DefenceTrial) -> str:
    """Both shares that are classified right, where the task has one."""
    if trial.accuracy is None or undefended.accuracy is None:
        return ""
    return f", accuracy {trial.accuracy:.0%} against {undefended.accuracy:.0%}"


def _evaluated(report: Report) -> bool:
    """Whether an attack that works through everything that the clients do ran on this model."""
    return all(entry.evaluated for entry in report.defences)


def cheapest(trials: Sequence[DefenceTrial]) -> list[DefenceTrial]:
    """Evaluated settings that meet the goal, by the loss that they leave, then by accuracy.

    The loss first: on few held-out samples accuracy is a coarse count.
    """
    enough = [t for t in trials if t.status is RunStatus.RUN and t.meets and t.evaluated]
    return sorted(enough, key=lambda t: (t.loss if t.loss is not None else float("inf"), -(t.accuracy or 0.0)))
