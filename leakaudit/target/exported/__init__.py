"""``torch.export`` programs (``.pt2``), read and interpreted without torch's loader; see `read` and `graph`."""

from leakaudit.target.exported.load import from_exported
from leakaudit.target.exported.module import BatchNorm, ExportedModule

__all__ = ["BatchNorm", "ExportedModule", "from_exported"]
