"""The sweep page's plot, as SVG text: a dot with its interval a setting, a panel a metric."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from minirec.files import shown
from minirec.reports.canvas import SERIES, STAND_INS, new_figure, style_axes, to_svg
from minirec.reports.html_parts import Cell, style_sheet
from minirec.reports.seeds import METRICS, Estimate, SettingRow, recommenders

_DASHES = {
    "transition_content": (0, (5, 1.5, 1, 1.5)),
    "item_transition": (0, (5, 1.5)),
    "popularity": (0, (1, 1.5)),
}
_MOST_TEXT = 34  # Characters a line beside the dots.


def series_of(names: Sequence[str]) -> dict[str, str]:
    """Returns the CSS variable of each trained recommender's colour; `model` has its own."""
    others = [name for name in names if name != "model"]
    # The first two series are the colours of model and item_transition.
    colours = {name: SERIES[2 + n % (len(SERIES) - 2)] for n, name in enumerate(others)}
    return {name: colours.get(name, "model") for name in names}


def setting_dots(
    rows: Sequence[SettingRow],
    names: Sequence[str],
    baselines: Sequence[tuple[str, Mapping[str, Estimate]]],
    *,
    label: str,
) -> Markup:
    """Returns the dots as SVG, the first row on top; baselines are vertical lines.

    Args:
        rows: settings, at least one of them with a finished run.
        names: what to write beside each.
        baselines: name and metrics of each line.
        label: what the plot shows, for those who cannot see it.
    """
    trained = recommenders(rows)
    series = series_of(trained)
    step = 0.5 / max(1, len(trained))
    figure = new_figure(8.4, 0.9 + max(len(rows), 3) * (0.24 + 0.1 * len(trained)))
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        style_axes(axes, "", metric.upper())
        axes.grid(axis="x", color=STAND_INS["grid"], linewidth=0.7)
        for name, metrics in baselines:
            axes.axvline(
                metrics[metric].value,
                color=STAND_INS[name],
                linestyle=_DASHES[name],
                linewidth=1.3,
            )
        for place, row in enumerate(rows):
            for number, (name, metrics) in enumerate(row.estimates.items()):
                one = metrics[metric]
                y = place + step * (number - (len(row.estimates) - 1) / 2)
                color = STAND_INS[series[name]]
                axes.plot([one.low, one.high], [y, y], color=color, linewidth=1.6)
                axes.plot(one.value, y, "o", color=color, markersize=4.5)
        low, high = axes.get_xlim()
        # Two seeds may give an interval below 0, where no metric lies.
        axes.set_xlim(max(low, 0.0), high)
        axes.set_yticks(range(len(rows)), [_short(name) for name in names], parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return to_svg(figure, label)


def standalone(plot: Markup, legend: Sequence[Cell]) -> str:
    """Returns a plot of a page as an SVG file of its own, with the page's colours and a legend.

    Args:
        plot: what `to_svg` returned.
        legend: the entries of the page's.
    """
    svg = str(plot)  # What is put into a `Markup` would be escaped.
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    width, height = float(box[1]), float(box[2])
    texts, x = [], 8.0
    for entry in legend:
        texts.append(
            f'<rect x="{x}" y="{height + 3}" width="8" height="8" '
            f'style="fill: var(--{entry.swatch})"/>'
            f'<text x="{x + 12}" y="{height + 10.5}" style="fill: var(--ink); font-size: 8.2px">'
            f"{escape(shown(entry.text, lines=True))}</text>"
        )
        x += 30 + 5.2 * len(entry.text)
    size = f'viewBox="0 0 {width} {height + 18}" xmlns="http://www.w3.org/2000/svg"'
    svg = svg.replace(box[0], size, 1)
    end = svg.index(">") + 1
    rules = (
        "* { stroke-linejoin: round; stroke-linecap: butt; } "
        "svg { background: var(--page); font-family: sans-serif; }"
    )
    style = f"<style>{style_sheet('colours.css')}{rules}</style>"
    return svg[:end] + style + svg[end:].replace("</svg>", "".join(texts) + "</svg>")


def _short(name: str) -> str:
    return textwrap.fill(shown(name), _MOST_TEXT, max_lines=2, placeholder=" …")
