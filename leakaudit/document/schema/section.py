"""Parts of a document: what they have in common."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from leakaudit.safety.text import encodable

SCHEMA_VERSION = 1
HASH_KEY = "self_sha256"

Severity = Literal["critical", "high", "medium", "low", "none"]
Confidence = Literal["certified", "measured", "estimated"]


class Section(BaseModel):
    """A part of a document: strict, in valid Unicode."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    @model_validator(mode="before")
    @classmethod
    def _in_unicode(cls, values: Any) -> Any:
        """Names of files may hold bytes of no encoding; a document that is made of one is still written."""
        return encodable(values)
