"""JUnit XML: what the policy fails on is a failure, what could not be decided an error, what did not run is skipped.

Nothing private is in it. A rule that found nothing has no entry: its silence is no test that passed.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from leakaudit.document.schema import AttackEntry, DefenceTrial, FindingEntry, Report
from leakaudit.document.status import RunStatus
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Card
from leakaudit.report.formats.base import HEAD, Format, Rendering
from leakaudit.report.views.cells import lowered, with_unit
from leakaudit.report.wording import clip
from leakaudit.safety.text import shown

NAME, TEXT = 200, 2000


def _line(text: str, longest: int = TEXT) -> str:
    """One line, as a log may repeat it."""
    return shown(clip(text, longest))


def render_junit(report: Report) -> str:
    """The report as suites: the verdict, the findings, the attacks, and the settings of defences where any were
    tried."""
    card = card_for(report)
    root = Element("testsuites", {"name": "leakaudit", "time": f"{report.seconds:.3f}"})
    _suite(root, "leakaudit.verdict", [_verdict(report)], report)
    _suite(root, "leakaudit.findings", [_finding(finding) for finding in report.findings], report)
    _suite(root, "leakaudit.attacks", [_attack(attack, card) for attack in report.attacks], report)
    if report.trials:
        _suite(root, "leakaudit.defences", [*map(_trial, report.trials), _recommendation(report)], report)
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: Element, name: str, cases: list[Element], report: Report) -> None:
    suite = SubElement(root, "testsuite", {"name": name, "timestamp": _line(report.created[:19], 40)})
    suite.set("tests", str(len(cases)))
    for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(kind, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")
    for case in cases:
        case.set("classname", name)
        suite.append(case)


def _case(name: str, seconds: float = 0.0) -> Element:
    return Element("testcase", {"name": _line(name, NAME), "time": f"{seconds:.3f}"})


def _verdict(report: Report) -> Element:
    case = _case(f"audit of {report.target.name}")
    verdict = report.verdict
    if report.partial or verdict.inconclusive:
        error = SubElement(
            case, "error", {"type": "inconclusive", "message": _line(report.partial or verdict.headline)}
        )
        error.text = _line(verdict.at_least)
    SubElement(case, "system-out").text = "\n".join(
        (_line(f"{verdict.status}: {verdict.headline}"), _line(verdict.at_most))
    )
    return case


def _finding(finding: FindingEntry) -> Element:
    case = _case(f"{finding.id} {finding.title}")
    label = f"[{finding.severity}, {finding.confidence}] {finding.message}"
    if finding.fails:
        failure = SubElement(case, "failure", {"type": finding.severity, "message": _line(label)})
        failure.text = _line(f"What to do: {finding.remedy}")
    elif finding.suppressed:
        SubElement(case, "skipped", {"message": _line(finding.gate)})
    else:
        SubElement(case, "system-out").text = "\n".join(
            (_line(label), _line(f"Does not fail: {finding.gate or 'no policy'}"))
        )
    return case


def _attack(attack: AttackEntry, card: Card) -> Element:
    case = _case(f"{attack.title} ({attack.name})", attack.seconds)
    if attack.status is not RunStatus.RUN:
        message = f"{attack.status.replace('_', ' ')}: {attack.reason}"
        SubElement(case, "skipped", {"message": _line(message)})
    else:
        scored = [sample for result in attack.results for sample in result.samples]
        best = [(spec, card.best_of(scored, spec)) for spec in card.leading]
        numbers = "".join(
            f", best {lowered(spec)} {with_unit(spec, value)}" for spec, value in best if value is not None
        )
        leaked = f"{sum(s.leaked for s in scored)} of {len(scored)} samples leaked"
        SubElement(case, "system-out").text = _line(f"{leaked}{numbers}. {attack.reason}".strip())
    return case


def _trial(trial: DefenceTrial) -> Element:
    """A setting: skipped where it was not measured, or by no attack that works through it."""
    case = _case(trial.text or "undefended", trial.seconds)
    if trial.status is not RunStatus.RUN:
        SubElement(case, "skipped", {"message": _line(trial.reason)})
    elif not trial.evaluated:
        SubElement(case, "skipped", {"message": "not evaluated: no attack that ran works through this defence"})
    elif trial.reason:
        SubElement(case, "skipped", {"message": _line(f"undecided: {trial.reason}")})
    else:
        judged = "meets the goal" if trial.meets else "misses the goal"
        cost = "" if trial.loss is None else f", held-out loss {trial.loss:.3g}"
        told = f"{judged}: {trial.leaked} of {trial.attacked} samples leaked{cost}"
        SubElement(case, "system-out").text = _line(told)
    return case


def _recommendation(report: Report) -> Element:
    """Whether a setting is enough, as the exit code says it."""
    case = _case(f"a setting meets {report.goal}")
    enough = report.trials[0].meets or any(trial.recommended for trial in report.trials)
    if enough:
        SubElement(case, "system-out").text = _line(report.recommendation)
    else:
        SubElement(case, "failure", {"type": "goal", "message": _line(report.recommendation)})
    return case


def failure_junit(model: str, message: str) -> str:
    """One test case that is an error."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"}
    root = Element("testsuites", {"name": "leakaudit", **counts})
    suite = SubElement(root, "testsuite", {"name": "leakaudit.verdict", **counts})
    case = SubElement(
        suite, "testcase", {"classname": "leakaudit.verdict", "name": f"audit of {shown(clip(model, 200))}"}
    )
    SubElement(case, "error", {"type": "could not audit", "message": message})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _render(rendering: Rendering) -> str:
    return render_junit(rendering.report)


def _ours(content: bytes) -> bool:
    return b'name="leakaudit' in content[:HEAD]


def _failed(content: bytes) -> bool:
    return b'<error type="could not audit"' in content


FORMAT = Format(
    name="junit",
    file="report.junit.xml",
    title="for test summaries",
    render=_render,
    failure=failure_junit,
    ours=_ours,
    failed=_failed,
)
