"""The comparison page's plots, as SVG text: a value a level, a line or a bar a quantiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from minirec.reports.canvas import SERIES, STAND_INS, new_figure, one_axes, style_axes, to_svg

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def series_name(number: int) -> str:
    """Returns the CSS variable of the colour of the quantiser at this place of the list."""
    return SERIES[number % len(SERIES)]


def level_lines(
    values: Mapping[int, Sequence[float]],
    ticks: Sequence[str],
    *,
    label: str,
    y_label: str,
    reference: tuple[float, str] | None = None,
) -> Markup:
    """Returns lines over the levels as SVG.

    Args:
        values: by place of the quantiser in the list, a value for each of the first ticks.
        ticks: names of the places along the axis.
        label: what the plot shows, for those who cannot see it.
        y_label: on top of the plot.
        reference: a value to draw across the plot, and its name.
    """
    figure, axes = one_axes("", y_label)
    for number, line in values.items():
        axes.plot(
            range(len(line)),
            line,
            color=STAND_INS[series_name(number)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.7,
            clip_on=False,  # Or a marker at the axes' edge would be cut in half.
        )
    if reference is not None:
        value, name = reference
        axes.axhline(value, color=STAND_INS["ink"], linewidth=0.9, linestyle=(0, (4, 2.5)))
        axes.annotate(
            name,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=STAND_INS["muted"],
        )
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.25, len(ticks) - 0.75)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.margins(y=0.1)
    return to_svg(figure, label)


def level_bars(
    inner: Mapping[int, Sequence[float]],
    outer: Mapping[int, Sequence[float]],
    ticks: Sequence[str],
    *,
    label: str,
    y_label: str,
) -> Markup:
    """Returns a bar a level and quantiser as SVG: `inner` solid within `outer`, which is pale."""
    figure, axes = one_axes("", y_label)
    width = 0.8 / len(inner)
    for place, (number, values) in enumerate(inner.items()):
        x = np.arange(len(values)) - 0.4 + (place + 0.5) * width
        color = STAND_INS[series_name(number)]
        axes.bar(x, outer[number], width * 0.86, color=color, alpha=0.25, linewidth=0)
        axes.bar(x, values, width * 0.86, color=color, linewidth=0)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.set_ylim(0, 1.03)
    return to_svg(figure, label)


def against(
    panels: Mapping[str, Mapping[int, tuple[float, float]]], *, label: str, y_label: str
) -> Markup:
    """Returns panels side by side as SVG: a point a quantiser, each measure against one result.

    Args:
        panels: by title, by place of the quantiser in the list, its measure and its result.
        label: what the plot shows, for those who cannot see it.
        y_label: of the result, beside the first panel.
    """
    figure = new_figure(2.1 * len(panels) + 0.5, 2.6)
    for place, (title, points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        style_axes(axes, title, y_label if place == 0 else "")
        for number, (x, y) in points.items():
            axes.plot(
                x,
                y,
                color=STAND_INS[series_name(number)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=6,
                clip_on=False,
            )
        axes.margins(0.12)
        axes.locator_params(axis="x", nbins=3)
    return to_svg(figure, label)
