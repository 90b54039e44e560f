"""The figures of the report as inline SVG: loss curves, PSNR against floors, rank profile per layer.

Drawn by matplotlib's SVG backend without pyplot and without global state; the same report gives the same bytes.
Each figure is narrow (about 440 units), so that its text stays legible on a 400 px wide screen.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, HistoryPoint, RankLayer, Report, SampleResult
from leakaudit.report.views.svg import inline_svg
from leakaudit.report.wording import clip, fixed, number, short, words
from leakaudit.safety.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK, MUTED, RULE, ALERT = "#1b2129", "#5a6572", "#d5dbe1", "#b3261e"
SERIES = ("#1f5fa8", "#b45309", "#0f766e", "#7c3aed", "#be185d", "#4d7c0f")
CLASSES = {INK: "ink", MUTED: "muted", RULE: "rule", ALERT: "alert"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
FLOOR_MARKS = {"grey": "s", "mean": "^", "other": "D", "flat": "P", "prior_only": "X"}
"""A marker for each floor; others share one."""
ROWS = 24
"""Rows in one figure; more would not be legible on one page."""
LAYER_FIGURES = 4
PALE = 0.4
"""Opacity of a bar that is an upper bound; chosen, to be told from a full one in print."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leakaudit",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@dataclass(frozen=True)
class Figure:
    """One figure: its SVG and the caption under it."""

    id: str
    svg: str
    caption: str


