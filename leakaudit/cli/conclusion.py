"""The end of ``leakaudit scan`` on a terminal: the answer, what each attack reached, why it ends so, what is next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leakaudit.cli.output import Terminal, say
from leakaudit.document.status import RunStatus, VerdictStatus

if TYPE_CHECKING:
    from leakaudit.document.schema import FindingEntry, Report

COLOURS = {VerdictStatus.BOUNDED: "green", VerdictStatus.NOT_SHOWN: "yellow"}
"""Of a verdict on a terminal; leaks are red, and what cannot be concluded is magenta."""


def exit_code(report: Report) -> int:
    """What the process ends with, as the help of the command says."""
    if report.partial:
        return 130
    if any(finding.fails for finding in report.findings):
        return 1
    return 5 if report.verdict.inconclusive else 0


def conclude(report: Report, written: Sequence[Path], *, brief: bool) -> int:
    """Print how the audit ended, and return the exit code.

    Args:
        report: Judged by the policy.
        written: Its files.
        brief: Without the table, the reason of the exit code and the next step.
    """
    from leakaudit.findings.rules.fidelity import departures

    verdict, terminal = report.verdict, Terminal()
    terminal.line(f": {verdict.headline}", head=verdict.status, style=_colour(verdict.code))
    if any(defence.accounting or defence.withheld for defence in report.defences):
        say(f"At most: {verdict.at_most}")
    deciding = _deciding(report)
    for finding in deciding:
        say(f"{finding.id} [{finding.severity}, {finding.confidence}] {finding.message}")
    for note in departures(report.target.fidelity):
        if note.id not in {finding.id for finding in deciding}:
            say(f"{note.id} {note.message}; {note.hint}")
    for left_out in report.protocol.left_out:
        say(f"Left out: {left_out.label or 'a recorded round'}: {left_out.reason or 'see the full report'}")
    for entry in (s for s in (report.policy.suppressions if report.policy else ()) if s.state == "expired"):
        say(f"Expired: the suppression of {entry.rule} ended on {entry.expires}: {entry.reason}")
    if not brief:
        _table(report, terminal)
        say(f"Exit {exit_code(report)}: {reason(report)}")
        say(*(f"Next: {step}" for step in next_steps(report)))
    say(*(f"Report: {path}" for path in written))
    return exit_code(report)


def _colour(code: VerdictStatus) -> str:
    return COLOURS.get(code, "red" if code.leaks else "magenta")


def _deciding(report: Report) -> list[FindingEntry]:
    failing = [finding for finding in report.findings if finding.fails]
    return (failing or list(report.findings))[:1]


def _table(report: Report, terminal: Terminal) -> None:
    """A row for every attack that ran."""
    from leakaudit.report.domains import card_for
    from leakaudit.report.views.cells import lowered, with_unit
    from leakaudit.report.views.comparison import gain_in_short
    from leakaudit.report.wording import seconds

    card = card_for(report)
    spec, rows, styles = card.strength, [], []
    for attack in report.attacks:
        if attack.status is RunStatus.RUN:
            samples = [sample for result in attack.results for sample in result.samples]
            reached = None if spec is None else with_unit(spec, card.best_of(samples, spec))
            leaked = f"{sum(sample.leaked for sample in samples)} of {len(samples)}"
            title = f"{attack.title}: a yardstick" if attack.upper_bound else attack.title
            rows.append((title, leaked, reached, seconds(attack.seconds)))
            styles.append("red" if any(s.leaked for s in samples) and not attack.upper_bound else "")
    if rows:
        best = "result" if spec is None else f"best {lowered(spec)}"
        terminal.table("", ("attack", "leaked", best, "time"), rows, styles)
    for attack in report.attacks:
        if told := gain_in_short(attack):
            say(f"{attack.title}: {told}")


def conclude_trials(report: Report, written: Sequence[Path], *, brief: bool) -> int:
    """Print how a comparison of defences ended, and return the exit code.

    Args:
        report: With its trials.
        written: Its files.
        brief: Without the table and the reason of the exit code.
    """
    code, why = _of_trials(report)
    if not brief:
        _trial_table(report, Terminal())
    say(report.recommendation)
    if not brief:
        say(f"Exit {code}: {why}")
    say(*(f"Report: {path}" for path in written))
    return code


def _of_trials(report: Report) -> tuple[int, str]:
    """The exit code of a comparison of defences, and why."""
    chosen = next((trial.text for trial in report.trials if trial.recommended), "")
    if report.partial:
        return 130, f"partial report: {report.partial}"
    if chosen:
        return 0, f"{chosen} meets {report.goal}"
    if report.trials[0].meets:
        return 0, f"the undefended model meets {report.goal}"
    return 1, f"no setting is recommended for {report.goal}"


def _trial_table(report: Report, terminal: Terminal) -> None:
    """A row for every setting that was measured."""
    from leakaudit.report.domains import card_for
    from leakaudit.report.wording import number

    card = card_for(report)
    rows = [
        (t.text or "undefended", f"{t.leaked} of {t.attacked}", card.trial(t), number(t.loss))
        for t in report.trials
        if t.status is RunStatus.RUN
    ]
    if rows:
        terminal.table(
            "", ("setting", "leaked", card.trial_heading[0].lower() + card.trial_heading[1:], "held-out loss"), rows
        )


def reason(report: Report) -> str:
    """Why the exit code is what it is, in one sentence."""
    failing = [finding.id for finding in report.findings if finding.fails]
    if report.partial:
        return f"partial report: {report.partial}"
    if failing:
        first = next(finding for finding in report.findings if finding.fails)
        more = f"; so do {', '.join(failing[1:])}" if len(failing) > 1 else ""
        return f"{first.id} fails: {first.gate or f'severity {first.severity}'}{more}"
    if report.verdict.inconclusive:
        return f"nothing fails, but nothing can be concluded either: {report.verdict.status}"
    if report.verdict.code.leaks and report.findings:
        return f"it leaks, and the policy lets it pass: {report.findings[0].gate or 'nothing fails'}"
    return "no finding fails the policy"


def next_steps(report: Report) -> Iterator[str]:
    """Commands that bring the reader on."""
    deciding = _deciding(report)
    if deciding:
        yield f"leakaudit explain {deciding[0].id}"
    if report.verdict.code.leaks and not report.defences:
        yield f"{_defend(report)} measures which defence is enough, and what it costs"


def _defend(report: Report) -> str:
    """The command for the same model, samples and options, as a shell reads it."""
    from leakaudit.audit.parameters import parameters, shared_words
    from leakaudit.audit.request import Request
    from leakaudit.sweeps.request import DefendRequest

    _, _, *words = report.command or ["leakaudit", "scan", "MODEL", "--batch", "FILE"]
    own, other = (list(parameters(kind).values()) for kind in (Request, DefendRequest))
    return shlex.join(["leakaudit", "defend", *shared_words(words, own, other)])
