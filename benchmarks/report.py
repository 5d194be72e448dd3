"""A run's results as a Markdown table, a JSON file and a chart."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from benchmarks.measure import OURS, Curve, Figure

HEADER = """\
| figure | contender | median | least to greatest | ours is better | wanted |
| --- | --- | --- | --- | --- | --- |"""


def rows(result: Figure | Curve) -> list[str]:
    """Return the result's rows of the table."""
    if isinstance(result, Curve):
        sizes, costs = list(result.costs), list(result.costs.values())
        name = f"growth of {result.name}, {sizes[0]:,} to {sizes[-1]:,} {result.size}"
        spread = f"{min(costs):,.3g} to {max(costs):,.3g} {result.unit}"
        return [_row(name, OURS, f"{result.growth:.3g} ×", spread, "", f"≤ {result.wanted:g} ×", result.is_met)]
    return [_contender_row(result, contender, values) for contender, values in result.values.items()]


def _contender_row(figure: Figure, contender: str, values: Sequence[float]) -> str:
    limit, wanted = figure.wanted.get(contender), ""
    if limit is not None:
        sign = "≥" if figure.more_is_better or contender != OURS else "≤"
        wanted = f"{sign} {limit:,g} {'×' if contender != OURS else figure.unit}"
    advantage = f"{figure.advantage(contender):.3g} ×" if OURS in figure.values and contender != OURS else ""
    median = f"{figure.median(contender):,.6g} {figure.unit}"
    spread = f"{min(values):,.4g} to {max(values):,.4g}" if len(values) > 1 else ""
    return _row(figure.name, contender, median, spread, advantage, wanted.strip(), figure.is_met(contender))


def _row(name: str, contender: str, median: str, spread: str, advantage: str, wanted: str, is_met: bool) -> str:
    return (
        f"| {name} | {contender} | {median.strip()} | {spread} | {advantage} | {wanted}{'' if is_met else ': MISSED'} |"
    )


def machine() -> str:
    """Return on what was measured."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def save(results: Sequence[Figure | Curve], path: Path) -> None:
    """Write ``path`` with .json and with .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = [asdict(result) for result in results if isinstance(result, Figure)]
    curves = [{**asdict(result), "growth": result.growth} for result in results if isinstance(result, Curve)]
    content = {"machine": machine(), "figures": figures, "curves": curves}
    path.with_suffix(".json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    _chart(results).savefig(path.with_suffix(".png"))


def _chart(results: Sequence[Figure | Curve]) -> Canvas:
    canvas = Canvas(figsize=(13, 5), dpi=100, layout="constrained")
    against, growing = canvas.subplots(1, 2)
    _draw_advantages(against, [result for result in results if isinstance(result, Figure)])
    _draw_growth(growing, [result for result in results if isinstance(result, Curve)])
    canvas.text(0.005, 0.005, machine(), fontsize=7, color="gray")
    return canvas


def _draw_advantages(axes: Axes, figures: Sequence[Figure]) -> None:
    compared = [figure for figure in reversed(figures) if {OURS, "reference"} <= set(figure.values)]
    advantages = [figure.advantage("reference") for figure in compared]
    bars = axes.barh([figure.name for figure in compared], advantages, color="#2a6fbb")
    axes.bar_label(bars, [f"{advantage:,.3g} ×" for advantage in advantages], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(0.1, max([*advantages, 1]) * 4)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title("Times better than the reference pattern", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_growth(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        *_, last = curve.costs.values()
        costs = [cost / last for cost in curve.costs.values()]
        axes.plot(list(curve.costs), costs, marker="o", markersize=3, label=f"{curve.name}, by {curve.size}")
    axes.axhspan(0.5, 2, color="gray", alpha=0.1)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.set_ylim(1 / 4, 256)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
    axes.set_title("Cost of one as they become many (the last is 1)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if curves:
        axes.legend(fontsize=7, loc="upper right")