@contextmanager
def canvas_of(width: float, height: float, rows: int = 1) -> Iterator[tuple[Canvas, Any]]:
    """A figure in inches and its axes, with our style and nobody else's."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the current folder could ask for TeX, another program
        mpl.rcParams.update(_STYLE)
        figure = Canvas(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(rows, 1, sharex=True)
        for axis in [axes] if rows == 1 else axes:
            axis.patch.set_alpha(0)
        with warnings.catch_warnings():  # its own font only measures the labels: they are drawn as text
            warnings.filterwarnings("ignore", r"(?s)Glyph \d+ .*missing from font", UserWarning)
            yield figure, axes


def figure_of(canvas: Canvas, identifier: str, title: str, description: str, caption: str) -> Figure:
    """The canvas as a figure with an accessible name."""
    stream = io.StringIO()
    canvas.savefig(stream, format="svg", metadata={"Date": None})
    markup = inline_svg(
        stream.getvalue(), prefix=identifier, title=title, description=description, classes=dict(CLASSES)
    )
    return Figure(identifier, markup, caption)


def axis_label(text: str, longest: int = 20) -> str:
    """A name as an axis label: one line of few characters; whatever shows the figure has the fonts for them."""
    text = " ".join(clean(text).split())
    return text if len(text) <= longest else f"{text[: longest - 8]}…{text[-7:]}"


# Loss curves


def loss_curves(attacks: Sequence[AttackEntry]) -> list[Figure]:
    """One figure per attack with a history: objective and gradient match over iterations, a line per victim."""
    return [
        _loss_curve(attack, f"loss-{position}") for position, attack in enumerate(attacks) if _lines(attack, "match")
    ]


def _lines(attack: AttackEntry, key: str) -> list[tuple[int, list[int], list[float]]]:
    """Victim, iterations and values of a history key, without undefined points."""
    lines = []
    for result in attack.results:
        points: list[HistoryPoint] = [p for p in result.history if getattr(p, key) is not None]
        if points:
            lines.append((result.victim, [p.iteration for p in points], [float(getattr(p, key)) for p in points]))
    return lines


def _loss_curve(attack: AttackEntry, identifier: str) -> Figure:
    with canvas_of(4.7, 3.1, rows=2) as (canvas, axes):
        for axis, key, name in zip(axes, ("objective", "match"), ("objective", "gradient match"), strict=True):
            _draw_lines(axis, _lines(attack, key))
            axis.set_ylabel(name)
        axes[1].set_xlabel("iteration")
        if 1 < len(attack.results) <= 8:
            axes[0].legend(ncols=2 if len(attack.results) <= 4 else 4, loc="best")
        ends = [(victim, values[0], values[-1]) for victim, _, values in _lines(attack, "match")]
        description = "Gradient match at the start and at the end: " + "; ".join(
            f"victim {victim} {number(first, 3)} to {number(last, 3)}" for victim, first, last in ends
        )
        caption = (
            f"{clip(attack.title, 80)}, {count(len(ends), 'victim')}: what the attacker minimises (objective: match "
            "plus prior) and how well the update of the reconstruction fits the shared one (gradient match). "
            "Lower is better."
        )
        return figure_of(canvas, identifier, f"Loss curves of {clip(attack.title, 80)}", description, caption)


def _draw_lines(axis: Axes, lines: list[tuple[int, list[int], list[float]]]) -> None:
    many = len(lines) > 8
    for position, (victim, steps, values) in enumerate(lines):
        color = SERIES[0] if many else SERIES[position % len(SERIES)]
        dash = "-" if many else DASHES[position // len(SERIES) % len(DASHES) or position % len(DASHES)]
        axis.plot(steps, values, color=color, linestyle=dash, linewidth=0.8 if many else 1.5, label=f"victim {victim}")
    if lines and all(value > 0 for _, _, values in lines for value in values):
        axis.set_yscale("log")
        _few_log_ticks(axis.yaxis, [v for _, _, values in lines for v in values])
    axis.grid(axis="y")


def _few_log_ticks(axis: Any, values: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis: decades, or 1-2-5 steps where the range is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    short = max(values) / min(values) < 100
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(float(value))))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    """``0.01``, ``500``, ``20,000``."""
    return f"{value:,.0f}" if value >= 1000 else number(value, 3)


# PSNR against floors


def psnr_chart(attacks: Sequence[AttackEntry], titles: Mapping[str, str]) -> Figure | None:
    """Every reconstruction's PSNR beside what scores without knowing the sample; `titles` names the floors."""
    rows = [(a, v.victim, s) for a in attacks for v in a.results for s in v.samples if s.psnr is not None]
    if not rows:
        return None
    total = len(rows)
    rows = sorted(rows, key=lambda row: -(row[2].margin if row[2].margin is not None else -1e9))[:ROWS]
    names = list(dict.fromkeys(a.title for a, _, _ in rows))
    with canvas_of(4.7, 1.35 + 0.24 * len(rows)) as (canvas, axis):
        for position, (attack, _, sample) in enumerate(rows):
            _draw_sample(axis, position, sample, SERIES[names.index(attack.title) % len(SERIES)])
        several = len(names) > 1
        labels = [f"sample {s.index}" + (f" · {axis_label(short(a.title), 18)}" if several else "") for a, _, s in rows]
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel("PSNR (dB)")
        axis.grid(axis="x")
        _chart_legend(canvas, names, rows, titles)
        selected = "" if total == len(rows) else f" The {len(rows)} of {total} with the largest margin."
        caption = (
            "Filled circles: reconstructions. Hollow marks: images made without the update. "
            f"A circle far to the right of the hollow marks is information that came from the update.{selected}"
        )
        description = "; ".join(
            f"{clip(a.title, 60)}, sample {s.index}: {fixed(s.psnr, 1)} dB, margin {fixed(s.margin, 1)} dB"
            for a, _, s in rows
        )
        return figure_of(canvas, "psnr", "PSNR of the reconstructions against the floors", description, caption)


def _draw_sample(axis: Axes, position: int, sample: SampleResult, color: str) -> None:
    floors = {name: floor.psnr for name, floor in sample.floors.items() if floor.psnr is not None}
    if floors and sample.psnr is not None:
        axis.plot([max(floors.values()), sample.psnr], [position, position], color=color, linewidth=1.6)
    for name, value in floors.items():
        axis.plot(
            value,
            position,
            FLOOR_MARKS.get(name, "v"),
            color=MUTED,
            markerfacecolor="none",
            markersize=4.5,
            markeredgewidth=0.9,
        )
    axis.plot(sample.psnr or 0.0, position, "o", color=color, markersize=6.5)


def _chart_legend(
    canvas: Canvas,
    names: list[str],
    rows: Sequence[tuple[AttackEntry, int, SampleResult]],
    titles: Mapping[str, str],
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", color=SERIES[i % len(SERIES)], label=axis_label(short(name), 30))
        for i, name in enumerate(names)
    ]
    for floor in dict.fromkeys(name for _, _, sample in rows for name in sample.floors):
        mark, label = FLOOR_MARKS.get(floor, "v"), axis_label(titles.get(floor, words(floor)), 36)
        handles.append(
            Line2D([], [], marker=mark, linestyle="", color=MUTED, markerfacecolor="none", markersize=4.5, label=label)
        )
    canvas.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.0)


