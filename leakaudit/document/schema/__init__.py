"""The report document, schema version 1: the only thing that the views (HTML, PDF, …) read.

Keys are stable; additions only. A number that could not be computed is ``None`` with the reason beside it,
never 0 and never infinite. Images are PNG data URIs, so the document alone is enough to render every view.

Every field declares what it may show below ``--evidence full`` (see `leakaudit.document.disclosure`); one that does not
is treated as private.
"""

from __future__ import annotations

from leakaudit.document.schema.attacks import (
    CONTROL_NUMBERS,
    AttackEntry,
    AuxiliaryEntry,
    Comparison,
    ControlEntry,
    HistoryPoint,
    LabelResult,
    SnapshotEntry,
    VictimResult,
)
from leakaudit.document.schema.defences import (
    AccountingEntry,
    ClaimCheck,
    ClaimEntry,
    DefenceEntry,
    DefenceTrial,
    MisuseEntry,
    RecommendationEntry,
)
from leakaudit.document.schema.findings import (
    EVIDENCE,
    BaselineEntry,
    FindingEntry,
    PolicySection,
    SettingEntry,
    SuppressionEntry,
    Verdict,
)
from leakaudit.document.schema.protocol import BatchSection, CarriedEntry, LeftOutEntry, ProtocolSection, RoundEntry
from leakaudit.document.schema.report import MOST_BYTES, Report, VariantEntry, read_document, self_hash
from leakaudit.document.schema.samples import (
    MetricEntry,
    Metrics,
    PartResult,
    SampleResult,
    TableResult,
    TokenMetrics,
    TokenResult,
)
from leakaudit.document.schema.section import HASH_KEY, SCHEMA_VERSION, Confidence, Section, Severity
from leakaudit.document.schema.target import (
    ConstraintCounts,
    FidelityEntry,
    FirstLayer,
    InputEntry,
    RankLayer,
    RankSection,
    TargetSection,
    Tool,
)

__all__ = [
    "CONTROL_NUMBERS",
    "EVIDENCE",
    "HASH_KEY",
    "MOST_BYTES",
    "SCHEMA_VERSION",
    "AccountingEntry",
    "AttackEntry",
    "AuxiliaryEntry",
    "BaselineEntry",
    "BatchSection",
    "CarriedEntry",
    "ClaimCheck",
    "ClaimEntry",
    "Comparison",
    "Confidence",
    "ConstraintCounts",
    "ControlEntry",
    "DefenceEntry",
    "DefenceTrial",
    "FidelityEntry",
    "FindingEntry",
    "FirstLayer",
    "HistoryPoint",
    "InputEntry",
    "LabelResult",
    "LeftOutEntry",
    "MetricEntry",
    "Metrics",
    "MisuseEntry",
    "PartResult",
    "PolicySection",
    "ProtocolSection",
    "RankLayer",
    "RankSection",
    "RecommendationEntry",
    "Report",
    "RoundEntry",
    "SampleResult",
    "Section",
    "SettingEntry",
    "Severity",
    "SnapshotEntry",
    "SuppressionEntry",
    "TableResult",
    "TargetSection",
    "TokenMetrics",
    "TokenResult",
    "Tool",
    "VariantEntry",
    "Verdict",
    "VictimResult",
    "read_document",
    "self_hash",
]
