"""``leakaudit init``: a policy file to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from leakaudit.cli.output import say
from leakaudit.errors import UsageError

TEMPLATE = """\
# Policy of leakaudit. Every key is an option of `leakaudit scan`; the command line wins over LEAKAUDIT_* variables of
# the environment, which win over this file. Paths are relative to it. template-dir, factory, trust, unsafe-pickle and
# defences as module:function can run code: they count here only if this file is named, as --policy leakaudit.toml.

# What is audited. Then `leakaudit scan` alone is enough.
# model = "model.onnx"
# batch = "sample.npz"
# mean = [0.485, 0.456, 0.406]
# std = [0.229, 0.224, 0.225]

# How hard to try: quick, standard or paper. The same seed gives the same numbers.
preset = "standard"
seed = 0

# Exit 1 at findings of this severity or above: critical, high, medium, low or never.
fail-on = "high"

# What to write. sarif is for code scanning, junit for test reports, markdown for pull requests.
format = ["json", "html", "sarif", "junit", "markdown"]

# How private images appear: full, blurred or none. Default: full, and blurred where CI=true.
# evidence = "none"

# Fail only on what is new or worse than in an earlier report.
# baseline = "leakaudit-baseline.json"

# Thresholds of single rules, or of families (LA1xx: architecture, LA2xx: reconstruction, LA3xx: labels, LA4xx:
# protocol, LA9xx: fidelity and quality of the audit). `leakaudit explain` lists the rules.
[rules]
# LA301 = "never"
# LA95x = "low"

# A finding that is accepted for a while. Reason and last day are mandatory; afterwards it counts again.
# [[suppress]]
# rule = "LA404"
# reason = "accepted by the security team until secure aggregation is rolled out"
# expires = 2027-03-31
"""


@click.command()
@click.option(
    "--out",
    "-o",
    default="leakaudit.toml",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def init(out: Path, debug: bool) -> None:
    """Write a policy file with every key explained; never over an existing one."""
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(TEMPLATE)
    except FileExistsError as error:
        raise UsageError(f"{out} is already there", "choose another name with --out, or remove it") from error
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", "choose another folder with --out") from error
    say(f"Policy: {out}")
