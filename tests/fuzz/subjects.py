"""What is fuzzed: every kind of file that leakaudit opens."""

from __future__ import annotations

from tests.fuzz.documents import DOCUMENTS
from tests.fuzz.models import MODELS
from tests.fuzz.samples import SAMPLES
from tests.fuzz.tables import TABLES

SUBJECTS = (*MODELS, *SAMPLES, *TABLES, *DOCUMENTS)
"""Every kind, with its share in percent."""
assert sum(subject.share for subject in SUBJECTS) == 100
