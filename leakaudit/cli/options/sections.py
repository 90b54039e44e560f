"""Help in sections: what the model is, what the samples are, what clients do, how it is attacked, what fails.

A command of :class:`Sectioned` shows its options under these headings, the most used of each first. An option that no
heading names stands under *Other*.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Model": (
        "train_config", "factory", "trust", "unsafe_pickle", "checkpoints", "input_shape", "output", "task", "loss",
        "pos_weight", "frozen",
        "trained", "dropout", "batchnorm",
    ),
    "Batch": ("batch", "schema", "mean", "std", "values", "layout", "resize"),
    "Client": (
        "batch_size", "mode", "update", "before", "round", "learning_rate", "local_epochs", "local_batch_size",
        "samples",
        "optimizer", "momentum", "nesterov", "weight_decay", "drop_last", "unknown", "share_bn_statistics",
    ),
    "Attack": (
        "preset", "attacks", "victims", "time_budget", "dry_run", "device", "seed", "settings", "threat_model",
        "auxiliary", "generator", "controls", "distractors", "distractors_needed", "psnr_margin", "lpips_margin",
        "lpips_weights", "cache",
    ),
    "Analysis": ("changes", "jacobian"),
    "Defence": ("defences", "goal", "grid", "claims", "steps", "utility_data", "utility_rate"),
    "Report": (
        "out", "formats", "form", "evidence", "paths", "template_dir", "pdf_variant", "quiet", "verbose", "debug",
        "help",
    ),
    "Sweep": ("workers", "store"),
    "Gate": ("policy", "fail_on", "baseline", "allow_different"),
}  # fmt: skip
"""Parameters of commands by the heading of their section."""
OTHER = "Other"


def section_of(name: str) -> str:
    """The heading under which a parameter stands."""
    return next((heading for heading, names in SECTIONS.items() if name in names), OTHER)


class Sectioned(click.Command):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections that have an option."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        records = {_key(p): record for p in options if (record := p.get_help_record(ctx))}
        for heading, names in {**SECTIONS, OTHER: tuple(n for n in records if section_of(n) == OTHER)}.items():
            rows = [records[name] for name in names if name in records]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _key(option: click.Option) -> str:
    """The parameter's name; click gives its own help option another one."""
    return "help" if "--help" in option.opts else option.name or ""
