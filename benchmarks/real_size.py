"""The models people train at the size they train them: do they load, what does rank analysis cost, is a budget kept.

    python benchmarks/real_size.py                       # every row that the results lack, one after the other
    python benchmarks/real_size.py --only resnet18       # of one network
    python benchmarks/real_size.py --interrupts 10       # Ctrl-C at so many moments of a scan, and what is left then
    python benchmarks/real_size.py --table               # results/real_size.md from the rows that there are

Every network of `NETWORKS` has random weights and 224 px. It is exported in four forms (both exporters of ONNX,
``.pt2``, weights with a factory), each is inspected, and the first that loads is ranked and scanned on one victim
with a time budget. A case is a process of its own with a time limit; its row is added to the results when it ends,
and a case that has a row is not run again, so an interrupted run goes on. Networks of packages that are not installed
are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "benchmarks" / "results" / "real_size.jsonl"
SIDE, CLASSES, FINDINGS = 224, 10, 14
FORMS = ("legacy", "default", "pt2", "factory")
SUFFIX = {"legacy": ".onnx", "default": ".default.onnx", "pt2": ".pt2", "factory": ".safetensors"}
SCANNED = [
    *("--batch", "batch.npz", "--mean", "0.5", "--std", "0.25", "--victims", "1", "--no-cache"),
    *("--format", "json", "--format", "html"),
]
"""How a scan is asked for."""
LIMIT = 600.0
"""Seconds after which a case is ended."""
OVER = 1.15
"""Times its budget that a scan may take, report included."""


@dataclass(frozen=True)
class Network:
    """One row of the table.

    Args:
        name: Its row.
        package: What it is of.
        build: Makes it, with random weights.
        labels: How many labels a sample has one or several of.
    """

    name: str
    package: str
    build: Callable[[], Any]
    labels: int = CLASSES


def of_torchvision(name: str, labels: int = CLASSES, **options: Any) -> Network:
    """A classifier of torchvision."""

    def build() -> Any:
        import torchvision

        return getattr(torchvision.models, name)(num_classes=labels, **options)

    return Network(name, "torchvision", build, labels)


def of_timm(name: str, model: str, **options: Any) -> Network:
    """A classifier of timm."""

    def build() -> Any:
        import timm

        return timm.create_model(model, pretrained=False, num_classes=CLASSES, **options)

    return Network(name, "timm", build)


def _monai() -> Any:
    from monai.networks.nets import DenseNet121

    return DenseNet121(spatial_dims=2, in_channels=3, out_channels=CLASSES)


NETWORKS = {
    network.name: network
    for network in (
        *map(of_torchvision, ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "vgg11_bn")),
        of_torchvision("densenet121", FINDINGS),
        *map(of_torchvision, ("convnext_tiny", "vit_b_16", "swin_t", "squeezenet1_1")),
        of_torchvision("googlenet", aux_logits=False, init_weights=True),
        *map(of_torchvision, ("regnet_y_400mf", "maxvit_t")),
        of_timm("timm_vit_tiny", "vit_tiny_patch16_224"),
        of_timm("timm_mixer", "mixer_s16_224"),
        of_timm("timm_deit", "deit_tiny_patch16_224", drop_path_rate=0.1),
        Network("monai_densenet121", "monai", _monai),
    )
}


def __getattr__(name: str) -> Callable[[], Any]:
    """The function of ``--factory benchmarks.real_size:NAME``."""
    if name not in NETWORKS:
        raise AttributeError(name)
    return NETWORKS[name].build


def export(name: str, form: str, folder: Path) -> None:
    """Write a network in one form."""
    import torch

    torch.manual_seed(0)
    module = NETWORKS[name].build().eval()
    inputs, path = (torch.zeros(1, 3, SIDE, SIDE),), str(folder / f"{name}{SUFFIX[form]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "legacy":
            torch.onnx.export(
                module, inputs, path, dynamo=False, opset_version=17, do_constant_folding=False,
                input_names=["input"], dynamic_axes={"input": {0: "N"}},
            )  # fmt: skip
        elif form == "default":
            torch.onnx.export(module, inputs, path)
        elif form == "pt2":
            torch.export.save(torch.export.export(module, inputs), path)
        else:
            from safetensors.torch import save_file

            save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)


def smooth_images(count: int, side: int, generator: Any) -> Any:
    """Generated images, a tensor (count, 3, side, side) in 0..1: of large blobs, smaller ones, and fine ones."""
    import torch

    octaves = [
        weight * torch.nn.functional.interpolate(
            torch.rand(count, 3, grid, grid, generator=generator), size=side, mode="bicubic", align_corners=False
        )
        for grid, weight in ((4, 0.6), (16, 0.25), (56, 0.15))
    ]  # fmt: skip
    return torch.stack(octaves).sum(0).clamp(0, 1)


def write_batch(labels: int, path: Path) -> None:
    """Eight smooth images, generated, with a label each; of several labels each some."""
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)
    images = smooth_images(8, SIDE, generator)
    drawn: Any = np.arange(8) % CLASSES
    if labels == FINDINGS:
        drawn = torch.rand(8, labels, generator=generator).lt(0.3).numpy().astype("float32")
    np.savez(path, inputs=images.numpy(), labels=drawn)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its code (``None`` where it was ended), seconds, MiB at its peak, and what it wrote."""

    code: int | None
    wall: float
    processor: float
    peak: float
    text: str


