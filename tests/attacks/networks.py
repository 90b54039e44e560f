"""For every attack, a network that it applies to, and settings that keep its run short."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod

import torch

from leakaudit.attacks.base import REAL, Attack
from leakaudit.attacks.registry import create
from leakaudit.audit.references import reference_target, synthetic_batch
from leakaudit.audit.victim import Knowledge, Victim, observe_victim
from leakaudit.defences.base import Defence
from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.references import REFERENCES, TABLE_REFERENCES, TEXT_REFERENCES, VOCABULARY, Reference
from leakaudit.domains.tokens import Tokens
from leakaudit.matching.generator import OwnGenerator
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from tests.generators import path_for
from tests.tables import TABLE

SHORT = {
    "gi-pip": {"iterations": "12", "training_steps": "3"},
    "tableak": {"iterations": "12", "restarts": "2"},
    "lp": {"programs": "40"},
    **{
        name: {"iterations": "12"}
        for name in ("ig", "dlg", "idlg", "dia", "wia", "gradinversion", "sme", "dlfa", "gias")
    },
}


def _with_trained_batchnorm(shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
    norm = torch.nn.BatchNorm2d(4)
    norm.running_mean = torch.linspace(-0.2, 0.3, 4)
    flat = 4 * shape[1] * shape[2]
    layers = [torch.nn.Conv2d(shape[0], 4, 3, padding=1), norm, torch.nn.GELU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(flat, classes))


class _Levels(torch.nn.Module):
    """Looks up every pixel's level in a table."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.table, self.position = torch.nn.Embedding(LEVELS, 8), torch.nn.Parameter(torch.randn(prod(shape), 8))
        self.head = torch.nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = (x.flatten(1) * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)
        logits: torch.Tensor = self.head(torch.tanh(self.table(levels) + self.position).mean(1))
        return logits


LEVELS = 200
INDEXED = replace(REFERENCES[0], name="indexed", build=_Levels)
BATCHNORM = replace(REFERENCES[0], name="batchnorm", build=_with_trained_batchnorm)
SPACE = Images((3, 12, 12), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TEXTS = Tokens.of(6, VOCABULARY)


def short(name: str) -> Attack:
    """The attack, with few iterations where it has any."""
    return create(name, "quick", SHORT.get(name))


def prepared(target: Target, *defences: Defence) -> Knowledge:
    """An attacker of threat model D: with samples to learn from, and for domains that have them a generator."""
    domain = target.domain
    own = OwnGenerator.of(path_for(domain.kind, domain.shape), domain) if domain.kind in REAL else None
    auxiliary = synthetic_batch(target, domain, 64, 7).images
    return Knowledge(defences=defences, auxiliary=auxiliary, generator=own)


STEPS: dict[str, dict[str, int]] = {
    "sme": {"local_epochs": 2},
    "dlfa": {"local_epochs": 2, "local_batch_size": 1},
    "local steps": {"local_epochs": 2, "local_batch_size": 1},
}
"""Local training that an attack on several steps needs, beside which it has nothing to read."""


LOCAL = "local steps"
"""In the place of an attack's name: clients that train locally in steps of one sample, whatever the attack."""


def victim_of(reference: Reference, domain: Domain, size: int, name: str = "") -> tuple[Target, Victim]:
    """A bundled network with a private batch of some samples, for an attack of this name, or for `LOCAL`."""
    target = reference_target(reference, domain, 5)
    private = synthetic_batch(target, target.domain, 8, 1).subset(range(size))
    knowledge = prepared(target)
    steps = STEPS.get(name)
    protocol = FedAvg(size, target.mode, **steps) if steps else FedSGD(size, target.mode)
    return target, observe_victim(target, private, protocol, target.domain, knowledge, 0)


_looked_at = cache(victim_of)


def others() -> list[tuple[Reference, Domain]]:
    """The bundled networks over texts and tables."""
    return [*((one, TEXTS) for one in TEXT_REFERENCES), *((one, TABLE) for one in TABLE_REFERENCES)]


def attacked(name: str, space: Images, size: int, *, local: bool = False) -> tuple[Target, Victim] | None:
    """The first bundled network that an attack applies to, with a private batch of its own of some samples.

    With `local` its client takes several steps, for an attack that needs no more than one as well.
    """
    attack = short(name)
    for reference, domain in (*((one, space) for one in (*REFERENCES, BATCHNORM)), *others()):
        needed = LOCAL if local else name if name in STEPS else ""
        target, victim = _looked_at(reference, domain, size, needed)
        if attack.refusal(*victim.attacked_by(attack, target)) is None:
            return victim_of(reference, domain, size, needed)
    return None
