"""A summary in Markdown for pull requests and job pages: the verdict, what fails and why, what did not run.

Nothing private is in it. Names are escaped, so that a layer called ``<img …>`` or ``|`` stays text.
"""

from __future__ import annotations

import re

from leakaudit.document.counting import count
from leakaudit.document.schema import FindingEntry, Report
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.formats.base import HEAD, Format, Rendering
from leakaudit.report.views.cells import lowered, with_unit
from leakaudit.report.views.comparison import gain_in_short
from leakaudit.report.views.facts import accuracy
from leakaudit.report.views.residual import SENTENCE
from leakaudit.report.views.trials import trial_table
from leakaudit.report.wording import MISSING, clip, fixed, seconds

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~$&@])")
CELL = 400


def escape(text: str, longest: int = CELL) -> str:
    """Text that stays text: no markup, no table cell, no new line, no link and no mention."""
    flat = " ".join(clip(text, longest).split())
    return _SPECIAL.sub(r"\\\1", flat).replace("://", ":\\//").replace("www.", "www\\.")


def render_markdown(report: Report) -> str:
    """The summary."""
    verdict = report.verdict
    lines = [f"## leakaudit: {escape(verdict.status)}", "", f"**{escape(verdict.headline)}**", ""]
    if report.partial:
        lines += [f"> Partial report: {escape(report.partial)}", ""]
    lines += [f"- At least: {escape(verdict.at_least, 600)}", f"- At most: {escape(verdict.at_most, 600)}"]
    lines += [f"- Model: {escape(report.target.name, 80)}, preset {escape(report.preset, 40)}, seed {report.seed}"]
    lines += [f"- Classified right by the model: {escape(said)}"] if (said := accuracy(report)) else []
    lines += [""]
    lines += _findings(report)
    lines += _attacks(report)
    lines += _trials(report)
    if report.policy is not None and report.policy.suppressions:
        lines += ["### Suppressions", "", "| rule | state | expires | reason |", "|---|---|---|---|"]
        lines += [
            f"| {escape(s.rule)} | {s.state} | {escape(s.expires)} | {escape(s.reason)} |"
            for s in report.policy.suppressions
        ] + [""]
    return "\n".join([*lines, f"_{SENTENCE}_", ""])


def _findings(report: Report) -> list[str]:
    if not report.findings:
        return ["No rule found anything to report.", ""]
    failing = [f for f in report.findings if f.fails]
    lines = [f"### Findings: {len(failing)} of {len(report.findings)} fail the policy", ""]
    lines += ["| | finding | severity | confidence | what |", "|---|---|---|---|---|"]
    lines += [_finding(finding) for finding in report.findings]
    lines += [""]
    for finding in failing:
        lines += [f"- **{escape(finding.id)}**, what to do: {escape(finding.remedy, 1000)}"]
    return [*lines, ""] if failing else lines


def _finding(finding: FindingEntry) -> str:
    mark = "❌ fails" if finding.fails else "suppressed" if finding.suppressed else "–"
    what = escape(finding.message) + (f" ({escape(finding.gate)})" if finding.gate and not finding.fails else "")
    name = f"{escape(finding.id)} {escape(finding.title)}"
    return f"| {mark} | {name} | {finding.severity} | {finding.confidence} | {what} |"


def _attacks(report: Report) -> list[str]:
    card = card_for(report)
    spec = card.strength
    title = "result" if spec is None else lowered(spec)
    lines = ["### Attacks", "", f"| attack | status | leaked | best {escape(title)} | time |", "|---|---|---|---|---|"]
    for attack in report.attacks:
        scored = [sample for result in attack.results for sample in result.samples]
        name = escape(attack.title, 80)
        if attack.status is not RunStatus.RUN:
            continue
        margin = MISSING if spec is None else with_unit(spec, card.best_of(scored, spec))
        leaked = f"{sum(s.leaked for s in scored)} of {len(scored)}"
        status = "run, a yardstick" if attack.upper_bound else "run"
        status += f": {escape(gain)}" if (gain := gain_in_short(attack)) else ""
        lines.append(f"| {name} | {status} | {leaked} | {margin} | {seconds(attack.seconds)} |")
    score = "" if report.rank.score is None else f", score {fixed(report.rank.score, 1)}"
    risk = f"Rank analysis of the architecture: risk {escape(report.rank.risk)}{score}."
    return [*lines, "", *_left(report), risk, ""]


def _left(report: Report) -> list[str]:
    """The attacks that did not run, folded: a line each with the reason."""
    left = [attack for attack in report.attacks if attack.status is not RunStatus.RUN]
    if not left:
        return []
    told = [f"- {escape(a.title, 80)}: {a.status.replace('_', ' ')}, {escape(a.reason)}" for a in left]
    return [f"<details><summary>Not run: {count(len(left), 'attack')}</summary>", "", *told, "", "</details>", ""]


FAILED = "could not audit"


def failure_markdown(model: str, message: str) -> str:
    """What a job page says of an audit that could not be done."""
    open_ = "Nothing was measured, so this says nothing of a leak."
    return f"## leakaudit: {FAILED} {escape(model, 80)}\n\n{escape(message, 1000)}\n\n{open_}\n"


def _trials(report: Report) -> list[str]:
    """The settings that were measured, where any were."""
    if not report.trials:
        return []
    table = trial_table(report)
    lines = [f"### {escape(table.caption)}", "", f"**{escape(report.recommendation, 1000)}**", ""]
    lines += [
        "| " + " | ".join(escape(name, 80) for name, _ in table.columns) + " |",
        "|" + "---|" * len(table.columns),
    ]
    for row in table.rows:
        cells = [escape(cell.text) + ("" if cell.note is None else f" ({cell.note})") for cell in row.cells]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *(f"{number}. {escape(note)}" for number, note in enumerate(table.notes, 1)), ""]


def _render(rendering: Rendering) -> str:
    return render_markdown(rendering.report)


def _ours(content: bytes) -> bool:
    return b"## leakaudit: " in content[:HEAD]


def _failed(content: bytes) -> bool:
    first, _, _ = content.partition(b"\n")
    return f"## leakaudit: {FAILED} ".encode() in first


FORMAT = Format(
    name="markdown",
    file="report.md",
    title="a summary for pull requests",
    render=_render,
    failure=failure_markdown,
    failed=_failed,
    ours=_ours,
)
