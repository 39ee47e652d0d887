"""Text from data as a page, a table or a terminal may show it.

A title can hold ESC, which begins a terminal's commands, or signs that turn the reading direction,
so that a line reads otherwise than it is. They are shown as escapes, such as `\\x1b`.
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; the signs that turn or isolate a direction; line and paragraph separators; half
# characters, which no encoding knows.
_UNSEEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u206f\\ud800-\\udfff]"
)
_LAYOUT = "\n\t"


def shown(text: str, *, lines: bool = False) -> str:
    """Returns a text with every sign that acts instead of being seen as an escape.

    Args:
        text: from a log, a file, a name that a person gave.
        lines: leave line ends and tabs, where the text is one of several lines.
    """
    return _UNSEEN.sub(lambda match: _escape(match[0], _LAYOUT if lines else ""), text)


def json_line(value: Any) -> str:
    """Returns a value as one line of JSON that a terminal can show; it reads back as the value."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(sign: str, kept: str) -> str:
    if sign in kept:
        return sign
    code = ord(sign)
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(
        sign, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    )
