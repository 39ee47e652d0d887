"""What the HTML pages share: their templates, and the tables and figures that these show.

Python computes values and texts; all markup lies in `templates/`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from minirec.files import shown

_TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table, or an entry of a legend.

    Attributes:
        text: what it says.
        small: what stands beneath in small type.
        best: whether it is bold.
        swatch: CSS class of the colour that stands before it; "" for none.
    """

    text: str
    small: str = ""
    best: bool = False
    swatch: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: its name, its cells, and whether a group of rows begins with it."""

    head: Cell
    cells: Sequence[Cell]
    first: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        label: its name for those who cannot see it. It scrolls by itself; without, it does not.
        heads: the columns' names, that of the rows' names first; none for a table without a head.
        rows: below them.
        css: its classes.
        title: the caption's bold beginning.
        caption: what it shows.
        breaks: whether rows' names may be broken after underscores; columns' names always may.
    """

    label: str
    heads: Sequence[Cell]
    rows: Sequence[Row]
    css: str = "metrics"
    title: str = ""
    caption: str = ""
    breaks: bool = True


@dataclasses.dataclass(frozen=True)
class Figure:
    """A plot with its title, its caption and a legend above that.

    A `wide` one takes the page's width; on a narrow screen it is scrolled and not made small.
    """

    title: str
    svg: Markup
    caption: str = ""
    legend: Sequence[Cell] = ()
    wide: bool = False


def cells(*texts: object) -> list[Cell]:
    """Returns a plain cell for each text."""
    return [Cell(str(text)) for text in texts]


def signed(value: float, digits: int = 4) -> str:
    """Returns a number with its sign, in the signs of print."""
    return f"{value:+.{digits}f}".replace("-", "−")


def render(template: str, **data: Any) -> str:
    """Returns a page.

    Jinja takes markup in the data for text. Signs that act are made visible in the whole page, so
    that no template can forget one.

    Args:
        template: name of the file in `templates/`.
        data: what it shows.
    """
    style = style_sheet("colours.css") + style_sheet("style.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _ENVIRONMENT.get_template(template).render(data, style=Markup(style), style_hash=digest)
    return shown(page, lines=True)


def style_sheet(name: str) -> str:
    """Returns a style sheet of `templates/`."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")
