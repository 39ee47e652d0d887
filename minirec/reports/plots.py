"""The report's plots, as SVG text; `canvas.py` says how they take their colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from minirec.reports.canvas import STAND_INS, new_figure, one_axes, style_axes, to_svg
from minirec.reports.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES: Mapping[str, Any] = {
    "model": "-",
    "transition_content": (0, (5, 1.5, 1, 1.5)),
    "item_transition": (0, (5, 1.5)),
    "popularity": ":",
}
_MOST_POINTS = 400
RANK_BINS = ((0, 1), (1, 3), (3, 5), (5, 10), (10, 20), (20, 50))
"""Ranges of ranks, from 0, that the bars of `rank_bars` stand for."""


def css_name(recommender: str) -> str:
    """Returns the CSS variable of a recommender's colour, without its dashes."""
    return recommender if recommender in STAND_INS else "other"


def line_plot(
    curve: Curve, *, label: str, x_label: str, y_label: str, smooth: bool = False
) -> Markup:
    """Returns a curve over training steps as SVG.

    Args:
        curve: steps and values, at least one.
        label: what the plot shows, for those who cannot see it.
        x_label: under the plot.
        y_label: on top of the plot.
        smooth: draw the values faintly and their running mean over them.
    """
    steps, values = _thin(curve)
    figure, axes = one_axes(x_label, y_label)
    color = STAND_INS["model"]
    if smooth and len(values) >= 20:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _running_mean(values, max(3, len(values) // 25)), color=color)
    else:
        marker = "o" if len(values) <= 40 else ""
        axes.plot(steps, values, color=color, marker=marker, markersize=3)
    if not smooth:
        best = int(np.argmax(values))
        axes.plot(steps[best], values[best], "o", color=color, markersize=5.5)
        axes.annotate(
            f"{values[best]:.4f}",
            (float(steps[best]), float(values[best])),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=STAND_INS["ink"],
        )
        axes.margins(y=0.16)
    return to_svg(figure, label)


def hit_curves(ranks: Mapping[str, Int[np.ndarray, " n"]], longest: int, *, label: str) -> Markup:
    """Returns HR@K for every K up to `longest`, one line a recommender, as SVG."""
    figure, axes = one_axes("K, length of the list (log scale)", "HR@K")
    ks = np.arange(1, longest + 1)
    for name, line in reversed(list(ranks.items())):
        found = np.bincount(line[(line >= 0) & (line < longest)], minlength=longest)
        _line(axes, name, ks, np.cumsum(found) / len(line))
    axes.set_xscale("log")
    ticks = [k for k in (1, 2, 3, 5, 10, 20, 50, 100, 200) if k <= longest]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    return to_svg(figure, label)


def rank_bars(ranks: Mapping[str, Int[np.ndarray, " n"]], longest: int, *, label: str) -> Markup:
    """Returns the share of users whose target stands in each range of places, as SVG."""
    bins = [(low, min(high, longest)) for low, high in RANK_BINS if low < longest]
    figure, axes = one_axes("place of the target in the list", "share of users")
    width = 0.8 / len(ranks)
    for number, (name, line) in enumerate(ranks.items()):
        shares = [((line >= low) & (line < high)).mean() for low, high in bins]
        axes.bar(
            np.arange(len(bins)) - 0.4 + (number + 0.5) * width,
            shares,
            width * 0.88,
            color=STAND_INS[css_name(name)],
        )
    names = [str(high) if high == low + 1 else f"{low + 1}–{high}" for low, high in bins]
    axes.set_xticks(range(len(bins)), names)
    axes.tick_params(axis="x", length=0)
    return to_svg(figure, label)


def codebook_bars(counts: Sequence[Int[np.ndarray, " K"]], *, label: str) -> Markup:
    """Returns how many items each code has, codes sorted, one panel a level, as SVG."""
    columns = min(len(counts), 2)
    rows = -(-len(counts) // columns)
    figure = new_figure(4.1, 1.45 * rows + (1.0 if rows == 1 else 0.0))
    highest = max(int(level.max()) for level in counts)
    for number, level in enumerate(counts):
        axes = figure.add_subplot(rows, columns, number + 1)
        ordered = np.sort(level)[::-1]
        axes.fill_between(
            np.arange(len(ordered) + 1),
            np.append(ordered, ordered[-1]),
            step="post",
            color=STAND_INS["model"],
            alpha=0.75,
            linewidth=0,
        )
        axes.axhline(
            float(level.mean()), color=STAND_INS["ink"], linewidth=0.8, linestyle=(0, (3, 2))
        )
        style_axes(
            axes, "code" if number >= len(counts) - columns else "", f"items, level {number}"
        )
        axes.set_xlim(0, len(ordered))
        axes.set_ylim(0, highest * 1.05)
        axes.locator_params(nbins=4)
    return to_svg(figure, label)


def popularity_curves(
    counts: Mapping[str, Int[np.ndarray, " N"]], order: Int[np.ndarray, " N"], *, label: str
) -> Markup:
    """Returns which share of lists goes to the most popular items, cumulative, as SVG.

    Args:
        counts: for each line, how often each item stands in it; all-zero ones are left out. The
            line named `target` is what users really took.
        order: item ids, the most popular in training first.
        label: what the plot shows, for those who cannot see it.
    """
    figure, axes = one_axes("items, most popular first (log scale)", "share of all places")
    places = np.arange(1, len(order) + 1)
    for name, count in reversed(list(counts.items())):
        if not count.sum():
            continue
        share = np.cumsum(count[order]) / count.sum()
        kept = np.unique(np.geomspace(1, len(order), 160).astype(int)) - 1
        _line(axes, name, places[kept], share[kept])
    axes.set_xscale("log")
    axes.set_ylim(0, 1.03)
    ticks = [10**power for power in range(8) if 10**power <= len(order)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    return to_svg(figure, label)


def _line(axes: Axes, name: str, x: np.ndarray, y: np.ndarray) -> None:
    if name == "target":
        axes.plot(x, y, color=STAND_INS["ink"], linewidth=1.0)
    else:
        axes.plot(
            x,
            y,
            color=STAND_INS[css_name(name)],
            linestyle=_DASHES.get(name, "-."),
            linewidth=2.2 if name == "model" else 1.6,
        )


def _thin(curve: Curve) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Returns at most some hundred points: means of neighbours, so that no spike is made up."""
    steps, values = np.asarray(curve[0], float), np.asarray(curve[1], float)
    if len(steps) <= _MOST_POINTS:
        return steps, values
    starts = np.linspace(0, len(steps), _MOST_POINTS, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def _running_mean(values: Float[np.ndarray, " P"], width: int) -> Float[np.ndarray, " P"]:
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.minimum(np.arange(len(values)) + width // 2 + 1, len(values))
    starts = np.maximum(np.arange(len(values)) - width // 2, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
