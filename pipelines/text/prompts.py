"""Prompt templates: a task's wording, as data that a config holds.

A template is a dict of strings:

- `system`, `instruction`, `input`: the blocks of the prompt, in this order. Each is turned into
  tokens on its own, so that no token reaches from one block into the next; an empty one is left
  out. Somewhere in them stands what the task shows: `{history}`, or one item's `{sid}` or
  `{title}`.
- `item` and `separator`, where the task shows a history: how one of its items is written, by
  `{sid}` or `{title}`, and what stands between two.
- `response`: the answer, by `{sid}` or `{title}`; tokens of its own, and the end token after it.

So a header such as `Answer:` belongs at the end of `input`. Braces that are meant as such are
doubled. Spellings of special tokens (`<|im_start|>`) become those tokens.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from typing import Any, Literal, Self

BLOCKS = ("system", "instruction", "input")


@dataclasses.dataclass(frozen=True)
class TextTask:
    """What a task's prompt shows and what it asks for.

    Attributes:
        shows: what items are written as in the prompt.
        asks: what the answer is.
        history: the prompt shows a user's history and asks for the next item; otherwise it shows
            an item of the catalogue and asks for the same item.
    """

    shows: Literal["sid", "title"]
    asks: Literal["sid", "title"]
    history: bool


TASKS = {
    "sids_to_sid": TextTask("sid", "sid", history=True),
    "sid_to_title": TextTask("sid", "title", history=False),
    "title_to_sid": TextTask("title", "sid", history=False),
    "sids_to_title": TextTask("sid", "title", history=True),
    "titles_to_title": TextTask("title", "title", history=True),
    "titles_to_sid": TextTask("title", "sid", history=True),
}
"""The five tasks of MiniOneRec (arXiv 2510.24431), its second one in both directions."""


@dataclasses.dataclass(frozen=True)
class Template:
    """A task's wording, checked.

    Attributes:
        name: of the task.
        system: first block.
        instruction: second block.
        input: third block.
        item: how one item of a history is written.
        separator: between two items of a history.
        response: the answer.
    """

    name: str
    system: str
    instruction: str
    input: str
    item: str
    separator: str
    response: str

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Returns the template in `config`.

        Raises:
            ValueError: an unknown task, an entry too many or too few, or a field in braces that
                does not belong there or is missing; the message names template, entry and field.
        """
        if name not in TASKS:
            raise ValueError(f"prompts: {name!r} is not a task; there are {', '.join(TASKS)}")
        task, where = TASKS[name], f"prompts.{name}"
        if not hasattr(config, "items"):  # ml_collections' dicts are not Mappings
            raise ValueError(f"{where} is {config!r}; it must be a dict of strings")
        needed = ["input", "response", *(("item", "separator") if task.history else ())]
        known = ["system", "instruction", *needed]
        for entry, value in config.items():
            if entry not in known:
                raise ValueError(f"{where}.{entry}: unknown entry; there are {', '.join(known)}")
            if not isinstance(value, str):
                raise ValueError(f"{where}.{entry} is {value!r}; it must be a string")
        for entry in needed:
            if entry not in config:
                raise ValueError(f"{where}.{entry} is missing; a template of this task needs it")
        shown = "history" if task.history else task.shows
        in_blocks = [
            field
            for block in BLOCKS
            for field in _fields(f"{where}.{block}", config.get(block, ""), (shown,))
        ]
        if not in_blocks:
            raise ValueError(
                f"{where}: {{{shown}}} is missing; one of {', '.join(BLOCKS)} must show it"
            )
        singles = [("response", task.asks)] + ([("item", task.shows)] if task.history else [])
        for entry, field in singles:
            if not _fields(f"{where}.{entry}", config[entry], (field,)):
                raise ValueError(f"{where}.{entry}: {{{field}}} is missing in {config[entry]!r}")
        if task.history:
            _fields(f"{where}.separator", config["separator"], ())
        texts = {field.name: config.get(field.name, "") for field in dataclasses.fields(cls)}
        # Written as the others, with a brace that is meant as such doubled, and used as it is.
        texts["separator"] = texts["separator"].format()
        return cls(**(texts | {"name": name}))

    @property
    def task(self) -> TextTask:
        """What the template's task shows and asks for."""
        return TASKS[self.name]

    def varies(self, block: str) -> bool:
        """Tells whether a block differs from prompt to prompt."""
        return bool(_fields(block, getattr(self, block), None))

    def block(self, block: str, shown: str = "") -> str:
        """Returns a block's text; `shown` is the history, or the one item, as text."""
        field = "history" if self.task.history else self.task.shows
        return getattr(self, block).format(**{field: shown})

    def write_item(self, text: str) -> str:
        """Returns one item of a history, of its SID or title."""
        return self.item.format(**{self.task.shows: text})

    def write_answer(self, text: str) -> str:
        """Returns the answer, of the SID or title asked for."""
        return self.response.format(**{self.task.asks: text})


def parse_templates(config: Mapping[str, Any]) -> dict[str, Template]:
    """Returns the templates in `config`, by task.

    Raises:
        ValueError: as `Template.from_config`.
    """
    return {name: Template.from_config(name, entries) for name, entries in config.items()}


def _fields(where: str, text: str, allowed: tuple[str, ...] | None) -> list[str]:
    """Returns the fields in braces, in order; `allowed` None takes any."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"{where}: {text!r}: {error}; a brace that is meant as such is doubled"
        ) from None
    found = []
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if allowed is not None and (field not in allowed or spec or conversion):
            known = ", ".join(f"{{{name}}}" for name in allowed) or "none"
            tail = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(f"{where}: unknown field {{{field}{tail}}}; it may hold {known}")
        found.append(field)
    return found
