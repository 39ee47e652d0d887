"""The wording of the rows that are made of watch histories; the words themselves are config."""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Fact:
    """A template of task A: what it says of one item, and what it asks.

    Attributes:
        name: what summaries call it.
        input: with fields in braces: `{sid}`, or facts of the item such as `{title}`.
        output: the same. Either the input or the output shows the SID, not both.
    """

    name: str
    input: str
    output: str

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        """The facts that it needs, each once."""
        found = dict.fromkeys([*_fields(self.input), *_fields(self.output)])
        return tuple(name for name in found if name != "sid")

    @property
    def asks_sid(self) -> bool:
        """Whether the answer is the SID."""
        return "sid" in _fields(self.output)

    @functools.cached_property
    def asked(self) -> tuple[str, ...]:
        """The facts that the answer consists of."""
        return tuple(name for name in _fields(self.output) if name != "sid")


@dataclasses.dataclass(frozen=True)
class Words:
    """All words of the rows.

    Attributes:
        facts: the templates of task A.
        entry: an item of a history, of `{sid}` and `{mark}`.
        hidden: stands in a history in place of the masked item.
        marks: by name, what `{mark}` is.
        between: stands between two entries.
        mask_last: task B's input where the last item is masked, of `{history}`.
        mask_random: task B's input where any may be.
        masked: task B's answer, of `{sid}`.
        liked: by number of liked items, task C's input, of `{history}`.
        reason: task C's answer, of `{shared}` and `{sid}`.
        shared: by kind (genres, studios, era, type), how `{shared}` names what is shared, of
            `{values}`.
        shared_between: stands between two kinds.
    """

    facts: tuple[Fact, ...]
    entry: str
    hidden: str
    marks: Mapping[str, str]
    between: str
    mask_last: str
    mask_random: str
    masked: str
    liked: Mapping[str, str]
    reason: str
    shared: Mapping[str, str]
    shared_between: str

    @classmethod
    def from_mapping(
        cls, config: Mapping[str, Any], facts: Sequence[str], marks: Sequence[str]
    ) -> Words:
        """Returns the words of a config.

        Args:
            config: the fields above; `facts` by name, each with `input` and `output`.
            facts: the facts that templates may use.
            marks: the marks that need a word.

        Raises:
            ValueError: a field is missing or unknown, or a template lacks a field in braces or has
                one that it must not have.
        """
        values = dict(config)
        known = {field.name for field in dataclasses.fields(cls)}
        for name in sorted(known - values.keys()):
            raise ValueError(f"tasks.words.{name} is missing")
        for name in sorted(values.keys() - known):
            raise ValueError(f"tasks.words.{name} is not a field of it")
        made = []
        for name, entry in dict(values["facts"]).items():
            where = f"tasks.words.facts.{name}"
            fact = Fact(name, *(_text(where, entry, part) for part in ("input", "output")))
            _check_fact(where, fact, facts)
            made.append(fact)
        if not made:
            raise ValueError("tasks.words.facts: there are none; task A needs at least one")
        for name, wanted in (
            ("entry", {"sid", "mark"}),
            ("hidden", set()),
            ("between", set()),
            ("mask_last", {"history"}),
            ("mask_random", {"history"}),
            ("masked", {"sid"}),
            ("reason", {"shared", "sid"}),
            ("shared_between", set()),
        ):
            _check(f"tasks.words.{name}", values[name], wanted)
        for name, wanted in (("liked", {"history"}), ("shared", {"values"})):
            for key, text in dict(values[name]).items():
                _check(f"tasks.words.{name}.{key}", text, wanted)
        for mark in marks:
            if mark not in values["marks"]:
                raise ValueError(f"tasks.words.marks.{mark} is missing")
        for name in ("marks", "liked", "shared"):
            values[name] = dict(values[name])
        return cls(**values | {"facts": tuple(made)})

    def check_fits(self, liked: Sequence[int]) -> None:
        """Checks that there are words for each number of liked items.

        Raises:
            ValueError: there are none for one.
        """
        for number in liked:
            if str(number) not in self.liked:
                raise ValueError(
                    f"tasks.words.liked.{number} is missing; tasks.task_c_liked asks for it"
                )

    def special_tokens(self) -> tuple[str, ...]:
        """Returns what stands in angle brackets in entries and marks, in the order of use."""
        text = "".join([self.entry, *self.marks.values()])
        found = []
        while "<" in text and ">" in text:
            start = text.index("<")
            end = text.find(">", start)
            if end < 0:
                break
            found.append(text[start : end + 1])
            text = text[end + 1 :]
        return tuple(dict.fromkeys(found))


def _text(where: str, entry: Any, part: str) -> str:
    value = entry.get(part) if isinstance(entry, Mapping) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}.{part} is {value!r:.80}: must be a text")
    return value


def _check_fact(where: str, fact: Fact, facts: Sequence[str]) -> None:
    for part in ("input", "output"):
        for name in _fields(getattr(fact, part), f"{where}.{part}"):
            if name not in ("sid", *facts):
                raise ValueError(
                    f"{where}.{part}: unknown field {{{name}}}; it may hold {{sid}} and "
                    f"{', '.join(f'{{{name}}}' for name in facts)}"
                )
    shows, asks = _fields(fact.input), _fields(fact.output)
    if ("sid" in shows) == ("sid" in asks):
        raise ValueError(f"{where}: either the input or the output must hold {{sid}}, not both")
    if not fact.fields:
        raise ValueError(f"{where}: names no fact of the item")
    if both := set(shows) & set(asks):
        raise ValueError(f"{where}: the input holds {{{both.pop()}}}, which is the answer")


def _check(where: str, text: Any, wanted: set[str]) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{where} is {text!r:.80}: must be a text")
    found = set(_fields(text, where))
    if found != wanted:
        told = ", ".join(f"{{{name}}}" for name in sorted(wanted)) or "none"
        raise ValueError(f"{where}: {text!r:.80} must hold just these fields: {told}")


def _fields(text: str, where: str = "") -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(
            f"{where}: {text!r:.80}: {error}; a brace that is meant as such is doubled"
        ) from None
