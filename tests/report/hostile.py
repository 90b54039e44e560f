"""A report whose every name is hostile."""

from __future__ import annotations

from leakaudit.document.schema import Report
from tests.report.builder import build

EVIL = "<script>alert(1)</script>{{7*7}}{% raw %}</style>$\\frac{"
LONG = "W" * 10_240


def hostile() -> Report:
    """Markup, control characters, very long words and foreign addresses in every place that a model's author fills."""
    document = build(victims=2, runs=1).model_dump()
    document["target"].update(name=EVIL, path=LONG, producer="\x00\x1b[31m\u202e", dropout_layers=[LONG])
    document["rank"]["layers"][0].update(name=EVIL + LONG, kind=LONG)
    document["batch"]["class_names"] = [EVIL, LONG, "\u202e\x00"] * 2
    document["attacks"][0].update(title=EVIL + LONG, name='"><img src=x onerror=alert(1)>', given={EVIL: LONG})
    document["findings"][0].update(title=LONG, message=EVIL, remedy=LONG, evidence={EVIL: [EVIL]})
    document["verdict"].update(headline=LONG, status=EVIL, assumed=[EVIL])
    document["versions"][LONG] = EVIL
    document["command"] = [EVIL, LONG]
    sample = document["attacks"][0]["results"][0]["samples"][0]
    sample.update(original_png="https://attacker.example/x.png", reconstruction_png="data:text/html,<script>1</script>")
    return Report.model_validate(document)
