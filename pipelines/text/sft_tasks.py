"""The fine-tuning tasks: what each example shows, what it asks for, and that it gives nothing away.

No prompt contains its own answer. That is to say, of every example:

- a history task never shows an item that shares its SID or its title with the target. Where a user
  takes an item again, "drop" leaves the earlier ones out of the history that is shown, "leave_out"
  leaves the example out, and "keep" shows the history as it was: the only way to learn that users
  come back to an item, at the price that such a prompt does hold its answer;
- besides, but with "keep", the answer's text does not stand anywhere in the prompt's. An item of
  the history whose title holds the target's ("Duct Tape, Grey" and "Duct Tape") is dropped, or the
  example left out; an example whose answer the template's own words hold is left out;
- a catalogue task shows the SID and asks for the title, or the other way round, never both.

Histories and targets are training interactions only; the catalogue is all of it, as titles and SIDs
are no interactions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from pipelines.batches.event_weights import event_weights
from pipelines.batches.examples import check_ranges, item_column, window_examples
from pipelines.text.encode import ItemLists, shown_texts
from pipelines.text.item_texts import ItemTexts, PreparedItems
from pipelines.text.prompts import BLOCKS, Template

Repeats = Literal["drop", "leave_out", "keep"]
REPEATS = ("drop", "leave_out", "keep")


@dataclasses.dataclass(frozen=True, eq=False)
class TaskExamples:
    """The examples of one task, before they are tokens.

    Attributes:
        shown: the items that each prompt shows, oldest first; at least one.
        target: int64 [n], the item that each asks for.
        user: int64 [n], whose history it is; -1 for the catalogue's.
        weight: float32 [n], of the loss.
        left_out: how many examples were not made, by reason.
        dropped_items: items that were dropped from histories, as they would have given the answer
            away.
    """

    shown: ItemLists
    target: Int[np.ndarray, " n"]
    user: Int[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    left_out: dict[str, int]
    dropped_items: int = 0

    def __len__(self) -> int:
        return len(self.target)

    def where(self, kept: Bool[np.ndarray, " n"], reason: str) -> TaskExamples:
        """Returns the examples that are kept; counts the others."""
        rows = np.flatnonzero(kept)
        left_out = dict(self.left_out)
        if len(rows) < len(self):
            left_out[reason] = left_out.get(reason, 0) + len(self) - len(rows)
        return dataclasses.replace(
            self,
            shown=self.shown.take(rows),
            target=self.target[rows],
            user=self.user[rows],
            weight=self.weight[rows],
            left_out=left_out,
        )

    def without(self, given_away: Bool[np.ndarray, " total"]) -> TaskExamples:
        """Returns the examples without some of the items they show."""
        return dataclasses.replace(
            self,
            shown=self.shown.where(~given_away),
            dropped_items=self.dropped_items + int(np.count_nonzero(given_away)),
        )


def task_examples(
    template: Template,
    prepared: PreparedItems,
    texts: ItemTexts,
    *,
    max_items: int,
    repeats: Repeats = "drop",
) -> TaskExamples:
    """Returns the examples of a template's task.

    A history task has one for each training view: its newest `max_items` items, then its target. A
    catalogue task has one for each pair of SID and title (so that two items that share both make
    one).

    Args:
        template: of the task.
        prepared: only its train split and its catalogue are read.
        texts: its items as text.
        max_items: items of a history that are shown at most.
        repeats: what happens where the history gives the target away; see the module.

    Raises:
        ValueError: records that do not fit one another, or nothing to make examples of.
    """
    task = template.task
    examples = _from_histories(prepared, max_items) if task.history else _from_catalogue(texts)
    asked, shows = texts.written(task.asks), texts.written(task.shows)
    examples = examples.where(asked[examples.target], "target_without_title")
    unwritten = ~shows[examples.shown.items]
    examples = dataclasses.replace(examples, shown=examples.shown.where(~unwritten))
    if task.history and repeats != "keep":
        target = examples.target[examples.shown.list_of]
        examples = _give_nothing_away(examples, texts.alike(examples.shown.items, target), repeats)
    examples = examples.where(examples.shown.sizes > 0, "nothing_to_show")
    if repeats != "keep" or not task.history:
        examples = _check_texts(template, examples, texts, repeats)
    if not len(examples):
        raise ValueError(
            f"task {template.name!r} has no examples ({_in_words(examples.left_out)}): give it the "
            "weight 0, or data that it can be made of"
        )
    return examples


def _from_histories(prepared: PreparedItems, max_items: int) -> TaskExamples:
    items, views = item_column(prepared), np.asarray(prepared.views("train"))
    check_ranges("splits/train", views, len(items) - 1)
    windows, weights = window_examples(views, max_items), event_weights(prepared)
    left_out = {"without_history": windows.left_out} if windows.left_out else {}
    if weights is not None:
        kept = weights.worth_learning(windows)
        if len(kept) < len(windows):
            left_out["weight_0"] = len(windows) - len(kept)
        windows = kept
    stop = windows.start + windows.size - 1
    user = np.searchsorted(np.asarray(prepared.offsets), stop, side="right") - 1
    weight = np.ones(len(stop), np.float32) if weights is None else weights.of(stop)
    return TaskExamples(
        ItemLists.of_ranges(items, windows.start, stop),
        np.asarray(items)[stop].astype(np.int64),
        user.astype(np.int64),
        weight.astype(np.float32),
        left_out,
    )


def _from_catalogue(texts: ItemTexts) -> TaskExamples:
    pairs = np.stack([texts.sid_group, texts.title_group], axis=1)
    pairs[texts.title_group < 0, 1] = -1 - np.arange(np.count_nonzero(texts.title_group < 0))
    _, first = np.unique(pairs, axis=0, return_index=True)
    target = np.sort(first).astype(np.int64)
    n = len(target)
    left_out = {"same_sid_and_title": len(pairs) - n} if n < len(pairs) else {}
    return TaskExamples(
        ItemLists(target, np.arange(n + 1)),
        target,
        np.full(n, -1, np.int64),
        np.ones(n, np.float32),
        left_out,
    )


def _give_nothing_away(
    examples: TaskExamples, given_away: Bool[np.ndarray, " total"], repeats: Repeats
) -> TaskExamples:
    """Returns the examples without the items at fault, or without the examples that have some."""
    if repeats == "drop":
        return examples.without(given_away)
    touched = np.zeros(len(examples), bool)
    touched[examples.shown.list_of[given_away]] = True
    return examples.where(~touched, "answer_in_history")


def _check_texts(
    template: Template, examples: TaskExamples, texts: ItemTexts, repeats: Repeats
) -> TaskExamples:
    """Returns the examples whose prompt's text does not hold the answer's."""
    task = template.task
    answers, written = texts.of(task.asks), texts.of(task.shows)
    found = _answer_in_prompt(template, examples, answers, written)
    if task.history and found.any():
        list_of = examples.shown.list_of
        given_away = np.zeros(len(list_of), bool)
        for place in np.flatnonzero(found[list_of]).tolist():
            answer = answers[examples.target[list_of[place]]]
            given_away[place] = answer in template.write_item(written[examples.shown.items[place]])
        examples = _give_nothing_away(examples, given_away, repeats)
        examples = examples.where(examples.shown.sizes > 0, "nothing_to_show")
        found = _answer_in_prompt(template, examples, answers, written)
    return examples.where(~found, "answer_in_prompt")


def _answer_in_prompt(
    template: Template, examples: TaskExamples, answers: Sequence[str], written: Sequence[str]
) -> Bool[np.ndarray, " n"]:
    shown = shown_texts(template, examples.shown, written)
    varying = [block for block in BLOCKS if template.varies(block)]
    constant = "\n".join(template.block(block) for block in BLOCKS if block not in varying)
    found = np.zeros(len(examples), bool)
    for row, (target, text) in enumerate(zip(examples.target.tolist(), shown, strict=True)):
        answer = answers[target]
        found[row] = answer in constant or any(
            answer in template.block(block, text) for block in varying
        )
    return found


def _in_words(left_out: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in left_out.items()) or "none in the data"
