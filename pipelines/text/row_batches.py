"""Rows of prompt and answer as an endless, globally shuffled stream of token batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from pipelines.batches.packing import pack
from pipelines.batches.row_source import check_processes, digest
from pipelines.batches.stream import BatchStream
from pipelines.text.encode import Spans
from pipelines.text.mixture import draw_counts, draws
from pipelines.text.text_rows import TextSource
from pipelines.text.tokenizer import TextTokenizer

_STATE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """How batches are made of rows.

    Attributes:
        batch_size: rows of tokens a batch, over all processes together.
        row_tokens: T, tokens a row of a batch; what is longer is left out. None: what the longest
            needs.
        pack: several rows share a row of tokens.
        num_threads: as for `SftConfig`, as is what follows.
        prefetch: batches made ahead.
        num_workers: processes that make batches ahead.
    """

    batch_size: int
    row_tokens: int | None = None
    pack: bool = True
    num_threads: int = 1
    prefetch: int = 4
    num_workers: int = 0

    def __post_init__(self) -> None:
        for field, least in (
            ("batch_size", 1),
            ("num_threads", 0),
            ("prefetch", 0),
            ("num_workers", 0),
        ):
            if (value := getattr(self, field)) < least:
                raise ValueError(f"loader.{field}={value}: must be at least {least}")
        if self.row_tokens is not None and self.row_tokens < 2:
            raise ValueError(f"loader.row_tokens={self.row_tokens}: must be at least 2, or 0")


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedRows:
    """Rows as tokens: what is given, then what is to be said.

    Attributes:
        tokens: int32, all rows one behind the other.
        start: int64 [n, 2], where prompt and answer begin.
        length: int32 [n, 2].
        left_out: rows that were too long.
    """

    tokens: Int32[np.ndarray, " total"]
    start: Int64[np.ndarray, "n 2"]
    length: Int32[np.ndarray, "n 2"]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.start)

    @property
    def answer_tokens(self) -> float:
        """Tokens of an answer, on average."""
        return float(self.length[:, 1].mean()) if len(self) else 0.0

    @classmethod
    def of_texts(
        cls,
        prompts: Sequence[str],
        answers: Sequence[str],
        tokenizer: TextTokenizer,
        row_tokens: int | None = None,
    ) -> EncodedRows:
        """Returns rows of texts; an answer ends with the tokenizer's end, a prompt begins with BOS.

        Args:
            prompts: what is given.
            answers: what is to be said.
            tokenizer: makes tokens.
            row_tokens: rows that take more places are left out; None: none are.
        """
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        given, given_at = tokenizer.encode_flat(prompts)
        said, said_at = tokenizer.encode_flat(answers)
        given, given_at = _inserted(given, given_at, begin, at_end=False)
        said, said_at = _inserted(said, said_at, [tokenizer.eos_token_id], at_end=True)
        start = np.stack([given_at[:-1], said_at[:-1] + len(given)], axis=1)
        length = np.stack([np.diff(given_at), np.diff(said_at)], axis=1).astype(np.int32)
        places = length.sum(axis=1) - 1
        fits = (length[:, 0] > 0) & (places <= (row_tokens or places.max(initial=1)))
        return cls(
            np.concatenate([given, said]).astype(np.int32),
            start[fits].astype(np.int64),
            length[fits],
            int(np.count_nonzero(~fits)),
        )

    @classmethod
    def of_stream(cls, tokens: Int32[np.ndarray, " m"], first: int, window: int) -> EncodedRows:
        """Returns a long text as rows of `window` tokens, each behind the token `first`.

        Args:
            tokens: the text's.
            first: what is given, such as the end of another text.
            window: tokens of a row; what is left at the end is a row if it has two at least.
        """
        starts = np.arange(0, len(tokens), window)
        lengths = np.minimum(len(tokens) - starts, window)
        starts, lengths = starts[lengths > 1], lengths[lengths > 1]
        start = np.stack([np.full(len(starts), len(tokens)), starts], axis=1).astype(np.int64)
        length = np.stack([np.ones(len(starts)), lengths], axis=1).astype(np.int32)
        return cls(np.append(tokens, first).astype(np.int32), start, length)


def _inserted(
    tokens: np.ndarray, offsets: np.ndarray, extra: list[int], *, at_end: bool
) -> tuple[np.ndarray, np.ndarray]:
    if not extra:
        return tokens, offsets
    at = offsets[1:] if at_end else offsets[:-1]
    return np.insert(tokens, at, extra[0]), offsets + np.arange(len(offsets))


def row_batches(
    parts: Mapping[str, EncodedRows],
    weights: Mapping[str, float],
    config: RowsConfig,
    *,
    seed: int,
    pad: int,
    even_out: Sequence[str] = (),
    process_index: int = 0,
    process_count: int = 1,
) -> RowBatches:
    """Returns the endless stream of batches of a mixture; a batch is as `sft_batches` has it.

    Args:
        parts: rows by name.
        weights: each part's share of the rows drawn; 0, or none, turns one off.
        config: how batches are made.
        seed: shuffle, packing, and which rows an uneven mixture draws once more.
        pad: token that fills up rows.
        even_out: parts whose answers weigh, in all, as much as the others' do on average, so that
            a part of long texts has its share of the loss and no more.
        process_index: this JAX process.
        process_count: number of JAX processes.

    Raises:
        ValueError: a weight of a part that is not there, below 0, or none above 0; a part with a
            weight and without rows.
    """
    check_processes(config.batch_size, process_index, process_count)
    for name, weight in weights.items():
        if name not in parts:
            raise ValueError(f"weights[{name!r}]: there are {', '.join(parts)}")
        if not np.isfinite(weight) or weight < 0:
            raise ValueError(f"weights[{name!r}]={weight!r}: must be 0 or more")
    active = [name for name in parts if weights.get(name, 0) > 0]
    if not active:
        raise ValueError(f"weights={dict(weights)}: at least one must be above 0")
    for name in active:
        if not len(parts[name]):
            raise ValueError(
                f"weights[{name!r}]={weights[name]!r}, but there is no row of it"
                + (
                    f": {parts[name].left_out} are longer than row_tokens={config.row_tokens}"
                    if parts[name].left_out
                    else ""
                )
            )
    shift = np.cumsum([0, *(len(parts[name].tokens) for name in active)])
    spans = Spans(
        np.concatenate([parts[name].tokens for name in active]),
        np.concatenate([parts[name].start + at for name, at in zip(active, shift, strict=False)]),
        np.concatenate([parts[name].length for name in active]),
    )
    sizes = {name: len(parts[name]) for name in active}
    counts = draw_counts(sizes, {name: float(weights[name]) for name in active})
    others = [name for name in active if name not in even_out]
    drawn_others = sum(counts[name] for name in others)
    usual = sum(counts[name] * parts[name].answer_tokens for name in others)
    usual = usual / drawn_others if drawn_others else 1.0
    each = {
        name: usual / parts[name].answer_tokens if name in even_out and others else 1.0
        for name in active
    }
    drawn = draws(sizes, counts, seed)
    places = spans.lengths - 1
    row_tokens = config.row_tokens or int(places.max())
    source = TextSource(
        packing=pack(places[drawn], row_tokens, seed=seed) if config.pack else None,
        row_size=row_tokens,
        batch_size=config.batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        spans=spans,
        weights=np.concatenate([np.full(sizes[name], each[name], np.float32) for name in active]),
        draws=drawn,
        pad=pad,
    )
    return RowBatches(source, config, counts, sizes)


class RowBatches(BatchStream):
    """The stream that `row_batches` makes.

    Attributes:
        drawn: rows of each part that an epoch draws.
        examples_per_row: rows that share a row of tokens, on average.
    """

    def __init__(
        self,
        source: TextSource,
        config: RowsConfig,
        drawn: Mapping[str, int],
        sizes: Mapping[str, int],
    ):
        stream = {
            "version": _STATE_VERSION,
            "seed": source.seed,
            "process_count": source.process_count,
            "batch_size": source.batch_size,
            "pack": config.pack,
            "row_tokens": source.row_size,
            "drawn": dict(drawn),
            "data": digest(
                source.spans.pool,
                source.spans.start,
                source.spans.length,
                source.weights,
                source.draws,
            ),
        }
        super().__init__(source, config, stream)
        self.drawn = dict(drawn)
        self.examples_per_row = source.num_examples / source.num_rows
        self._draws = source.draws
        self._names = list(sizes)
        self._first = np.cumsum([0, *sizes.values()])

    def name_examples(self, examples: np.ndarray) -> str:
        """Returns each example's part and number."""
        parts = []
        for example in self._draws[examples].tolist():
            part = int(np.searchsorted(self._first, example, side="right")) - 1
            parts.append(f"{self._names[part]} row {example - self._first[part]}")
        return "; ".join(parts)