def _hearing_interrupts() -> None:
    """In a child: who is started in the background of a shell ignores Ctrl-C, and would hand that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(words: list[str], limit: float, log: Path, interrupt: float | None = None) -> Ended:
    """A command in a process group of its own; after the limit the group is ended.

    Args:
        words: The command.
        limit: Seconds.
        log: Where what it writes goes; it runs in that folder.
        interrupt: Seconds after which it gets one Ctrl-C.
    """
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            words, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent, env=environment,
            preexec_fn=_hearing_interrupts,
        )  # fmt: skip
    ended, code = False, 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() - started > limit and not ended:
            os.killpg(process.pid, signal.SIGKILL)
            ended = True
        if interrupt is not None and time.monotonic() - started > interrupt:
            os.killpg(process.pid, signal.SIGINT)
            interrupt = None
        time.sleep(0.05)
    process.returncode = code
    text = log.read_text(encoding="utf-8", errors="replace")
    wall, spent = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    return Ended(None if ended else code, wall, spent, usage.ru_maxrss / 1024, text)


def rows(path: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def add(row: dict[str, Any], path: Path) -> None:
    """Keep a row with its date, and print it."""
    row = {**row, "date": time.strftime("%Y-%m-%d")}
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def measured(row: dict[str, Any], done: Ended) -> dict[str, Any]:
    """A row with what every process costs, and the last line that one wrote which failed."""
    lines = [line.strip() for line in done.text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:]
    failed = done.code is None or done.code not in (0, 1, 5)
    known = {"code": done.code, "wall_s": round(done.wall, 1), "processor_s": round(done.processor, 1)}
    told = errors[0][:200] if failed and errors else ""
    return {**row, **known, "peak_mib": round(done.peak), "error": told, "internal": "internal error" in done.text}


def cases(
    name: str, known: dict[tuple[str, str], dict[str, Any]], budget: float, limit: float, folder: Path
) -> Iterator[dict[str, Any]]:
    """The rows of one network that are not known, as they are measured."""
    lacking = [case for case in (*FORMS, "rank", "scan") if (name, case) not in known]
    loads = [form for form in FORMS if (name, form) in known and not known[name, form]["error"]]
    python, command = sys.executable, [sys.executable, "-m", "leakaudit"]

    def words(form: str) -> list[str]:
        path = str(folder / f"{name}{SUFFIX[form]}")
        more = {"pt2": ["--trust"], "factory": ["--factory", f"benchmarks.real_size:{name}"]}.get(form, [])
        return [path, *more, *(["--input-shape", f"3,{SIDE},{SIDE}"] if form == "factory" else [])]

    def exported(form: str) -> Ended:
        code = (
            f"from pathlib import Path; from benchmarks.real_size import export; export({name!r}, {form!r}, Path('.'))"
        )
        return run([python, "-c", code], limit, folder / "log")

    for form in (form for form in FORMS if form in lacking):
        done, row = exported(form), {"network": name, "case": form}
        if done.code != 0:
            yield measured({**row, "of": "the exporter"}, done)
            continue
        yield (found := measured(row, run([*command, "inspect", *words(form)], limit, folder / "log")))
        loads += [] if found["error"] else [form]
    if not loads or not {"rank", "scan"} & set(lacking):
        return
    form = next(form for form in FORMS if form in loads)
    if not (folder / f"{name}{SUFFIX[form]}").exists():
        exported(form)
    if "rank" in lacking:
        done = run([*command, "rank", *words(form), "--format", "json"], limit, folder / "log")
        yield measured({"network": name, "case": "rank", "form": form, **_ranked(done.text)}, done)
    if "scan" in lacking:
        write_batch(NETWORKS[name].labels, folder / "batch.npz")
        asked = [*SCANNED, "--time-budget", f"{budget:g}", "--out", "out"]
        done = run([*command, "scan", *words(form), *asked], limit, folder / "log")
        row = {"network": name, "case": "scan", "form": form, "budget_s": budget}
        yield measured({**row, **_scanned(folder / "out" / "report.json")}, done)


def interrupts(name: str, count: int, budget: float, limit: float, folder: Path) -> Iterator[dict[str, Any]]:
    """Scans of one network, each with one Ctrl-C at a moment of its own, spread over the budget by chance."""
    export(name, "legacy", folder)
    write_batch(NETWORKS[name].labels, folder / "batch.npz")
    words = [sys.executable, "-m", "leakaudit", "scan", f"{name}{SUFFIX['legacy']}", *SCANNED]
    drawn = random.Random(0)
    for number in range(count):
        moment, out = drawn.uniform(0, budget), f"out{number}"
        asked = [*words, "--time-budget", f"{budget:g}", "--out", out]
        done = run(asked, limit, folder / "log", moment)
        row = {"network": name, "case": f"interrupt {number}", "at_s": round(moment, 1)}
        yield measured({**row, **_left_by(folder / out / "report.json")}, done)


def _left_by(path: Path) -> dict[str, Any]:
    """What a report that was cut short has: the verdict, the rank analysis, how labels were told, what ran."""
    if not path.is_file():
        return {"verdict": ""}
    report = json.loads(path.read_text(encoding="utf-8"))
    found = {"verdict": report["verdict"]["status"], "partial": report["partial"], "risk": report["rank"]["risk"]}
    told = next((attack["given"]["labels"] for attack in report["attacks"] if "labels" in attack["given"]), "")
    return {**found, "labels": told, "ran": [a["name"] for a in report["attacks"] if a["status"] == "run"]}


def _ranked(text: str) -> dict[str, Any]:
    """Risk and score of what ``rank`` printed."""
    begin = text.find("{")
    try:
        found = json.JSONDecoder().raw_decode(text[begin:])[0].get("rank", {}) if begin >= 0 else {}
    except ValueError:
        return {}
    return {key: found.get(key) for key in ("risk", "score")}


def _scanned(path: Path) -> dict[str, Any]:
    """What a report says: the verdict, and the attacks that ran, those that had no time, and the best result."""
    if not path.is_file():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    found = {attack["name"]: attack for attack in report["attacks"]}
    psnr = [
        sample["psnr"] for attack in found.values() for result in attack["results"] for sample in result["samples"]
        if sample.get("psnr") is not None
    ]  # fmt: skip
    return {
        "verdict": report["verdict"]["status"],
        "ran": [name for name, attack in found.items() if attack["status"] == "run"],
        "no_time": [name for name, attack in found.items() if attack["status"] == "not_run" and attack.get("cut")],
        "psnr": round(max(psnr), 1) if psnr else None,
    }


def page(found: list[dict[str, Any]]) -> str:
    """The table."""
    by_case = {(row["network"], row["case"]): row for row in found}
    lines = [
        "# Networks at real size", "",
        f"Written by `benchmarks/real_size.py`: {SIDE} px, random weights, each case a process of its own.", "",
        "| network | " + " | ".join(FORMS) + " | rank | risk | scan | peak | verdict |",
        "|---|" + "---|" * (len(FORMS) + 5),
    ]  # fmt: skip
    for name in dict.fromkeys(row["network"] for row in found):
        rank, scan = by_case.get((name, "rank"), {}), by_case.get((name, "scan"), {})
        cells = [_loaded(by_case.get((name, form))) for form in FORMS]
        cells += [f"{rank['wall_s']} s, {rank['peak_mib']} MiB" if rank else "", str(rank.get("risk", ""))]
        late = scan and scan["wall_s"] > OVER * scan["budget_s"]
        cells += [f"{scan['wall_s']} s of {scan['budget_s']:g}{' (late)' if late else ''}" if scan else ""]
        cells += [f"{scan['peak_mib']} MiB" if scan else "", scan.get("verdict") or scan.get("error", "")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _loaded(row: dict[str, Any] | None) -> str:
    """A cell of a form: the seconds of ``inspect``, or what went wrong."""
    if row is None:
        return ""
    return f"{row.get('of', '')} {row['error']}".strip().replace("|", "/") if row["error"] else f"{row['wall_s']} s"


def main() -> None:
    """Measure what the results lack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=[*NETWORKS], help="a network; repeatable")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of --time-budget")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a case is ended")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept; the page stands beside")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--interrupts", type=int, default=0, help="only this: scans of resnet18 with one Ctrl-C each")
    asked = parser.parse_args()
    if asked.interrupts:
        with tempfile.TemporaryDirectory() as folder:
            for row in interrupts("resnet18", asked.interrupts, asked.budget, asked.limit, Path(folder)):
                add(row, asked.rows)
    for name in () if asked.table or asked.interrupts else asked.only or NETWORKS:
        if find_spec(NETWORKS[name].package) is None:
            print(f"{name}: {NETWORKS[name].package} is not installed", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            known = {(row["network"], row["case"]): row for row in rows(asked.rows)}
            for row in cases(name, known, asked.budget, asked.limit, Path(folder)):
                add(row, asked.rows)
    asked.rows.with_suffix(".md").write_text(page(rows(asked.rows)), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
