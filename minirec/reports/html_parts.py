"""What the HTML pages share: the document around everything, sections, figures and names."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from minirec.files import shown
from minirec.reports.style import STYLE

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; style-src-attr 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


def shown_html(text: str) -> str:
    """Returns text from data as HTML: markup as text, and signs that act as escapes."""
    return html.escape(shown(text, lines=True))


def document(title: str, sections: Sequence[str]) -> str:
    """Returns the whole page; `title` and `sections` are HTML already.

    Its policy lets a browser use this style sheet and the plots' style attributes, and load and run
    nothing: markup that came in with the data after all could do nothing.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """Returns a section; `title` and `note` are text, `body` is HTML already."""
    note = f'<p class="note">{shown_html(note)}</p>' if note else ""
    return f"<section><h2>{shown_html(title)}</h2>{note}{body}</section>"


def figure(svg: str, title: str, caption: str) -> str:
    """Returns a figure; all three are HTML already."""
    return f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>"


def breakable(name: str) -> str:
    """Returns a name's HTML that may be broken over lines after an underscore."""
    return shown_html(name).replace("_", "_<wbr>")


def code(name: str) -> str:
    """Returns a name's HTML as code."""
    return f"<code>{shown_html(name)}</code>"
