"""What an attacker of threat model D learns from: public samples that the user named, or what stands for such.

Where none are named, the samples of the batch file that belong to no victim stand for the attacker's own, at least
`FEWEST` of them: they are of the clients' distribution, which is the strongest such attacker. Whoever of them equals a
sample of a victim is left out, so that nobody holds the answer; near-duplicates are not looked for, and the report says
so. Else a generic set is generated with the spectrum of such samples. The report names which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.gi_pip import LARGEST
from leakaudit.audit.victim import Knowledge
from leakaudit.client.batch import Batch, unlike
from leakaudit.document.schema import AuxiliaryEntry
from leakaudit.document.status import AuxiliarySource
from leakaudit.domains.base import Domain

FEWEST = 64
"""Samples of the batch file that no victim holds, at least; chosen: fewer say little of a distribution."""
MOST = 1024
"""Samples of the batch file at most, the first; chosen: a short training sees no more."""
GENERATED = 256
"""Samples of the generic set; chosen."""


def with_auxiliary(
    knowledge: Knowledge,
    domain: Domain,
    samples: Batch,
    victims: Sequence[Batch],
    attacks: Sequence[Attack],
) -> Knowledge:
    """What every victim's attacker knows, with samples to learn from where an attack asks for some and has none.

    Args:
        knowledge: With the public samples that the user named, if any.
        domain: What a sample is.
        samples: The batch file.
        victims: Every batch that an update is of, also where it leaves no trace.
        attacks: Those that will run.
    """
    asking = any(attack.uses_auxiliary and domain.kind in attack.reads for attack in attacks)
    if not asking or knowledge.auxiliary is not None or prod(domain.shape) > LARGEST:
        return knowledge
    spare = _spare(samples, victims)
    if len(spare) >= FEWEST:
        found, source, share = spare[:MOST], AuxiliarySource.BATCH_FILE, min(len(spare), MOST) / len(samples)
        return knowledge.learning(found, AuxiliaryEntry(source=source, samples=len(found), share=share))
    made = domain.decode(domain.look_alikes(GENERATED, torch.Generator().manual_seed(0)))
    return knowledge.learning(made, AuxiliaryEntry(source=AuxiliarySource.GENERATED, samples=len(made)))


def _spare(samples: Batch, victims: Sequence[Batch]) -> Tensor:
    """The samples of the file that no victim has; none where nobody knows what a victim has."""
    if not samples.known or not all(victim.known for victim in victims):
        return samples.images[:0]
    return unlike(samples.images, [victim.images for victim in victims])
