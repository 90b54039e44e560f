"""leakaudit: audit what one shared update of a federated model gives away about its training samples.

    import leakaudit

    report = leakaudit.scan("model.onnx", "batch.npz")
    report.save("leakaudit-report")

Everything heavy is imported on first use, so that ``leakaudit --help`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leakaudit.document.version import __version__ as __version__

if TYPE_CHECKING:
    from leakaudit.api import defend, scan, sweep
    from leakaudit.attacks.base import Attack
    from leakaudit.audit.request import Request
    from leakaudit.client.batch import Batch
    from leakaudit.client.readers.images import load_batch
    from leakaudit.defences.base import ClientStep, Defence
    from leakaudit.defences.evidence import Check, Guarantee
    from leakaudit.document.redact import redact
    from leakaudit.document.status import Cause, Cut, Lost, VerdictStatus
    from leakaudit.domains.base import Domain
    from leakaudit.domains.images import Images
    from leakaudit.domains.signals import Signals
    from leakaudit.domains.tokens import Tokens
    from leakaudit.domains.volumes import Volumes
    from leakaudit.errors import AuditError, BatchError, LeakauditError, ModelError, UsageError
    from leakaudit.observation import Channel, Observation
    from leakaudit.observer import Observer
    from leakaudit.policy.apply import apply_policy
    from leakaudit.policy.read import Policy
    from leakaudit.protocols.base import Play, Protocol
    from leakaudit.protocols.fedsgd import FedSGD
    from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
    from leakaudit.report.formats.base import Format
    from leakaudit.report.saving import Report
    from leakaudit.sweeps.outcome import SweepReport
    from leakaudit.sweeps.request import DefendRequest
    from leakaudit.sweeps.run import Running
    from leakaudit.target.load import load
    from leakaudit.target.readers import Reader
    from leakaudit.target.target import Target

_HOMES = {
    "Attack": "attacks.base",
    "AuditError": "errors",
    "Batch": "client.batch",
    "BatchError": "errors",
    "Cause": "document.status",
    "Channel": "observation",
    "Check": "defences.evidence",
    "ClientStep": "defences.base",
    "Cut": "document.status",
    "Defence": "defences.base",
    "DefendRequest": "sweeps.request",
    "Domain": "domains.base",
    "FedSGD": "protocols.fedsgd",
    "Format": "report.formats.base",
    "Guarantee": "defences.evidence",
    "Images": "domains.images",
    "LeakauditError": "errors",
    "Lost": "document.status",
    "ModelError": "errors",
    "Monitor": "reconstruction",
    "NotApplicable": "reconstruction",
    "Observation": "observation",
    "Observer": "observer",
    "Play": "protocols.base",
    "Policy": "policy.read",
    "Protocol": "protocols.base",
    "Reader": "target.readers",
    "Reconstruction": "reconstruction",
    "Report": "report.saving",
    "Request": "audit.request",
    "Running": "sweeps.run",
    "Signals": "domains.signals",
    "SweepReport": "sweeps.outcome",
    "Target": "target",
    "Tokens": "domains.tokens",
    "UsageError": "errors",
    "VerdictStatus": "document.status",
    "Volumes": "domains.volumes",
    "apply_policy": "policy.apply",
    "defend": "api",
    "load": "target",
    "load_batch": "client.readers.images",
    "redact": "document.redact",
    "scan": "api",
    "sweep": "api",
}

__all__ = [
    "Attack",
    "AuditError",
    "Batch",
    "BatchError",
    "Cause",
    "Channel",
    "Check",
    "ClientStep",
    "Cut",
    "Defence",
    "DefendRequest",
    "Domain",
    "FedSGD",
    "Format",
    "Guarantee",
    "Images",
    "LeakauditError",
    "Lost",
    "ModelError",
    "Monitor",
    "NotApplicable",
    "Observation",
    "Observer",
    "Play",
    "Policy",
    "Protocol",
    "Reader",
    "Reconstruction",
    "Report",
    "Request",
    "Running",
    "Signals",
    "SweepReport",
    "Target",
    "Tokens",
    "UsageError",
    "VerdictStatus",
    "Volumes",
    "apply_policy",
    "defend",
    "load",
    "load_batch",
    "redact",
    "scan",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leakaudit' has no attribute {name!r}")
    return getattr(import_module(f"leakaudit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
