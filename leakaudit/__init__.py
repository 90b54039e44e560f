"""leakaudit: audit what one shared update of a federated model gives away about its training samples.

    import leakaudit

    report = leakaudit.scan("model.onnx", "batch.npz")
    report.save("leakaudit-report")

Everything heavy is imported on first use, so that ``leakaudit --help`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leakaudit.api import scan
    from leakaudit.audit.request import AuditOptions
    from leakaudit.client.batch import Batch
    from leakaudit.client.readers.images import load_batch
    from leakaudit.document.schema import Report
    from leakaudit.domains.base import Domain
    from leakaudit.domains.images import Images
    from leakaudit.domains.tokens import Tokens
    from leakaudit.errors import AuditError, BatchError, LeakauditError, ModelError, UsageError
    from leakaudit.observation import Observation
    from leakaudit.observer import Observer
    from leakaudit.protocols.base import Play, Protocol
    from leakaudit.protocols.fedsgd import FedSGD
    from leakaudit.target.load import load
    from leakaudit.target.target import Target

__version__ = "0.1.0"

_HOMES = {
    "AuditError": "errors",
    "AuditOptions": "audit.request",
    "Batch": "client.batch",
    "BatchError": "errors",
    "Domain": "domains.base",
    "FedSGD": "protocols.fedsgd",
    "Images": "domains.images",
    "LeakauditError": "errors",
    "ModelError": "errors",
    "Observation": "observation",
    "Observer": "observer",
    "Play": "protocols.base",
    "Protocol": "protocols.base",
    "Report": "document.schema",
    "Target": "target",
    "Tokens": "domains.tokens",
    "UsageError": "errors",
    "load": "target",
    "load_batch": "client.readers.images",
    "scan": "api",
}

__all__ = [
    "AuditError",
    "AuditOptions",
    "Batch",
    "BatchError",
    "Domain",
    "FedSGD",
    "Images",
    "LeakauditError",
    "ModelError",
    "Observation",
    "Observer",
    "Play",
    "Protocol",
    "Report",
    "Target",
    "Tokens",
    "UsageError",
    "load",
    "load_batch",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leakaudit' has no attribute {name!r}")
    return getattr(import_module(f"leakaudit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
