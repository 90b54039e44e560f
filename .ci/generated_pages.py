"""Documentation pages of attacks, findings, commands and the document, made when the documentation is built."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

FAMILIES = {
    "LA1": "Architecture",
    "LA2": "Reconstruction",
    "LA3": "Labels",
    "LA4": "Protocol",
    "LA5": "Defences",
    "LA9": "Fidelity and quality of the audit",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages before the navigation is made."""
    pages = {
        "findings.md": findings_page(),
        "attacks.md": attacks_page(),
        "commands.md": commands_page(),
        "policy.md": policy_page(),
        "document.md": document_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def findings_page() -> str:
    """Every rule of the registry by family."""
    from leakaudit.findings import RULES

    lines = ["# Findings", "", "An id never changes its meaning. `leakaudit explain LA201` shows the same text.", ""]
    family = ""
    for identifier in sorted(RULES):
        rule = RULES[identifier]
        if identifier[:3] != family:
            family = identifier[:3]
            lines += [f"## {FAMILIES.get(family, family)} ({family}xx)", ""]
        worst = f"At worst {rule.worst}." if rule.worst != "none" else "A note, never a finding by itself."
        lines += [f"### {identifier}: {rule.title} {{ #{identifier} }}", "", f"*{worst}*", ""]
        lines += [markdown(rule.page), "", f"**What to do.** {rule.remedy}", ""]
    return "\n".join(lines)


def attacks_page() -> str:
    """Every installed attack with the page of its module."""
    from leakaudit.attacks.registry import PRESETS, available

    lines = [
        "# Attacks",
        "",
        "Each names what it needs; the report lists every one as run, not applicable or not run.",
        "",
    ]
    for name, attack in available().items():
        lines += [f"## {attack.title} (`{name}`) {{ #{name} }}", "", *facts(attack), ""]
        lines += [markdown(inspect.getdoc(inspect.getmodule(attack)) or ""), ""]
        lines += ["| setting | " + " | ".join(PRESETS) + " |", "|---|" + "---|" * len(PRESETS)]
        for field in dataclasses.fields(attack.presets[PRESETS[0]]):
            values = [f"`{getattr(attack.presets[preset], field.name)}`" for preset in PRESETS]
            lines.append(f"| `{field.name}` | " + " | ".join(values) + " |")
        lines.append("")
    return "\n".join(lines)


def commands_page() -> str:
    """Every command with its help and its options, as click knows them."""
    import click

    from leakaudit.cli import COMMANDS, cli

    lines = ["# Commands", "", "`leakaudit COMMAND --help` shows the same.", ""]
    for name in sorted(COMMANDS):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        context = click.Context(command, info_name=f"leakaudit {name}")
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        lines += [f"## leakaudit {name} {{ #{name} }}", "", f"    {usage}", ""]
        lines += [inspect.cleandoc(command.help or "").replace("\b\n", "").replace("<", "&lt;"), ""]
        lines += [*options(command, context), ""]
    return "\n".join(lines)


def policy_page() -> str:
    """Every key of a policy file: options of a scan, and the tables that only a file has."""
    import click

    from leakaudit.cli import cli
    from leakaudit.cli.options.policy import CODE, FUNCTIONS, keys_of_files

    command = cli.get_command(click.Context(cli), "scan")
    assert command is not None
    lines = [
        "# Policy keys", "",
        "`leakaudit.toml`, or `[tool.leakaudit]` of `pyproject.toml`, holds options of `leakaudit scan`;",
        "`leakaudit init` writes one to begin with. Paths are relative to the file. Where a key takes several values",
        "it is a list. A key that can run code counts only in a file that is named by `--policy`",
        "([what a policy may do](ci.md#what-a-policy-may-do)).", "",
        "| key | values | meaning |", "|---|---|---|",
    ]  # fmt: skip
    for key, option in keys_of_files(command).items():
        several = getattr(option, "multiple", False)
        values = f"list of {of_type(option.type)}" if several else of_type(option.type)
        code = " *Can run code.*" if option.name in CODE else ""
        code = " *Can run code as module:function.*" if option.name in FUNCTIONS else code
        told = getattr(option, "help", None) or "The model file; then the command line needs none."
        meaning = " ".join(told.replace("|", "\\|").replace("<", "&lt;").split())
        lines.append(f"| `{key}` | {values} | {meaning}{code} |")
    lines += [
        "", "## Tables", "",
        "| table | holds |", "|---|---|",
        "| `[rules]` | a threshold for a rule (`LA301`) or a family (`LA3xx`, `LA95x`); the most exact one counts |",
        "| `[[suppress]]` | `rule`, `reason`, `expires` (a date): a finding that is accepted until then |", "",
    ]  # fmt: skip
    return "\n".join(lines)


def of_type(kind: Any) -> str:
    """What a key takes, in words."""
    import click

    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    names = {
        "integer": "whole number",
        "float": "number",
        "boolean": "`true`, `false`",
        "path": "path",
        "directory": "path",
    }
    plain = kind.name.removesuffix(" range")
    return names.get(plain, "text")


def options(command: Any, context: Any) -> Iterator[str]:
    """A table of a command's options for each section."""
    from leakaudit.cli.options.sections import section_of

    sections: dict[str, list[str]] = {}
    for parameter in command.params:
        record = parameter.get_help_record(context) if parameter.param_type_name == "option" else None
        if record is not None:
            cells = (f"`{cell}`" if i == 0 else cell for i, cell in enumerate(record))
            row = " | ".join(" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
            sections.setdefault(section_of(parameter.name), []).append(f"| {row} |")
    for heading, rows in sections.items():
        yield from (f"**{heading}**", "", "| option | meaning |", "|---|---|", *rows, "")


def document_page() -> str:
    """Every key of report.json and sweep.json, as their schemas describe them."""
    from leakaudit.document.schema import Report
    from leakaudit.document.sweep import SweepDocument

    report, sweep = Report.model_json_schema(), SweepDocument.model_json_schema()
    parts = {"Report": report, **report.get("$defs", {}), "SweepDocument": sweep, **sweep.get("$defs", {})}
    lines = ["# The document", "", "`report.json` holds these keys (Report), and the `sweep.json` of a sweep those of "]
    lines[-1] += "SweepDocument. Readers ignore keys that they do not know."
    lines += [""]
    for name, part in parts.items():
        if "properties" in part:
            lines += [f"## {name} {{ #{name.lower()} }}", "", " ".join(part.get("description", "").split()), ""]
            lines += ["| key | type | meaning |", "|---|---|---|", *keys(part["properties"]), ""]
        elif "enum" in part:
            lines += [f"## {name} {{ #{name.lower()} }}", "", " ".join(part.get("description", "").split()), ""]
            lines += [f"One of {', '.join(f'`{value}`' for value in part['enum'])}.", ""]
    return "\n".join(lines)


def keys(properties: dict[str, Any]) -> Iterator[str]:
    """A row for every key of one part of the document."""
    for name, entry in properties.items():
        meaning = " ".join(entry.get("description", "").split()).replace("|", "\\|").replace("<", "&lt;")
        yield f"| `{name}` | {type_of(entry)} | {meaning} |"


def type_of(entry: dict[str, Any]) -> str:
    """The type of a key in words, with a link where it is a part of its own."""
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in entry:
        return " or ".join(type_of(one) for one in entry["anyOf"])
    if entry.get("type") == "array" and isinstance(entry.get("items"), dict):
        return f"list of {type_of(entry['items'])}"
    return str(entry.get("type", entry.get("const", "any")))


def facts(attack: Any) -> Iterator[str]:
    """Threat model, needs and reference."""
    upper = ", a declared upper bound" if attack.upper_bound else ""
    yield f"- Threat model {attack.threat_model}{upper}"
    if attack.needs:
        yield f"- Needs {attack.needs}"
    if attack.reference:
        yield f"- {attack.reference}"
    if attack.finding:
        yield f"- Reported as [{attack.finding}](findings.md#{attack.finding})"


def markdown(text: str) -> str:
    """A docstring as Markdown: roles and double back-quotes as code, equations and literal blocks as they are."""
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        plain = re.sub(r"^\s*\.\. math::\s*", "", block)
        if plain != block:
            blocks.append(f"$$ {' '.join(plain.split())} $$")
        elif block.startswith((" ", "=")):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        else:
            blocks.append(re.sub(r"::$", ":", block).replace("<", "&lt;"))
    return "\n\n".join(blocks)
