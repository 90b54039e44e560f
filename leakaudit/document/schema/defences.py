"""Of the report: defences and claims with what updates show of them, and what is recommended."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from leakaudit.document.disclosure import Public
from leakaudit.document.schema.section import Confidence, Section
from leakaudit.document.status import MisuseKind, RunStatus


class AccountingEntry(Section):
    """What an accounted random defence guarantees, whatever the attack."""

    epsilon: Public[float | None]
    delta: Public[float]
    noise_multiplier: Public[float]
    rate: Public[float]
    steps: Public[int]
    prior: Public[float] = Field(description="probability of guessing a sample before any update")
    reconstruction: Public[float] = Field(
        description="largest probability of reconstructing it after all updates (ReRo)"
    )
    reconstruction_one_step: Public[float] = Field(description="the same from one update that the sample took part in")
    epsilon_one_step: Public[float | None] = Field(default=None, description="ε of such an update")
    epsilon_renyi: Public[float | None] = Field(default=None, description="ε of the training by Rényi accounting")
    reading: Public[str] = Field(default="", description="how the settings were read: units and divisor of the noise")
    other_reading: Public[str] = Field(default="", description="another unit that the noise may have been meant in")
    other_epsilon: Public[float | None] = Field(default=None, description="ε of the training, were it so")
    other_reconstruction: Public[float | None] = Field(
        default=None, description="the bound of the training, were it so"
    )
    unit: Public[Literal["sample", "client"]] = Field(
        default="sample", description="whose presence ε hides: one sample, or one client with all its samples"
    )
    update_steps: Public[int] = Field(
        default=1, description="mechanisms that one update composes for whoever took part in it"
    )
    mse: Public[float | None] = Field(
        default=None, description="least MSE of unbiased attackers from one update, in pixels"
    )
    mse_reason: Public[str] = ""


class ClaimCheck(Section):
    """One property that the shared update should have by the claimed defence."""

    what: Public[str]
    expected: Public[str]
    measured: Public[str]
    holds: Public[bool]


class MisuseEntry(Section):
    """One thing that deployed code does wrong with a defence."""

    kind: Public[MisuseKind]
    told: Public[str]
    sure: Public[Confidence]
    grave: Public[bool] = Field(description="whether the protection is void, and not merely less than stated")


class DefenceEntry(Section):
    """What clients do to their updates, and what the attacker who knows it does about it."""

    name: Public[str]
    title: Public[str]
    text: Public[str] = Field(description="as on the command line")
    settings: Public[dict[str, Any]] = Field(default_factory=dict)
    adaptive_attack: Public[str] = Field(default="", description="empty: attacked only by those who ignore it")
    evaluated: Public[bool] = Field(
        description="an attack that works through all defences of the client ran on this model"
    )
    evaluated_by: Public[list[str]] = Field(default_factory=list, description="names of these attacks")
    reference: Public[str] = ""
    accounting: Public[AccountingEntry | None] = Field(default=None, description="only for a clipped and noised update")
    accounting_reason: Public[str] = Field(default="", description="why there is no bound")
    withheld: Public[bool] = Field(default=False, description="it would have a bound, and a premise of it fails here")
    checks: Public[list[ClaimCheck]] = Field(default_factory=list)
    remains: Public[str] = Field(default="", description="what stays exact through it, where that is worth saying")
    misuses: Public[list[MisuseEntry]] = Field(default_factory=list)


class ClaimEntry(Section):
    """A defence that the client believes in, held against what it shared."""

    text: Public[str]
    checks: Public[list[ClaimCheck]]
    misuses: Public[list[MisuseEntry]] = Field(default_factory=list)


class RecommendationEntry(Section):
    """What would help, and how its effect is known."""

    title: Public[str]
    effect: Public[str]
    status: Public[Literal["measured", "computed", "literature"]]
    reference: Public[str] = ""
    try_it: Public[str] = Field(default="", description="a command that measures it")


class DefenceTrial(Section):
    """One setting of a defence, attacked and trained with. An empty text is the undefended model."""

    text: Public[str]
    title: Public[str]
    status: Public[Literal[RunStatus.RUN, RunStatus.NOT_RUN]]
    reason: Public[str] = ""
    adaptive_attack: Public[str] = ""
    evaluated: Public[bool] = True
    attacked: Public[int] = Field(default=0, description="samples attacked")
    leaked: Public[int] = 0
    leaked_interval: Public[list[float] | None] = Field(
        default=None, description="Clopper-Pearson, 95 %; needs 5 samples"
    )
    psnr: Public[float | None] = Field(default=None, description="best sample of all attacks, dB")
    metrics: Public[dict[str, float | None]] = Field(default_factory=dict, description="of that sample, by name")
    told: Public[str] = Field(default="", description="how near it is, in words; empty where nothing was attacked")
    attack: Public[str] = Field(default="", description="the attack that it came from")
    value: Public[float | None] = Field(default=None, description="what the goal compares")
    meets: Public[bool] = False
    loss: Public[float | None] = Field(default=None, description="on held-out samples after training with the setting")
    accuracy: Public[float | None] = None
    evaluated_on: Public[int] = Field(default=0, description="held-out samples")
    accounting: Public[AccountingEntry | None] = None
    seconds: Public[float] = 0.0
    recommended: Public[bool] = False

    @model_validator(mode="after")
    def _shown_by_attacks(self) -> DefenceTrial:
        """What no attack that works through it was measured with meets no goal, and is not recommended."""
        if not self.evaluated or self.status is not RunStatus.RUN:
            self.meets = self.recommended = False
        return self
