"""The model under audit: loading it from a file and describing it."""

from leakaudit.target.load import load
from leakaudit.target.target import FidelityNote, Target

__all__ = ["FidelityNote", "Target", "load"]