# The network


def rank_profiles(report: Report) -> list[Figure]:
    """The network as bars, a layer each: which share of its input one update determines; several for a deep network."""
    layers = [layer for layer in report.rank.layers if layer.unknowns]
    chunks = [layers[start : start + ROWS] for start in range(0, len(layers), ROWS)]
    return [_rank_profile(chunk, f"rank-{i}", len(layers)) for i, chunk in enumerate(chunks[:LAYER_FIGURES])]


def _rank_profile(layers: Sequence[RankLayer], identifier: str, total: int) -> Figure:
    with canvas_of(6.6, 1.0 + 0.27 * len(layers)) as (canvas, axis):
        for position, layer in enumerate(layers):
            _draw_layer(axis, position, layer)
        axis.set_xlim(0, 1.42)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axis.set_yticks(range(len(layers)), [_layer_label(layer.name) for layer in layers])
        axis.set_ylim(len(layers) - 0.4, -0.6)
        axis.set_xlabel("share of the values that enter a layer")
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
        axis.tick_params(length=0)
        _rank_legend(canvas, bounded=any(layer.bound for layer in layers))
        named = [f"{clip(layer.name, 60)}: {_layer_words(layer)}" for layer in layers]
        part = "" if total == len(layers) else f" {len(layers)} of {total} layers."
        caption = (
            "From the input at the top to the output: of the values that enter a layer, how many directions one update "
            f"determines, and how many it leaves open.{_bound_words(layers)}{part}"
        )
        return figure_of(
            canvas, identifier, "The network: what one update determines, layer by layer", "; ".join(named), caption
        )


def _layer_label(name: str) -> str:
    """The name of a layer, which exporters also make of a number alone."""
    return axis_label(f"layer {name}" if name.replace(".", "").isdigit() else name)


def _constraints(layer: RankLayer) -> int | None:
    """Equations from the gradient and the weights; virtual ones restrict signs only and are not counted."""
    parts = [n for n in (layer.constraints.gradient, layer.constraints.weight) if n is not None]
    return sum(parts) if parts else None


def _bound_words(layers: Sequence[RankLayer]) -> str:
    """What a pale bar means, where there is one."""
    if not any(layer.bound for layer in layers):
        return ""
    return (
        " Pale: at most so many, as only an upper bound is known of these layers; what is left open there is certain."
    )


def _layer_words(layer: RankLayer) -> str:
    equations = _constraints(layer)
    text = f"{number(layer.unknowns)} unknowns, {number(equations)} equations"
    text += f", {_deficit_words(layer)}" if layer.deficit else ""
    return f"{text}, an upper bound" if layer.bound else text


def _deficit_words(layer: RankLayer) -> str:
    return f"deficit {'at least ' if layer.bound else ''}{number(layer.deficit)}"


def _draw_layer(axis: Axes, position: int, layer: RankLayer) -> None:
    """A bar of one layer: determined, then open; grey where neither could be counted."""
    unknowns = layer.unknowns or 1
    if layer.deficit is None:
        axis.barh(position, 1, height=0.6, color=RULE, linewidth=0)
        told, color = "could not be counted", MUTED
    else:
        known = 1 - min(layer.deficit, unknowns) / unknowns
        axis.barh(position, known, height=0.6, color=SERIES[0], alpha=PALE if layer.bound else 1, linewidth=0)
        axis.barh(position, 1 - known, left=known, height=0.6, color=ALERT, alpha=0.75, linewidth=0)
        told = f"{_deficit_words(layer)} of {number(unknowns)}" if layer.deficit else f"all {number(unknowns)}"
        told = f"at most {told}" if layer.bound and not layer.deficit else told
        color = ALERT if layer.deficit else MUTED if layer.bound else INK
    axis.text(1.02, position, told, va="center", color=color, fontsize=8.5)


def _rank_legend(canvas: Canvas, *, bounded: bool) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=SERIES[0], label="determined by one update"), Patch(color=ALERT, label="left open")]
    handles += [Patch(color=SERIES[0], alpha=PALE, label="at most determined")] if bounded else []
    canvas.legend(handles=handles, loc="outside upper left", ncols=3, handletextpad=0.5, columnspacing=1.5)
