"""What the updates of an audit show of defences: of those that clients have, and of those that somebody claims."""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.attacks.base import Attack
from leakaudit.audit.defended import claim_entry, defence_entries
from leakaudit.audit.environment import seed_of
from leakaudit.audit.intake import Material
from leakaudit.audit.practice import practice_of, single_numbers
from leakaudit.audit.request import Request
from leakaudit.audit.victim import Victim
from leakaudit.client.examine import (
    UNKNOWN_SAMPLES,
    DefenceEvidence,
    examine,
    examine_claims,
    examine_recorded,
)
from leakaudit.defences.obstacles import Circumstances
from leakaudit.document.schema import ClaimEntry, DefenceEntry
from leakaudit.target.coupling import coupling
from leakaudit.target.target import Target


def examined_defences(
    target: Target,
    victim: Victim,
    request: Request,
    ran: Sequence[Attack],
    claims: Sequence[ClaimEntry],
    material: Material,
) -> list[DefenceEntry]:
    """What the defences guarantee, what they did to the first victim's update, and which attacks evaluated them."""
    defences = request.defending()
    if not defences:
        return []
    seed = seed_of(request.seed, "client", victim.number)
    recorded = request.recorded
    if victim.batch.known:
        evidence = examine(
            *(victim.model or target, victim.batch, victim.observation, seed, defences), recorded=recorded
        )
    else:
        evidence = [DefenceEvidence((), None, UNKNOWN_SAMPLES, UNKNOWN_SAMPLES) for _ in defences]
    protocol = victim.observation.protocol
    failed = tuple(check.what for claim in claims for check in claim.checks if not check.holds)
    circumstances = Circumstances(
        *(protocol.batch_size, coupling(target), protocol.beside),
        failed=failed,
        recorded=recorded,
        protocol=protocol,
        entries=sum(tensor.numel() for tensor in target.parameters.values()),
        scalars=single_numbers(target),
    )
    practice = practice_of(target, victim, request, material, defences)
    return defence_entries(defences, evidence, ran, circumstances, practice)


def examined_claims(
    target: Target, victims: Sequence[Victim], request: Request, material: Material
) -> list[ClaimEntry]:
    """Whether updates look as the client believes, recorded ones without a claim as they should without a defence.

    A computed update is checked of the first victim alone, since one client makes them all; recorded ones wherever
    somebody has the samples.
    """
    looked = [victim for victim in (victims if request.recorded else victims[:1]) if victim.batch.known]
    found = [entry for victim in looked for entry in _claims_of(target, victim, request, material)]
    if len(looked) < 2:
        return found
    numbers = [victim.number for victim in looked for _ in range(len(found) // len(looked))]
    return [
        entry.model_copy(update={"text": f"{entry.text} (victim {number})"})
        for entry, number in zip(found, numbers, strict=True)
    ]


def _claims_of(target: Target, victim: Victim, request: Request, material: Material) -> list[ClaimEntry]:
    """The same of one victim."""
    target = victim.model or target
    seed = seed_of(request.seed, "client", victim.number)
    claims = request.claimed()
    if request.recorded and not (request.defences or claims):
        return [claim_entry("no defence", examine_recorded(target, victim.batch, victim.observation, seed))]
    if not claims:
        return []
    found = examine_claims(
        *(target, victim.batch, victim.observation, seed, claims, request.defending()),
        recorded=request.recorded,
    )
    practice = practice_of(target, victim, request, material, request.defending())
    pairs = zip(claims, found, strict=True)
    return [claim_entry(str(claim), checks, claim, practice) for claim, checks in pairs]
