"""Every attack and every defence over every domain: it refuses with a reason, or it keeps the whole contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from html import unescape
from typing import Any

import pytest
import torch
from torch import Tensor

import leakaudit
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.registry import GROUP as ATTACKS
from leakaudit.attacks.registry import available as attacks
from leakaudit.audit.references import reference_target, synthetic_batch
from leakaudit.audit.victim import Victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.base import Defence, defended_model, defended_protocol
from leakaudit.defences.registry import GROUP as DEFENCES
from leakaudit.defences.registry import available as defences
from leakaudit.defences.spec import parse_defence
from leakaudit.document.schema import Report
from leakaudit.domains import registry as domains
from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.references import Reference
from leakaudit.domains.signals import Signals
from leakaudit.domains.volumes import Volumes
from leakaudit.errors import LeakauditError
from leakaudit.observation import Observation
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable, Reconstruction, SilentMonitor
from leakaudit.report.formats.base import Rendering
from leakaudit.report.formats.registry import available as formats
from leakaudit.target.target import Target
from leakaudit.tasks.base import Task
from leakaudit.tasks.multi_label import MultiLabel
from leakaudit.tasks.names import TASKS as ALL_TASKS
from leakaudit.tasks.next_token import NextToken
from leakaudit.tasks.regression import Regression
from leakaudit.tasks.segmentation import Segmentation
from leakaudit.tasks.single_label import SingleLabel
from tests.attacks.networks import BATCHNORM, INDEXED, SHORT, STEPS, TEXTS, prepared, short
from tests.conftest import make_target
from tests.defences.build import EXAMPLES
from tests.domains.toy import Waves
from tests.plugins import Install
from tests.several import SEVERAL
from tests.tables import TABLE

SMALL = Images((3, 6, 6), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
DOMAINS = (SMALL, Volumes.plain((1, 4, 6, 6)), Signals.plain((2, 24)), TEXTS, TABLE, SEVERAL, Waves())
NAMES = (*attacks(), "division")
TEXT_OF_DEFENCES = (*EXAMPLES, "half,factor=0.25")
CLASSES = 5

LENGTH = math.prod(TEXTS.sides)
TASKS = (
    MultiLabel(CLASSES),
    Regression(2),
    Segmentation(CLASSES, SMALL.sides),
    NextToken(TEXTS.ids, (LENGTH,), True),
)
"""The others than one class per sample, which everything else here is about."""

over_tasks = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
over_domains = pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.kind)
over_attacks = pytest.mark.parametrize("name", NAMES)
over_defences = pytest.mark.parametrize("text", TEXT_OF_DEFENCES)


@pytest.fixture(autouse=True)
def installed(install: Install) -> None:
    """One attack, one defence and one domain of other packages beside ours."""
    install(ATTACKS, division="tests.attacks.toy:Division")
    install(DEFENCES, half="tests.defences.toy:Half")
    install(domains.GROUP, waves="tests.domains.toy:Waves")


def home(task: Task) -> Domain:
    """The domain whose samples are labelled so here: of next tokens texts, else images."""
    return SMALL if task.labelled else TEXTS


def test_the_table_is_complete() -> None:
    assert {domain.kind for domain in DOMAINS} == set(domains.available())
    assert {SingleLabel.kind, *(task.kind for task in TASKS)} == set(ALL_TASKS)
    assert set(NAMES) == set(attacks())
    assert {type(parse_defence(text)) for text in TEXT_OF_DEFENCES} == set(defences().values())


class Stopped(SilentMonitor):
    """A user who interrupted at once."""

    asked = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return True


@cache
def target_of(reference: Reference, domain: Domain, task: Task | int = CLASSES) -> Target:
    if reference is INDEXED:  # real-valued numbers of rows are refused where a model is loaded
        return make_target(INDEXED.build(domain.shape, CLASSES), SMALL.shape, CLASSES)
    return reference_target(reference, domain, task)


def client_of(target: Target, *defences: Defence) -> tuple[Target, Batch, Protocol]:
    """The model that clients train under these defences, their samples, and how their update is made."""
    target = defended_model(target, defences, 0)
    protocol = defended_protocol(FedSGD(1, target.mode), defences)
    return target, synthetic_batch(target, target.domain, 8, 1).subset(range(protocol.batch_size)), protocol


def victim_of(target: Target, *defences: Defence, steps: str = "") -> tuple[Target, Victim]:
    """The model that clients train, and one update of theirs with inferred labels; of local steps where needed."""
    target, private, protocol = client_of(target, *defences)
    if steps in STEPS:
        private = synthetic_batch(target, target.domain, 8, 1).subset(range(2))
        protocol = FedAvg(2, target.mode, **STEPS[steps])
    return target, observe_victim(target, private, protocol, target.domain, prepared(target, *defences), 0)


@cache
def undefended(
    reference: Reference, domain: Domain, steps: str = "", task: Task | int = CLASSES
) -> tuple[Target, Victim]:
    return victim_of(target_of(reference, domain, task), steps=steps)


def networks(domain: Domain) -> tuple[Reference, ...]:
    return (*domain.references, *([BATCHNORM, INDEXED] if domain is SMALL else []))


def state(target: Target) -> dict[str, Any]:
    """Everything that an audit must find again: weights, buffers, modes, gradients, hooks, and the global generator."""
    module = target.module
    modules = dict(module.named_modules())
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in module.state_dict().items()},
        "modes": {name: one.training for name, one in modules.items()},
        "trained": {name: (one.requires_grad, one.grad is None) for name, one in module.named_parameters()},
        "hooks": {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in modules.items()},
        "random": torch.get_rng_state(),
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@contextmanager
def untouched(target: Target, observation: Observation | None = None) -> Iterator[None]:
    """The model, the process and what was shared are afterwards as before."""
    before, shared = state(target), {n: g.clone() for n, g in observation.update.items()} if observation else {}
    yield
    after = state(target)
    assert [key for key in before if not same(before[key], after[key])] == []
    assert observation is None or same(shared, dict(observation.update))


def clear(reason: str) -> bool:
    """One line that says something."""
    return len(reason) > 20 and "\n" not in reason and reason == reason.strip()


@over_domains
@over_attacks
def test_an_attack_refuses_or_keeps_the_contract(name: str, domain: Domain) -> None:
    attack = short(name)
    for reference in networks(domain):
        original, victim = undefended(reference, domain, name if name in STEPS else "")
        target, observation = victim.attacked_by(attack, original)
        with untouched(original, observation):
            refused = attack.refusal(target, observation)
            if refused is None:
                check_attack(attack, target, observation)
        if refused is None:
            return
        assert isinstance(refused, NotApplicable)
        assert clear(refused.reason), refused.reason
    assert domain.kind not in attack.reads, "it says that it reads such samples, and no bundled network is read"


@over_tasks
@over_attacks
def test_an_attack_refuses_or_keeps_the_contract_with_other_labels(name: str, task: Task) -> None:
    attack = short(name)
    domain = TEXTS if "tokens" in attack.reads else home(task)
    for reference in domain.references:
        original, victim = undefended(reference, domain, name if name in STEPS else "", task)
        target, observation = victim.attacked_by(attack, original)
        with untouched(original, observation):
            refused = attack.refusal(target, observation)
            if refused is None:
                check_attack(attack, target, observation, task)
        if refused is None:
            return
        assert clear(refused.reason), refused.reason
    assert task.kind not in attack.tasks or domain.kind not in attack.reads, (
        "it says that it takes such labels, and no bundled network is attacked"
    )


def check_attack(attack: Attack, target: Target, observation: Observation, task: Task | None = None) -> None:
    first, second = (attack(target, observation, cpu_generator(3)) for _ in range(2))
    assert same_result(first, second)
    assert valid(first, observation, task)
    monitor = Stopped()
    cut = attack(target, observation, cpu_generator(3), monitor)
    assert valid(cut, observation, task)
    if attack.family == "optimisation":
        assert monitor.asked
        assert cut.iterations < first.iterations


def same_result(one: Reconstruction, other: Reconstruction) -> bool:
    """Bit by bit, but for the seconds."""
    tensors = torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    return tensors and repr((one.match, one.residual, one.notes)) == repr((other.match, other.residual, other.notes))


def valid(result: Reconstruction, observation: Observation, task: Task | None = None) -> bool:
    """Samples of the domain as many as there are behind the update, in their valid range, with labels."""
    domain, inputs = observation.domain, result.inputs
    label = () if task is None else task.label_shape
    whole = inputs.shape == (observation.batch_size, *domain.shape)
    whole = whole and result.labels.shape == (observation.batch_size, *label)
    classes = bool((result.labels < CLASSES).all()) if task is None else bool(torch.isfinite(result.labels).all())
    return whole and torch.equal(inputs, domain.finish(inputs)) and classes


@over_domains
@over_defences
def test_a_defence_refuses_or_keeps_the_contract(text: str, domain: Domain) -> None:
    defence, original = parse_defence(text), target_of(domain.references[0], domain)
    made: list[tuple[Target, Victim]] = []
    with untouched(original):
        refused = refusal_of(lambda: made.append(victim_of(original, defence)))
        if refused:
            assert clear(refused), refused
            return
        trained, private, protocol = client_of(original, defence)
        one, two = (observe(trained, private, protocol, trained.domain, 3, [defence]).update for _ in range(2))
    assert same(dict(one), dict(two)), "it draws from a generator of its own"
    ((target, victim),) = made
    for name, shared in victim.observation.update.items():
        assert shared.shape == target.parameters[name].shape
        assert torch.isfinite(shared).all()
    check_adaptive(defence, target, victim)


def refusal_of(call: Callable[[], object]) -> str:
    """Why a call is refused, or ""; anything but a refusal is a fault."""
    try:
        call()
    except LeakauditError as error:
        return error.message
    return ""


def check_adaptive(defence: Defence, target: Target, victim: Victim) -> None:
    """The cheapest attack that works through it runs on what its counterpart makes of the observation."""
    tried = False
    for name in attacks():
        attack = short(name)
        if attack.upper_bound or not defence.known_to(attack.adapts):
            continue
        with untouched(target, victim.observation):
            model, seen = victim.attacked_by(attack, target)
            if attack.refusal(model, seen) is None:
                assert valid(attack(model, seen, cpu_generator(3)), seen)
                return
        tried = True
    assert tried, "no attack works through it"


def audited(domain: Domain, **more: Any) -> Report:
    target = target_of(domain.references[0], domain)
    return leakaudit.scan(
        target, synthetic_batch(target, target.domain, 8, 1), victims=1, controls="none", preset="quick",
        settings={name: SHORT[name] for name in attacks() if name in SHORT}, **more,
    )  # fmt: skip


def check_rendered(report: Report, *words: str) -> None:
    """In every installed format; those that print every attack or defence print these."""
    assert Report.model_validate_json(report.model_dump_json()).model_dump() == report.model_dump()
    for kind in formats().values():
        if kind.name == "pdf":  # prints the same page as html, in seconds
            continue
        text = unescape(str(kind.render(Rendering(report))))
        assert text
        assert kind.name not in ("html", "json") or [word for word in words if word not in text] == [], kind.name


@over_tasks
def test_a_report_of_other_labels_is_rendered(task: Task) -> None:
    target = target_of(home(task).references[0], home(task), task)
    report = leakaudit.scan(
        target, synthetic_batch(target, target.domain, 8, 1), victims=1, attacks=["linear", "idlg", "embedding"],
        controls="none", preset="quick", settings={"idlg": SHORT["idlg"]},
    )  # fmt: skip
    assert report.target.task == task.kind
    assert all(a.status == "run" or clear(a.reason) for a in report.attacks)
    check_rendered(report, *(attack.title for attack in report.attacks))


@over_tasks
@over_defences
def test_a_defence_acts_on_other_labels(text: str, task: Task) -> None:
    """With the first attack that works through it: the counterparts of defences do not mind labels."""
    defence, original = parse_defence(text), target_of(home(task).references[0], home(task), task)
    made: list[tuple[Target, Victim]] = []
    with untouched(original):
        refused = refusal_of(lambda: made.append(victim_of(original, defence)))
    assert clear(refused) if refused else made
    for target, victim in made:
        assert all(bool(torch.isfinite(shared).all()) for shared in victim.observation.update.values())
        assert victim.guess.labels.shape == (len(victim.batch), *task.label_shape)
        assert target.task == task


@over_domains
def test_a_report_of_all_attacks_is_rendered(domain: Domain) -> None:
    report = audited(domain)
    assert {attack.name for attack in report.attacks} == set(NAMES)
    for attack in report.attacks:
        assert attack.status == "run" or clear(attack.reason), attack.name
    check_rendered(report, *(attack.title for attack in report.attacks))


@over_domains
@over_defences
def test_a_report_of_a_defence_is_rendered(text: str, domain: Domain) -> None:
    cheapest = {"tokens": "embedding", "waves": "division"}.get(domain.kind, "linear")
    made: list[Report] = []
    refused = refusal_of(lambda: made.append(audited(domain, defences=[text], attacks=[cheapest])))
    assert clear(refused) if refused else made
    for report in made:
        check_rendered(report, parse_defence(text).title)
