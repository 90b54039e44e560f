"""What to attack and how hard: the options of every command that runs an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from leakaudit.cli.options.cache import cache_usable, without_disk


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
    if value is None:
        return ()
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: expected numbers separated by commas, as 0.5,0.5,0.5") from error


def _settings(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Mapping[str, Mapping[str, str]]:
    settings: dict[str, dict[str, str]] = {}
    for value in values:
        name, found, text = value.partition("=")
        attack, dot, key = name.partition(".")
        if not (found and dot and attack and key and text):
            raise click.BadParameter(f"{value!r}: expected ATTACK.SETTING=VALUE, as ig.iterations=600")
        settings.setdefault(attack, {})[key] = text
    return settings


def audit_options(preset: str = "standard") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the options; their values reach the command by name, see :func:`audit_keywords`.

    Args:
        preset: Default of ``--preset``.
    """
    options = (
        click.option("--batch-size", default=1, show_default=True, help="Samples behind one shared update."),
        click.option("--victims", type=int, help="Independent batches to attack, drawn by --seed; default up to 4."),
        click.option(
            "--attack",
            "attacks",
            multiple=True,
            metavar="NAME",
            help="Repeatable; default all (see leakaudit attacks).",
        ),
        click.option(
            "--preset",
            type=click.Choice(("quick", "standard", "paper")),
            default=preset,
            show_default=True,
            help="How hard to try.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            callback=_settings,
            metavar="ATTACK.KEY=VALUE",
            help="Override one setting, as ig.iterations=600.",
        ),
        click.option("--time-budget", type=float, metavar="SECONDS", help="For all attacks and controls together."),
        click.option(
            "--controls",
            type=click.Choice(("quick", "full", "none")),
            default="quick",
            show_default=True,
            help="Run the attacks where the answer is known, too; none caps the confidence.",
        ),
        click.option(
            "--distractors",
            type=click.Path(path_type=Path),
            help="Images of the same kind (.npz or folder) that a reconstruction's sample must be told from.",
        ),
        click.option(
            "--psnr-margin",
            type=float,
            default=3.0,
            show_default=True,
            help="dB above its best floor at which a sample leaks.",
        ),
        click.option(
            "--lpips-margin",
            type=float,
            default=0.1,
            show_default=True,
            help="LPIPS below its best floor that does as well.",
        ),
        click.option(
            "--threat-model",
            type=click.Choice(tuple("ABCDE")),
            default="E",
            show_default=True,
            help="Run only attacks that need no stronger attacker than this letter.",
        ),
        click.option(
            "--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed gives the same numbers."
        ),
        click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True),
        click.option(
            "--mean",
            callback=_numbers,
            metavar="A,B,C",
            help="Mean that the client subtracts per channel, in pixel units 0..1.",
        ),
        click.option(
            "--std",
            callback=_numbers,
            metavar="A,B,C",
            help="Standard deviation that it divides by; 0.00392157 for a model that takes 0..255.",
        ),
        click.option(
            "--layout",
            type=click.Choice(("auto", "NCHW", "NHWC")),
            default="auto",
            show_default=True,
            help="Axis order of the batch's arrays.",
        ),
        click.option(
            "--values",
            type=click.Choice(("auto", "pixels", "normalized")),
            default="auto",
            show_default=True,
            help="What the batch's numbers are: pixels of the whole range 0..1, 0..255 or 0..65535, or normalised.",
        ),
        click.option("--resize", is_flag=True, help="Scale and centre-crop a folder's images to the model's size."),
        click.option(
            "--auxiliary",
            type=click.Path(path_type=Path),
            help="Public images of a similar kind (.npz or folder), for attacks that learn from them.",
        ),
        click.option(
            "--lpips-weights",
            type=click.Path(path_type=Path),
            help="torchvision's squeezenet1_1 checkpoint; default torch's hub cache.",
        ),
        click.option(
            "--cache/--no-cache",
            default=True,
            show_default=True,
            help="Keep results for two weeks, readable by you only, so that a killed command goes on where it was; "
            "below --evidence full only where --cache is given.",
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def audit_keywords(options: dict[str, Any], evidence: str) -> dict[str, Any]:
    """The values as `leakaudit.api` takes them: margins as a criterion, and a cache only where one can be written.

    Cached results are reconstructions, so where the report does not show them none are kept unless asked for.
    """
    from leakaudit.scoring.base import LeakCriterion

    margins = ("psnr_margin", "lpips_margin")
    keywords = {name: value for name, value in options.items() if name not in (*margins, "cache")}
    keywords["criterion"] = LeakCriterion(**{name: options[name] for name in margins})
    asked = click.get_current_context().get_parameter_source("cache") is not ParameterSource.DEFAULT
    if options["cache"] and (asked or evidence == "full") and cache_usable():
        return {**keywords, "cache": True}
    return {**keywords, "settings": without_disk(options["settings"])}
