"""Every rule has a page, a remedy and a case in which it fires; every id that the package writes is registered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import leakaudit
from leakaudit.attacks.registry import available
from leakaudit.document.schema import (
    CarriedEntry,
    ClaimCheck,
    ClaimEntry,
    FirstLayer,
    LabelResult,
    LeftOutEntry,
    MisuseEntry,
    PartResult,
    RoundEntry,
)
from leakaudit.document.status import Cause, Cut, Lost, MisuseKind
from leakaudit.errors import UsageError
from leakaudit.findings import RULES, SEVERITIES, Evidence, judge, rule, rule_named
from tests.findings.build import CONTROLS, NOISE, control, entry, evidence, sample, victim

FAMILIES = {
    "1": "architecture", "2": "reconstruction", "3": "labels", "4": "protocol", "5": "defences",
    "90": "exports", "91": "exports", "92": "assumptions", "93": "probes", "94": "probes", "95": "quality",
}  # fmt: skip
"""Of the first figure of a number, or of the first two."""
FIDELITY = [name for name in RULES if name.startswith("LA9") and int(name[2:]) < 950]
NOTES = [name for name in FIDELITY if RULES[name].worst == "none"]
UNMET = ClaimCheck(what="share of zero entries", expected="at least 0.9", measured="0.1", holds=False)
PRACTICE = {f"LA{500 + number}": kind for number, kind in enumerate(MisuseKind, 4)}
"""What deployed code does wrong with defences has a file of its own: LA504 to LA510."""
CARRIED = CarriedEntry(earlier="round-1", later="round-2", tensor="fc.weight", rows=7, factor=0.9)
PRESENT = LabelResult(true=[1, 1, 2], inferred=[1, 2, 2], correct=2)


def misuse(kind: MisuseKind) -> MisuseEntry:
    return MisuseEntry(kind=kind, told="what is wrong.", sure="measured", grave=True)


CASES: dict[str, Evidence] = {
    "LA101": evidence([], risk="high"),
    "LA102": evidence([], target={"first_layer": FirstLayer(name="fc", kind="linear", bias=False)}),
    "LA103": evidence([], target={"first_layer": FirstLayer(name="conv", kind="convolution", bias=True)}),
    "LA104": evidence([], target={"parameters": 384}),
    "LA105": evidence([], update_told="its update is the same for every sample"),
    "LA201": evidence([entry(sample(True))]),
    "LA202": evidence([entry(sample(True), family="closed form")]),
    **{f"LA20{n}": evidence([entry(sample(True), finding=f"LA20{n}")]) for n in (3, 4, 5, 6, 7)},
    "LA208": evidence([entry(sample(True, part=PartResult(entries=25, of=48, psnr=None)))]),
    "LA301": evidence([entry(sample(False))]),
    "LA302": evidence([entry(results=[victim(sample(False), labels=PRESENT)])]),
    "LA303": evidence([], protocol={"algorithm": "fedavg"}, distinct_records=[3]),
    "LA401": evidence([], batch_size=1),
    "LA402": evidence([], target={"batchnorm_layers": ["bn1"]}),
    "LA403": evidence([]),
    "LA404": evidence([], mode="eval", target={"dropout_layers": ["drop"]}),
    "LA409": evidence([], target={"resting": ["lora_A.weight"]}),
    "LA410": evidence([], protocol={"carried": [CARRIED]}),
    "LA501": evidence([], claims=[ClaimEntry(text="prune=0.9", checks=[UNMET])]),
    "LA502": evidence([entry(sample(True))], defences=[NOISE]),
    "LA503": evidence([], defences=[NOISE.model_copy(update={"evaluated": False})]),
    **{
        name: evidence([], claims=[ClaimEntry(text="a claim", checks=[], misuses=[misuse(kind)])])
        for name, kind in PRACTICE.items()
    },
    **{name: evidence([], fidelity=(name,)) for name in FIDELITY},
    "LA950": evidence([], controls=[control("positive", False)]),
    "LA951": evidence([], controls=[control("negative", False)]),
    "LA952": evidence([], controls=[control("prior_only", False)]),
    "LA953": evidence([entry(results=[victim(sample(False), cuts=[Cut(Lost.ITERATIONS, Cause.INTERRUPT, 1, 9)])])]),
    "LA954": evidence([entry(sample(False, rank_among=20))]),
    "LA955": evidence([entry(results=[])]),
    "LA956": evidence([entry(sample(False, near_duplicates=3))]),
    "LA957": evidence([entry(sample(True))]),
    "LA958": evidence([entry(sample(False))]),
    "LA959": evidence([], protocol={"left_out": [LeftOutEntry(label="round-2", reason="of another model")]}),
}
QUIET = evidence(
    [entry(sample(False, rank_among=500), correct=0)],
    controls=CONTROLS,
    defences=[NOISE],
)


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("identifier", sorted(RULES))
def test_a_rule_has_a_page_a_remedy_and_fires(identifier: str) -> None:
    found = RULES[identifier]
    assert found.title
    assert len(found.summary) > 40, "the page starts with a sentence"
    assert len(found.remedy) > 40 or found.worst == "none", "a concrete remedy"
    assert not re.search(r"\b(safe|secure model)\b", (found.page + found.remedy).lower())
    fired = [f for f in judge(CASES[identifier]) if f.id == identifier]
    assert bool(fired) != (identifier in NOTES)
    for finding in fired:
        assert finding.remedy
        assert finding.message
        assert SEVERITIES.index(finding.severity) >= SEVERITIES.index(found.worst)


def test_rules_can_stay_silent() -> None:
    assert judge(QUIET) == []


def test_rounds_of_different_sizes_are_counted_each_by_its_own() -> None:
    rounds = [
        RoundEntry(victim=n, label="", kind="weights", sha256=None, samples=size, known=True, own_weights=False)
        for n, size in enumerate((1, 2))
    ]
    protocol = {"algorithm": "fedavg", "rounds": rounds}
    found = {f.id: f.message for f in judge(evidence([], batch_size=1, protocol=protocol, distinct_records=[1, 2]))}
    assert "LA401" not in found, "one update is of two samples"
    assert found["LA303"].endswith("shows: 1 of 1, 2 of 2.")
    alone = judge(evidence([], batch_size=1, protocol={**protocol, "rounds": rounds[:1]}, distinct_records=[1]))
    assert "LA401" in {f.id for f in alone}


def test_of_rounds_of_different_sizes_the_smallest_is_the_easiest() -> None:
    """Whichever round comes first."""
    rounds = [
        RoundEntry(victim=n, label="", kind="weights", sha256=None, samples=size, known=True, own_weights=False)
        for n, size in enumerate((4, 1))
    ]
    target = {
        "first_layer": FirstLayer(name="fc", kind="linear", bias=False), "batchnorm_layers": ["bn"], "parameters": 192,
    }  # fmt: skip
    found = {f.id: f for f in judge(evidence([], batch_size=4, target=target, protocol={"rounds": rounds}))}
    assert (found["LA102"].severity, found["LA402"].severity) == ("medium", "medium")
    assert found["LA104"].message.startswith("192 shared numbers against 192 private ones")
    assert "LA401" not in found


def test_the_number_of_real_images_counts_not_that_of_augmentations() -> None:
    augmented = entry(sample(False, rank_among=121, augmented=80), correct=0)
    assert "LA954" in {f.id for f in judge(evidence([augmented]))}


def test_rules_live_in_the_file_of_their_family() -> None:
    for found in RULES.values():
        module = found.judge.__module__.rsplit(".", 1)[1]
        expected = FAMILIES[found.id[2:4] if found.id[2] == "9" else found.id[2]]
        assert module == ("practice" if found.id in PRACTICE else expected), found.id


def test_every_id_in_the_package_is_registered() -> None:
    package = Path(leakaudit.__file__).parent
    named = {name for file in package.rglob("*.py") for name in re.findall(r"\bLA\d{3}\b", file.read_text("utf-8"))}
    assert named == set(RULES)


def test_every_attack_names_a_registered_finding() -> None:
    for name, attack in available().items():
        assert attack.finding in {"", *(i for i in RULES if i.startswith("LA2"))}, name


def test_an_id_is_given_once() -> None:
    with pytest.raises(ValueError, match="LA201 is taken"):
        rule("LA201", "again", worst="low", remedy="none")(lambda _: iter(()))


def test_an_unknown_id_lists_its_family() -> None:
    assert rule_named(" la201 ").id == "LA201"
    with pytest.raises(UsageError, match="no finding 'LA499'") as caught:
        rule_named("LA499")
    assert "LA401, LA402" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        rule_named("nonsense")
    assert "LA101 to LA959" in caught.value.hint
