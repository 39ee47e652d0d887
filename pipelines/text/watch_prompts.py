"""Prompts of a split's histories, in the words of the rows with a masked item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from pipelines.batches.eval_batches import chosen_rows
from pipelines.prepared import Prepared
from pipelines.text.encode import Pool, Spans
from pipelines.text.prompt_batches import PromptBatches
from pipelines.text.tokenizer import TextTokenizer
from pipelines.text.watch_config import MARKS
from pipelines.text.watch_histories import Histories

_WATCH = MARKS.index("watch")


def watch_prompts(
    prepared: Prepared,
    split: str,
    histories: Histories,
    tokenizer: TextTokenizer,
    *,
    mode: str,
    batch_size: int,
    max_items: int,
    max_users: int | None = None,
    seed: int = 0,
    bucket_tokens: int = 32,
) -> PromptBatches:
    """Returns a split's views as batches of prompts; see `prompt_batches`.

    Args:
        prepared: records whose events are marks.
        split: "valid" or "test".
        histories: writes them.
        tokenizer: makes tokens.
        mode: "random", or "last" where lists have an order.
        batch_size: B.
        max_items: entries that a prompt shows at most, the newest ones.
        max_users: a sample of this many views; None: all.
        seed: of the sample.
        bucket_tokens: lengths of prompts are rounded up to a multiple.
    """
    items, marks = np.asarray(prepared.columns["item"]), np.asarray(prepared.columns["event"])
    views = np.asarray(prepared.views(split))
    rows = chosen_rows(split, len(views), max_users, seed)
    views = views[rows]
    texts = []
    for start, stop in zip(views[:, 1].tolist(), views[:, 2].tolist(), strict=True):
        first = max(start, stop - max_items)
        shown = items[first:stop].tolist()
        texts.append(histories.prompt(shown, marks[first:stop].tolist(), len(shown), mode))
    return _batches(texts, items, views, rows, tokenizer, batch_size, bucket_tokens)


def prompt_of(
    items: Int[np.ndarray, " H"],
    histories: Histories,
    tokenizer: TextTokenizer,
    mode: str,
    max_items: int,
) -> Int[np.ndarray, " n"]:
    """Returns the tokens of one history's prompt, of which nobody knows how its items went."""
    shown = items[-max_items:].tolist()
    text = histories.prompt(shown, [_WATCH] * len(shown), len(shown), mode)
    return np.array([*_begin(tokenizer), *tokenizer.encode(text)], np.int32)


def _begin(tokenizer: TextTokenizer) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _batches(
    texts: Sequence[str],
    items: np.ndarray,
    views: np.ndarray,
    rows: np.ndarray,
    tokenizer: TextTokenizer,
    batch_size: int,
    bucket_tokens: int,
) -> PromptBatches:
    pool = Pool()
    begin = _begin(tokenizer)
    first = pool.add(np.array(begin, np.int32))
    ids, offsets = tokenizer.encode_flat(texts)
    at = pool.add(ids)
    start = np.stack([np.full(len(texts), first), at + offsets[:-1]], axis=1).astype(np.int64)
    length = np.stack([np.full(len(texts), len(begin)), np.diff(offsets)], axis=1)
    spans = Spans(pool.tokens(), start, length.astype(np.int32))
    return PromptBatches(
        spans, items, views, rows, tokenizer.pad_token_id, batch_size, bucket_tokens, None, 0
    )
