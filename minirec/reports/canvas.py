"""What plots are drawn on: SVG text that takes colours and typeface from the page around it.

Colours are drawn as stand-ins and then named as CSS variables (`var(--model)`), so that one SVG
works on light and dark pages. The same data gives the same bytes.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from minirec.files import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = tuple(f"series-{number}" for number in range(8))
"""CSS variables of colours that tell any eight things apart."""
# Colours that no palette holds, one for each CSS variable of the page.
STAND_INS = {
    name: f"#0102{number:02x}"
    for number, name in enumerate(
        (
            "ink",
            "muted",
            "grid",
            "model",
            "popularity",
            "item_transition",
            "transition_content",
            "system",
            "item_head",
            "model_head",
            "other",
            *SERIES,
        )
    )
}
_FONT_SIZE = 8.2


def one_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Returns a figure of the usual size with one pair of axes."""
    figure = new_figure(4.1, 2.6)
    axes = figure.add_subplot()
    style_axes(axes, x_label, y_label)
    return figure, axes


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, in inches."""
    # The class, not pyplot: no global state, no display, safe in any thread.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels axes and gives them the page's quiet look."""
    ink, muted, grid = (STAND_INS[name] for name in ("ink", "muted", "grid"))
    axes.set_xlabel(x_label, color=muted, fontsize=_FONT_SIZE)
    axes.set_title(y_label, color=muted, fontsize=_FONT_SIZE, loc="left")
    axes.tick_params(colors=muted, labelsize=_FONT_SIZE, length=2.5, width=0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(ink)
    axes.spines["bottom"].set_linewidth(0.7)
    axes.patch.set_alpha(0)


def to_svg(figure: Figure, label: str) -> Markup:
    """Returns the figure as an `<svg>` element, which templates take into a page as it is."""
    import matplotlib as mpl

    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "minirec", "font.size": _FONT_SIZE}
    with mpl.rc_context(settings):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    # The page's policy knows one style sheet, which has these rules.
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>\s*", "", text)
    for name, color in STAND_INS.items():
        text = text.replace(color, f"var(--{name})")
    # The page's own typeface, and no names of addresses that an inline SVG does not need.
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = text.replace("xlink:href=", "href=")
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    body = _own_ids(text[text.index(">") + 1 :], label)
    label = escape(shown(label, lines=True))
    return Markup(f'<svg {view_box[0]} role="img" aria-label="{label}">{body}')


def _own_ids(body: str, label: str) -> str:
    """Returns the SVG with ids that no other SVG of the page has; unused ones are dropped."""
    import hashlib

    prefix = hashlib.sha256(label.encode()).hexdigest()[:8]
    used = set(re.findall(r"(?:href=\"#|url\(#)([\w-]+)", body))

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    body = re.sub(r' id="([^"]+)"', rename, body)
    return re.sub(r"(href=\"#|url\(#)([\w-]+)", rf"\g<1>{prefix}-\g<2>", body)
