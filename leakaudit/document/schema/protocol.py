"""Of the report: the private samples, and how a client makes an update of them or made a recorded one."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from leakaudit.document.disclosure import Private, Public
from leakaudit.document.schema.section import Section


class BatchSection(Section):
    """The private samples: counts and hashes only; images appear with the results."""

    path: Private[str | None]
    sha256: Public[str | None]
    samples: Public[int]
    batch_size: Public[int]
    victims: Public[int]
    mean: Public[list[float]]
    std: Public[list[float]]
    accuracy: Public[float | None] = Field(
        default=None, description="share of the samples that the model classifies right, in eval mode"
    )
    accuracy_reason: Public[str] = ""
    accuracy_samples: Public[int] = Field(default=0, description="how many samples of the file it was measured on")
    class_names: Private[list[str]] = Field(default_factory=list)
    notes: Private[list[str]] = Field(default_factory=list)
    distinct_records: Public[list[int | None]] = Field(
        default_factory=list,
        description="of each victim, how many distinct records the rank of its update shows; null where none does",
    )


class RoundEntry(Section):
    """One of several recorded rounds, a victim each."""

    victim: Public[int]
    label: Private[str] = Field(description="its folder")
    client: Private[str] = ""
    round: Public[str] = ""
    kind: Public[str] = Field(description="weights, delta or gradient")
    sha256: Public[str | None]
    samples: Public[int] = Field(description="behind the update")
    known: Public[bool] = Field(description="whether the samples were there to score reconstructions against")
    own_weights: Public[bool] = Field(
        description="it began with other weights than the model's, and was attacked there"
    )
    notes: Public[list[str]] = Field(default_factory=list, description="what reading it changed, one sentence each")


class LeftOutEntry(Section):
    """A recorded round that does not go with the model or the others."""

    label: Private[str]
    reason: Private[str]


class CarriedEntry(Section):
    """Two rounds of one client between which momentum was kept."""

    earlier: Private[str]
    later: Private[str]
    tensor: Public[str] = Field(description="whose rows show it")
    rows: Public[int] = Field(description="how many repeat the earlier round by one factor")
    factor: Public[float]


class ProtocolSection(Section):
    """How the client makes an update."""

    algorithm: Public[str] = "fedsgd"
    title: Public[str] = Field(  # documents without this key are of the one protocol that there was
        default="FedSGD: one gradient", description="The protocol's name for people, and what a client shares"
    )
    steps: Public[int] = Field(
        default=1,
        description="Local steps behind one update; where settings hold no local_steps, only their least number",
    )
    assumption: Public[str] = Field(
        default="", description="How the update is taken to be made, as the verdict states it"
    )
    mode: Public[str] = "eval"
    batch_size: Public[int]
    shared_statistics: Public[str] = Field(default="none", description="BatchNorm statistics that go with an update")
    settings: Public[dict[str, Any]] = Field(
        default_factory=dict,
        description="What else the protocol says of itself, by name, such as a local learning rate",
    )
    update_path: Private[str | None] = Field(
        default=None, description="File of a recorded update; without one it is computed"
    )
    update_sha256: Public[str | None] = None
    update_notes: Public[list[str]] = Field(
        default_factory=list, description="What was renamed or left out in reading a recorded update, one sentence each"
    )
    weight_decay: Public[float | None] = Field(
        default=None, description="weight decay that was subtracted from a recorded update"
    )
    weight_decay_note: Public[str] = Field(default="", description="how it is known")
    rounds: Public[list[RoundEntry]] = Field(
        default_factory=list, description="where several rounds were recorded, one entry a victim"
    )
    left_out: Public[list[LeftOutEntry]] = Field(default_factory=list)
    carried: Public[list[CarriedEntry]] = Field(default_factory=list)
    statistics_sent: Public[list[str] | None] = Field(
        default=None, description="BatchNorm layers whose statistics a recorded update holds; null where it is computed"
    )

    @property
    def batch_sizes(self) -> list[int]:
        """The samples behind each update; recorded rounds may differ in them."""
        return [entry.samples for entry in self.rounds] or [self.batch_size]
