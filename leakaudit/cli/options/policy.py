"""What fails: the policy file, thresholds and the baseline. Command line before environment before file.

The file also sets other options of the command: its values become the defaults that the command line and
``LEAKAUDIT_*`` variables override. A file that was found, not named, may come with a cloned repository or a pull
request: it can set only options of :data:`DATA`, which run no code whatever their value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.cli.options.packing import packed
from leakaudit.errors import UsageError

if TYPE_CHECKING:
    from leakaudit.audit.request import Request
    from leakaudit.document.schema import SettingEntry
    from leakaudit.report.saving import Report

ENVIRONMENT = {"auto_envvar_prefix": "LEAKAUDIT"}
"""Context settings under which ``LEAKAUDIT_FAIL_ON`` sets ``--fail-on``, and so on."""
_SOURCES = {"COMMANDLINE": "command line", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}
CODE = frozenset({"template_dir", "factory", "generator", "trust", "unsafe_pickle", "store"})
"""Options that can run code: templates, a Python function, files in formats that hold code; and a store, whose address
leads code of whatever package knows it to the reports."""
DATA = frozenset(
    {
        "model", "checkpoints", "batch", "defences", "claims", "update", "before", "round", "batch_size", "victims",
        "attacks",
        "preset",
        "settings", "time_budget", "controls", "distractors", "psnr_margin", "lpips_margin", "threat_model", "seed",
        "device", "mean", "std", "layout", "values", "resize", "schema", "auxiliary", "lpips_weights", "cache", "quiet",
        "verbose", "debug", "out", "formats", "evidence", "paths", "pdf_variant", "fail_on", "baseline",
        "allow_different", "weight_decay", "samples", "local_epochs", "local_batch_size", "learning_rate", "momentum",
        "nesterov", "optimizer", "drop_last", "unknown",
        "mode", "share_bn_statistics", "output", "frozen", "trained", "dropout", "loss", "batchnorm", "input_shape",
        "task", "pos_weight",
        "train_config", "distractors_needed", "workers", "dry_run",
    }
)  # fmt: skip
"""Options that only choose among numbers, names and files of data. An option in neither set is refused like code."""
FUNCTIONS = frozenset({"defences", "claims", "loss"})
"""Options of :data:`DATA` that also take ``module:function``; that form runs code."""
_NO_KEYS = {"policy", "help", "dry_run"}
"""Options that no file may set: with a dry run in a file, a gate would audit nothing and pass."""
_UNRECORDED = {"debug", "dry_run", "quiet", "verbose", "policy", "out"}


def _read(ctx: click.Context, param: click.Parameter, value: Path | None) -> Any:
    """Read the policy before all other options, and let it set their defaults."""
    from leakaudit.policy.read import Policy, find_policy, read_policy, refuse_unknown

    path = value or find_policy()
    if path is None:
        return Policy()
    policy, options = read_policy(path)
    known = _by_key(_scan(ctx))
    refuse_unknown(path, options, set(known) - _NO_KEYS)
    if value is None:
        _refuse_code(path, [(known[key], item) for key, item in options.items()])
    own = _by_key(ctx.command)
    found = {own[k].name: _value(own[k], item, path.parent) for k, item in options.items() if k in own}
    ctx.default_map = {**found, **(ctx.default_map or {})}
    return policy


def _refuse_code(path: Path, options: Sequence[tuple[click.Parameter, Any]]) -> None:
    """Refuse what could run code in a policy that nobody named.

    Args:
        path: The policy.
        options: Its keys as options of the command, each with its value.

    Raises:
        UsageError: Names the key, the file and the way out.
    """
    from leakaudit.defences.names import runs_code
    from leakaudit.tasks.loss_text import loss_runs_code

    for parameter, value in options:
        texts = map(str, value if isinstance(value, list) else [value])
        runs_function = parameter.name in FUNCTIONS and any(
            map(loss_runs_code if parameter.name == "loss" else runs_code, texts)
        )
        if parameter.name in DATA and not runs_function:
            continue
        option = parameter.opts[0]
        raise UsageError(
            f"{path}: {option.lstrip('-')} can run code, and does not count in a policy that was found, not named",
            f"if you trust it, pass {option} on the command line, or the whole file: --policy {path}",
        )


def _scan(ctx: click.Context) -> click.Command:
    """The command whose options are the keys of a policy; others take those that they know.

    Asked of the group that this command was found in; a command that was started alone knows its own options only.
    """
    group = ctx.find_root().command
    found = group.get_command(ctx, "scan") if isinstance(group, click.Group) else None
    return found or ctx.command


def keys_of_files(command: click.Command) -> dict[str, click.Parameter]:
    """The keys that a policy file may hold, as it writes them, and the option or argument that each sets.

    Args:
        command: ``leakaudit scan``.
    """
    keys = {max(p.opts, key=len).lstrip("-"): p for p in command.params if (p.name or "") not in _NO_KEYS}
    return dict(sorted(keys.items()))


def _by_key(command: click.Command) -> dict[str, click.Parameter]:
    """A command's parameters by the names that a file may use."""
    named = ((name, p) for p in command.params for name in (*p.opts, p.name or ""))
    return {name.lstrip("-").replace("-", "_"): parameter for name, parameter in named}


