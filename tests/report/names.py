"""Reports in which whatever a user can name has a hard name: long, of another alphabet, or a command."""

from __future__ import annotations

from leakaudit.document.schema import FidelityEntry, Report, TableResult
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy
from tests.report.builder import build

PLAIN = {
    "sixty": "Ward for the observation of contagious diseases, north wing",
    "one word": "encoder_layer_11_attention_self_query_projection_weight_matr",
    "Arabic": "جناح الأطفال في المستشفى الجامعي بمدينة فاس",
    "Hebrew": "מחלקת ילדים בבית החולים האוניברסיטאי",
    "Cyrillic": "Отделение детской хирургии городской больницы номер восемь",
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "command": "::set-output name=verdict::pwned ##[error]pwned",
    "template": "{{ 7*7 }} {% raw %} </style> $\\frac{1}{2}$ *bold* [a](b) |",
}
PICTURED = {
    "Chinese": "儿科病房第三观察区", "Japanese": "小児科の病室、カルテ", "Korean": "소아과 병동의 흉부 엑스레이",
    "emoji": "lungs \U0001fac1 bone \U0001f9b4 heart \u2764",
}  # fmt: skip
ESCAPES = {"escapes": "\x1b[31mred\x1b[0m\x07 bell \u202e back \u200b nothing \x00"}
NAMES = PLAIN | PICTURED | ESCAPES


def named(names: list[str]) -> Report:
    """Model, files, layers, tensors, classes and attack are called so, one after the other; every sample leaks."""
    report = build(victims=(len(names) + 2) // 3, runs=1, batch=3)
    samples = [s for a in report.attacks for r in a.results for s in r.samples]
    for place, sample in enumerate(samples):
        sample.label, sample.leaked = place % len(names), True
        sample.inferred_label = sample.label
    layers = [
        report.rank.layers[place % 7].model_copy(update={"name": text, "note": f"as {text}"})
        for place, text in enumerate(names)
    ]
    fidelity = [FidelityEntry(id="LA906", message=f"a tensor feeds several nodes: {text}", hint="") for text in names]
    target = {"name": names[0], "path": f"{names[-1]}.onnx", "fidelity": fidelity, "layers": names}
    told = [f.model_copy(update={"message": " and ".join([f.message, *names[:3]])}) for f in report.findings]
    changes = {
        "target": report.target.model_copy(update={**target, "dropout_layers": names, "batchnorm_layers": names}),
        "batch": report.batch.model_copy(update={"path": f"{names[0]}.npz", "class_names": names}),
        "protocol": report.protocol.model_copy(update={"update_path": names[1], "update_sha256": "b7" * 32}),
        "rank": report.rank.model_copy(update={"layers": layers}),
        "findings": told,
        "command": ["leakaudit", "scan", *names[:2]],
    }
    return apply_policy(report.model_copy(update=changes), Policy())


def named_table(names: list[str]) -> Report:
    """Rows whose columns and cells are called so."""
    report = build(victims=1, runs=1)
    report.target.domain = "table"
    report.target.columns = len(names)
    row = TableResult(
        columns=len(names), right=len(names) - 1, names=names, original=names,
        recovered=[*names[:-1], "something else"], wrong=[len(names) - 1], errors=[None] * len(names),
    )  # fmt: skip
    for sample in report.attacks[0].results[0].samples:
        sample.table, sample.leaked = row, True
        sample.original_png = sample.reconstruction_png = None
    return apply_policy(report, Policy())
