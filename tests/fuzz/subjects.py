"""What is fuzzed: every kind of file that leakaudit opens, and command lines."""

from __future__ import annotations

from tests.fuzz.documents import DOCUMENTS
from tests.fuzz.models import MODELS
from tests.fuzz.samples import SAMPLES
from tests.fuzz.tables import TABLES
from tests.fuzz.words import LINES

SUBJECTS = (*MODELS, *SAMPLES, *TABLES, *DOCUMENTS, *LINES)
"""Every kind, with its share in percent."""
assert sum(subject.share for subject in SUBJECTS) == 100
