"""Prompts of a split for evaluation: right-padded, in few, fixed shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from minirec.sids import SidTable
from pipelines.batches.eval_batches import chosen_rows, filled_up
from pipelines.batches.examples import check_ranges, item_column
from pipelines.batches.row_source import Batch
from pipelines.text.encode import ItemLists, Pool, Spans, encode_prompts
from pipelines.text.item_texts import PreparedItems, item_texts
from pipelines.text.prompts import Template
from pipelines.text.tokenizer import TextTokenizer

_SMALLEST_HISTORY = 8


def prompt_batches(
    prepared: PreparedItems,
    split: str,
    table: SidTable,
    tokenizer: TextTokenizer,
    template: Template,
    *,
    batch_size: int,
    max_items: int,
    max_tokens: int | None = None,
    max_users: int | None = None,
    seed: int = 0,
    bucket_tokens: int = 32,
) -> PromptBatches:
    """Returns a split's views as batches of prompts, always the same in the same order.

    A prompt is what fine-tuning shows of a history, without the answer: BOS (where the tokenizer
    has one) and the template's blocks. The history is shown as it is; nothing is dropped from it
    but what is older than `max_items`, what `max_tokens` has no room for, and, where the template
    writes titles, items without one.

    A batch is a dict of NumPy arrays:

    - `tokens` int32 [B, T], right-padded; `lengths` int32 [B], at least 1.
    - `history` int32 [B, H]: the view's whole history, newest last, padded with -1 at the end.
    - `target`, `user` int32 [B]; `row` int64 [B], the view's row in the split; -1 where invalid.
    - `valid` bool [B]: False for the rows that fill up the last batch (one padding token each).

    Views go by number of tokens, so that a batch is hardly padded. T is a multiple of
    `bucket_tokens` (or `max_tokens`), H a power of two.

    Args:
        prepared: the prepared data set.
        split: "valid" or "test" (or "train").
        table: the items' SIDs, in the catalogue's order.
        tokenizer: has the SID tokens.
        template: of a task that shows a history.
        batch_size: B.
        max_items: history items that a prompt shows at most, the newest ones.
        max_tokens: tokens that a prompt has at most; the oldest items are dropped. None: any.
        max_users: a sample of this many views, drawn by `seed`, as `eval_batches` draws it.
        seed: of the sample.
        bucket_tokens: lengths of prompts are rounded up to a multiple.

    Raises:
        ValueError: arguments that do not fit the data, an empty split, or a prompt that does not
            fit in `max_tokens` without any history.
    """
    items = item_column(prepared)
    views = np.asarray(prepared.views(split))
    check_ranges(f"splits/{split}", views, len(items) - 1)
    rows = chosen_rows(split, len(views), max_users, seed)
    return _batches(
        prepared, items, views[rows], rows, table, tokenizer, template,
        batch_size, max_items, max_tokens, bucket_tokens,
    )  # fmt: skip


def history_prompts(
    prepared: PreparedItems,
    histories: Sequence[Int[np.ndarray, " H"]],
    table: SidTable,
    tokenizer: TextTokenizer,
    template: Template,
    *,
    batch_size: int,
    max_items: int,
    max_tokens: int | None = None,
    bucket_tokens: int = 32,
) -> PromptBatches:
    """Returns batches of prompts of some histories, as `prompt_batches` makes those of a split.

    `row` and `user` say of which history; `target` means nothing.

    Args:
        prepared: the catalogue.
        histories: item ids, oldest first; a history may be empty.
        table: as for `prompt_batches`, and the same holds for all that follow.
        tokenizer: has the SID tokens.
        template: of a task that shows a history.
        batch_size: B; less where there are fewer histories.
        max_items: history items that a prompt shows at most.
        max_tokens: tokens that a prompt has at most.
        bucket_tokens: lengths of prompts are rounded up to a multiple.

    Raises:
        ValueError: no histories, and as `prompt_batches`.
    """
    if not histories:
        raise ValueError("histories: none given")
    sizes = np.array([len(history) for history in histories], np.int64)
    # What would be the last one's target stands behind them all.
    items = np.concatenate([*histories, np.zeros(1, np.int64)]).astype(np.int64)
    stop = np.cumsum(sizes)
    rows = np.arange(len(histories))
    views = np.stack([rows, stop - sizes, stop], axis=1)
    return _batches(
        prepared, items, views, rows, table, tokenizer, template,
        min(batch_size, len(histories)), max_items, max_tokens, bucket_tokens,
    )  # fmt: skip


def _batches(
    prepared: PreparedItems,
    items: Int[np.ndarray, " E"],
    views: Int[np.ndarray, "n 3"],
    rows: Int[np.ndarray, " n"],
    table: SidTable,
    tokenizer: TextTokenizer,
    template: Template,
    batch_size: int,
    max_items: int,
    max_tokens: int | None,
    bucket_tokens: int,
) -> PromptBatches:
    for name, value in (
        ("batch_size", batch_size),
        ("max_items", max_items),
        ("bucket_tokens", bucket_tokens),
        ("max_tokens", 1 if max_tokens is None else max_tokens),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not template.task.history:
        raise ValueError(
            f"prompts.{template.name}: shows an item of the catalogue; an evaluation needs a "
            "template that shows a history"
        )
    texts = item_texts(prepared, table, tokenizer)
    start, stop = views[:, 1], views[:, 2]
    shown = ItemLists.of_ranges(items, np.maximum(start, stop - max_items), stop)
    shown = shown.where(texts.written(template.task.shows)[shown.items])
    pool = Pool()
    encoded = encode_prompts(
        template,
        shown,
        texts.of(template.task.shows),
        tokenizer,
        np.full(len(rows), np.iinfo(np.int32).max if max_tokens is None else max_tokens),
        pool,
        least_items=0,
    )
    if not encoded.fits.all():
        raise ValueError(
            f"max_tokens={max_tokens}: prompts.{template.name} is longer without any history; "
            "raise it or shorten the template"
        )
    return PromptBatches(
        Spans(pool.tokens(), encoded.start, encoded.length),
        items,
        views,
        rows,
        tokenizer.pad_token_id,
        batch_size,
        bucket_tokens,
        max_tokens,
        int(np.count_nonzero(encoded.shown.sizes < shown.sizes)),
    )


class PromptBatches:
    """Batches of prompts, as `prompt_batches` makes them; can be gone through again and again.

    Attributes:
        num_views: number of valid rows in all batches together.
        shapes: the distinct (T, H) of the batches: as many compilations.
        shortened: prompts that lost items of their history to `max_tokens`.
    """

    def __init__(
        self,
        spans: Spans,
        items: np.ndarray,
        views: np.ndarray,
        rows: np.ndarray,
        pad: int,
        batch_size: int,
        bucket_tokens: int,
        max_tokens: int | None,
        shortened: int,
    ):
        self._spans, self._items, self._views, self._rows = spans, items, views, rows
        self._pad, self._batch_size = pad, batch_size
        self.num_views, self.shortened = len(rows), shortened
        self._lengths = spans.lengths
        self._order = np.argsort(self._lengths, kind="stable")
        # Prompts are sorted: a batch's last one is its longest. Histories are not.
        first = np.arange(0, len(rows), batch_size)
        last = np.minimum(first + batch_size, len(rows)) - 1
        tokens = -(-self._lengths[self._order[last]] // bucket_tokens) * bucket_tokens
        if max_tokens is not None:
            tokens = np.minimum(tokens, max_tokens)
        held = np.maximum.reduceat((views[:, 2] - views[:, 1])[self._order], first)
        self._shapes = [
            (int(length), 1 << (max(int(size), _SMALLEST_HISTORY) - 1).bit_length())
            for length, size in zip(tokens, held, strict=True)
        ]
        self.shapes = sorted(set(self._shapes))

    def __len__(self) -> int:
        return len(self._shapes)

    def __iter__(self) -> Iterator[Batch]:
        for number, (length, held) in enumerate(self._shapes):
            chosen = self._order[number * self._batch_size :][: self._batch_size]
            user, start, stop = self._views[chosen].T
            lengths = np.ones(self._batch_size, np.int32)
            lengths[: len(chosen)] = self._lengths[chosen]
            tokens = np.full((self._batch_size, length), self._pad, np.int32)
            real = np.arange(length) < lengths[:, None]
            real[len(chosen) :] = False
            tokens[real] = self._spans.tokens(chosen)
            history = np.full((self._batch_size, held), -1, np.int32)
            filled = np.zeros(history.shape, bool)
            filled[: len(chosen)] = np.arange(held) < (stop - start)[:, None]
            history[filled] = ItemLists.of_ranges(self._items, start, stop).items
            yield {
                "tokens": tokens,
                "lengths": lengths,
                "history": history,
                "valid": np.arange(self._batch_size) < len(chosen),
                "target": filled_up(self._items[stop], self._batch_size, np.int32),
                "user": filled_up(user, self._batch_size, np.int32),
                "row": filled_up(self._rows[chosen], self._batch_size, np.int64),
            }