def _value(parameter: click.Parameter, value: Any, folder: Path) -> Any:
    """A value of the file as the command line would have it; paths are relative to the file."""
    if getattr(parameter, "multiple", False):
        return [_value_of_one(parameter, item, folder) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return _value_of_one(parameter, value, folder)


def _value_of_one(parameter: click.Parameter, value: Any, folder: Path) -> Any:
    if not isinstance(parameter.type, click.Path):  # of other types than text, click converts some and fails at others
        switch = isinstance(value, bool) and isinstance(parameter.type, click.types.BoolParamType)
        return value if switch else str(value)
    if not isinstance(value, str) or "\0" in value:
        raise UsageError(f"{parameter.name} in {folder} is {value!r}, expected a path", "correct the policy")
    return str(folder / value)


_POLICY = click.option(
    "--policy",
    is_eager=True,
    callback=_read,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: leakaudit.toml, or [tool.leakaudit] of pyproject.toml, of this folder or above in its "
    "repository; found so, it cannot set options that run code.",
)
_FAIL_ON = click.option(
    "--fail-on",
    type=click.Choice(("critical", "high", "medium", "low", "never")),
    default="high",
    show_default=True,
    help="Exit 1 at findings of this severity or above.",
)
threshold_options = packed("gate", ("policy", "fail_on"), (_POLICY, _FAIL_ON))
"""What fails, for a command that compares with no earlier report."""
policy_options = packed(
    "gate",
    ("policy", "fail_on", "baseline", "allow_different"),
    (
        _POLICY,
        _FAIL_ON,
        click.option(
            "--baseline",
            type=click.Path(path_type=Path),
            metavar="REPORT.JSON",
            help="An earlier report; only what is new or got worse fails.",
        ),
        click.option(
            "--allow-different",
            is_flag=True,
            help="Compare with a baseline of another protocol, defence or threat model.",
        ),
    ),
)


def load_baseline(gate: Mapping[str, Any], request: Request | None = None) -> Report | None:
    """The earlier report, read before the audit so that a wrong path, or one of another setup, costs no time.

    Args:
        gate: Options of the gate.
        request: What the audit will be of, where there is one to come.
    """
    from leakaudit.report.saving import Report

    if gate["baseline"] is None:
        return None
    baseline = Report.load(gate["baseline"])
    if request is not None and not gate["allow_different"]:
        from leakaudit.policy.compare import Setup, refuse_different

        refuse_different(Setup.of(baseline), Setup.asked(request, baseline))
    return baseline


def judge(report: Report, gate: Mapping[str, Any], baseline: Report | None) -> Report:
    """The report held against the resolved policy."""
    from dataclasses import replace

    from leakaudit.policy.apply import apply_policy

    policy = replace(gate["policy"], fail_on=gate["fail_on"])
    context = click.get_current_context()
    return apply_policy(
        *(report, policy),
        baseline=baseline,
        baseline_path=gate["baseline"],
        settings=resolved_settings(context),
        allow_different=gate["allow_different"],
    )


def resolved_settings(context: click.Context) -> list[SettingEntry]:
    """Every option with its value and where it came from."""
    from leakaudit.document.schema import SettingEntry

    entries = []
    for name, value in sorted(context.params.items()):
        if name in _UNRECORDED:
            continue
        source = context.get_parameter_source(name)
        origin = _SOURCES.get(source.name if source else "", "default")
        entries.append(SettingEntry.model_validate({"name": name, "value": _plain(value), "source": origin}))
    return entries


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
