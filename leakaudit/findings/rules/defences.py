"""LA5xx: what became of the client's defences."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.findings.registry import Evidence, Found, rule, samples_of


@rule(
    "LA501",
    "The update does not look as its defence claims",
    worst="high",
    remedy="Check where in the client the filter is applied, to which tensors, and what follows it; the evidence names "
    "the property that differs.",
)
def claim_fails(evidence: Evidence) -> Iterator[Found]:
    """A property that the claimed defence gives every update (norm, noise level, zeros, distinct values) is missing.

    The auditor computes the undefended update of the same samples and compares. A filter that is configured but not
    applied, or undone by a later step, is the most common way for a defence to fail.
    """
    checked = [(d.text, d.checks) for d in evidence.defences] + [(c.text, c.checks) for c in evidence.claims]
    for text, check in [(text, check) for text, checks in checked for check in checks if not check.holds]:
        yield Found(
            "high",
            "measured",
            f"{text}: {check.what} is {check.measured}, claimed {check.expected}.",
            {"defence": text, "property": check.what, "measured": check.measured, "claimed": check.expected},
        )


@rule(
    "LA502",
    "Samples leaked although a defence was applied",
    worst="high",
    remedy="Run leakaudit defend to see which setting holds on this model, or add accounted noise, which has a bound.",
)
def defence_fails(evidence: Evidence) -> Iterator[Found]:
    """An attacker who knows the defence reconstructed samples through it.

    Many defences hold only against attackers who ignore them: what they leave of the update still determines the
    samples. The severity of what leaked is in the LA2xx findings; this one says that the defence did not prevent it.
    """
    leaked = {s.index for _, _, s in samples_of(evidence.attacks) if s.leaked}
    if evidence.defences and leaked:
        names = ", then ".join(d.text for d in evidence.defences)
        yield Found(
            "high",
            "measured",
            f"{len(leaked)} samples leaked although {names} was applied.",
            {"defences": [d.text for d in evidence.defences], "samples_leaked": len(leaked)},
        )


@rule(
    "LA503",
    "A defence was not evaluated",
    worst="medium",
    remedy="Run the attacks that work through it (leakaudit defences names them). A defence of your own needs a "
    "counterpart: an attribute adapt of the function, which does to a gradient what the defence does, differentiably.",
)
def not_evaluated(evidence: Evidence) -> Iterator[Found]:
    """No attack that ran works through what the client does, so the results show only attackers who ignore it.

    Either no attack knows of the defence, or those that do were not asked for or do not apply to this model. A
    defence that looks strong against an attacker who ignores it often falls to one who does not (Tramèr et al. 2020,
    arXiv 2002.08347).
    """
    for defence in evidence.defences:
        if not defence.evaluated:
            yield Found(
                "medium",
                "certified",
                f"{defence.text} was applied, and no attack that ran works through all that the client does.",
                {"defence": defence.text},
            )
