"""Of the report: the program, the model under audit, and the risk that lies in its architecture."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakaudit.document.disclosure import FileName, Public
from leakaudit.document.schema.section import Section


class Tool(Section):
    """The program that wrote the report."""

    name: Public[str] = "leakaudit"
    version: Public[str]


class FidelityEntry(Section):
    """One difference between the audited network and the one that the client may train."""

    id: Public[str]
    message: Public[str]
    hint: Public[str] = ""


class FirstLayer(Section):
    """The trained layer that reads the input."""

    name: Public[str]
    kind: Public[str]
    bias: Public[bool] = Field(description="whether its bias is trained, so part of an update")


class InputEntry(Section):
    """One of several inputs of a model."""

    name: Public[str]
    domain: Public[str] = Field(description="what it is: images, signals, volumes or table")
    shape: Public[list[int]]


class TargetSection(Section):
    """The model under audit."""

    name: Public[str]
    path: FileName[str | None]
    repository_path: Public[str | None] = Field(
        default=None, description="path from the root of the repository that holds the file, as code scanning wants it"
    )
    sha256: Public[str | None]
    format: Public[str]
    producer: Public[str] = ""
    classes: Public[int] = Field(description="number of classes; 0 where labels are no classes")
    task: Public[str] = Field(default="single-label", description="what a label is, by the name of its task")
    task_evidence: Public[str] = Field(default="", description="what the task was told from, or what asked for it")
    outputs: Public[int | None] = Field(default=None, description="numbers that the model returns per sample")
    input_shape: Public[list[int]]
    native_shape: Public[list[int]] = Field(default_factory=list)
    layout: Public[str] = "NCHW"
    domain: Public[str] = Field(default="", description="what a sample is: images, tokens, table, or that of a plug-in")
    vocabulary: Public[int | None] = Field(default=None, description="number of token ids, where the layout is tokens")
    columns: Public[int | None] = Field(default=None, description="number of columns of a table")
    inputs: Public[list[InputEntry]] = Field(
        default_factory=list, description="the inputs of the model that are one sample together, where it has several"
    )
    unread: Public[int] = Field(
        default=0, description="entries of an input that the model never reads; they are left out of every score"
    )
    parameters: Public[int]
    trainable_tensors: Public[int]
    layers: Public[list[str]] = Field(default_factory=list)
    resting: Public[list[str]] = Field(
        default_factory=list, description="trained tensors that have no gradient only because others are still zero"
    )
    dropout_layers: Public[list[str]] = Field(default_factory=list)
    batchnorm_layers: Public[list[str]] = Field(default_factory=list)
    first_layer: Public[FirstLayer | None] = None
    fidelity: Public[list[FidelityEntry]] = Field(default_factory=list)
    loss: Public[str] = "cross-entropy"


class ConstraintCounts(Section):
    """Equations that a layer's input must satisfy, by origin."""

    gradient: Public[int | None]
    weight: Public[int | None]
    virtual: Public[int | None]


class RankLayer(Section):
    """Rank analysis of one layer."""

    name: Public[str]
    kind: Public[str]
    unknowns: Public[int | None]
    constraints: Public[ConstraintCounts]
    index: Public[int | None] = Field(description="the paper's count: unknowns - gradient - weight constraints")
    rank: Public[int | None] = Field(default=None, description="exact structural rank of the layer's linear system")
    deficit: Public[int | None] = Field(default=None, description="unknowns - rank")
    unique: Public[bool | None]
    bound: Public[bool] = Field(
        default=False, description="rank is an upper bound: a deficit is certain, its absence is not"
    )
    note: Public[str] = ""


class RankSection(Section):
    """Risk inherent in the architecture."""

    risk: Public[Literal["high", "medium", "low", "unknown"]]
    score: Public[float | None]
    score_reason: Public[str] = ""
    level: Public[str] = Field(
        default="", description="exact leak, identifiable, partially identifiable, counts unavailable"
    )
    propagated_deficit: Public[int | None] = None
    layers: Public[list[RankLayer]]
    notes: Public[list[str]] = Field(default_factory=list)
    update_change: Public[float | None] = Field(
        default=None, description="relative change of the update by another sample; null where not computed"
    )
    update_flat: Public[bool] = Field(default=False, description="neither logits nor update have a slope in the input")
    update_told: Public[str] = Field(default="", description="that the update hardly depends on the sample, if so")
    smallest_changes: Public[list[str]] = Field(
        default_factory=list, description="single changes after which the update determines less, the cheapest first"
    )
