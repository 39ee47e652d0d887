"""What the HTML pages share: the document around everything, sections, figures and names."""

from __future__ import annotations

import html
from collections.abc import Sequence

from minirec.evaluation.style import STYLE


def document(title: str, sections: Sequence[str]) -> str:
    """Returns the whole page; `title` and `sections` are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """Returns a section; `title` and `note` are text, `body` is HTML already."""
    note = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{note}{body}</section>"


def figure(svg: str, title: str, caption: str) -> str:
    """Returns a figure; all three are HTML already."""
    return f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>"


def breakable(name: str) -> str:
    """Returns a name's HTML that may be broken over lines after an underscore."""
    return html.escape(name).replace("_", "_<wbr>")


def code(name: str) -> str:
    """Returns a name's HTML as code."""
    return f"<code>{html.escape(name)}</code>"
