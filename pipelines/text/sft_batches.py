"""Fine-tuning batches: all tasks in one endless, globally shuffled stream with exact positions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minirec.sids import SidTable
from pipelines.batches.packing import pack
from pipelines.batches.row_source import check_processes, digest
from pipelines.batches.stream import BatchStream
from pipelines.text.encode import NUM_RUNS, Pool, Spans, encode_prompts
from pipelines.text.item_texts import ItemTexts, PreparedItems, item_texts
from pipelines.text.mixture import draw_counts, draws
from pipelines.text.prompts import TASKS, Template
from pipelines.text.sft_tasks import REPEATS, Repeats, TaskExamples, task_examples
from pipelines.text.text_rows import TextSource
from pipelines.text.tokenizer import TextTokenizer

_STATE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """How fine-tuning batches are made.

    Attributes:
        batch_size: rows a batch, over all processes together.
        row_tokens: T, tokens a row. An example that is longer is shortened: the oldest items of its
            history are dropped, never a part of its answer. None: what the longest example needs.
        max_items: history items that a prompt shows at most, the newest ones.
        pack: several examples share a row, told apart by `segment_ids`; else each has its own.
        weights: each task's share of the examples drawn (`pipelines.text.mixture.draw_counts`); a
            task that is not named, or has the weight 0, is off. None: every example of every task
            that has a template comes once an epoch.
        repeats: what happens where a history holds the target; see `pipelines.text.sft_tasks`.
        num_threads: threads that make batches ahead. 0: batches are made when asked for.
        prefetch: batches made ahead. Neither this nor the number of threads or workers changes
            the stream or its position.
        num_workers: processes that make batches ahead, each with a copy of the tokens.
    """

    batch_size: int
    row_tokens: int | None = None
    max_items: int = 10
    pack: bool = True
    weights: Mapping[str, float] | None = None
    repeats: Repeats = "drop"
    num_threads: int = 1
    prefetch: int = 4
    num_workers: int = 0

    def __post_init__(self) -> None:
        for fields, least in (
            (("batch_size", "max_items"), 1),
            (("num_threads", "prefetch", "num_workers"), 0),
        ):
            for field in fields:
                if (value := getattr(self, field)) < least:
                    raise ValueError(f"{field}={value}: must be at least {least}")
        if self.row_tokens is not None and self.row_tokens < 1:
            raise ValueError(f"row_tokens={self.row_tokens}: must be at least 1, or None")
        if self.repeats not in REPEATS:
            raise ValueError(f"repeats={self.repeats!r}: must be one of {', '.join(REPEATS)}")
        if self.weights is None:
            return
        for name, weight in self.weights.items():
            if name not in TASKS:
                raise ValueError(f"weights[{name!r}]: no such task; there are {', '.join(TASKS)}")
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not is_number or not math.isfinite(weight) or weight < 0:
                raise ValueError(
                    f"weights[{name!r}]={weight!r}: must be a finite number, 0 or more"
                )
        if not any(self.weights.values()):
            raise ValueError(f"weights={dict(self.weights)}: at least one must be above 0")


def sft_batches(
    prepared: PreparedItems,
    table: SidTable,
    tokenizer: TextTokenizer,
    templates: Mapping[str, Template],
    config: SftConfig,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> SftBatches:
    """Returns the endless stream of fine-tuning batches.

    An example is BOS (where the tokenizer has one), the prompt's blocks, the answer and the end.
    All of them become tokens here and now, and stay in memory. Rows come as `train_batches` has
    them: each once an epoch, in an order of its own, and batch `i` is a pure function of the
    arguments and of `i`.

    A batch is a dict of NumPy arrays, with B this process's rows:

    - `tokens`, `targets`, `positions`, `segment_ids` int32 [B, T], `loss_mask` float32 [B, T].
      `targets` are the tokens moved by one; `loss_mask` is above 0 on the answer and the end only,
      where it is the weight of the target's event (1 for the catalogue's tasks). `positions` count
      from 0 in each segment, `segment_ids` from 1 in each row. The padding token, position 0 and
      segment 0 fill up the row.
    - `rows` int64 [B], `epoch` int32 [B] and `batch_index` int64 [B] name the batch's place in the
      data: see `SftBatches.describe`.

    Args:
        prepared: the prepared data set; its train split and its catalogue are read, nothing else.
        table: the items' SIDs, in the catalogue's order.
        tokenizer: has the SID tokens.
        templates: the wording of each task; of those with a weight above 0, at least.
        config: how batches are made.
        seed: shuffle, packing, and which examples an uneven mixture draws once more.
        process_index: this JAX process.
        process_count: number of JAX processes.

    Raises:
        ValueError: arguments that do not fit the data or one another, or a task without examples.
    """
    check_processes(config.batch_size, process_index, process_count)
    active = _active(templates, config)
    texts = item_texts(prepared, table, tokenizer)
    pool = Pool()
    encoded: dict[str, _EncodedTask] = {}
    for name, template in active.items():
        examples = task_examples(
            template, prepared, texts, max_items=config.max_items, repeats=config.repeats
        )
        encoded[name] = _encode(template, examples, texts, tokenizer, config.row_tokens, pool)
    parts = list(encoded.values())
    spans = Spans(
        pool.tokens(),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.length for part in parts]),
    )
    sizes = {name: len(part.examples) for name, part in encoded.items()}
    weights = None
    if config.weights is not None:
        weights = {name: float(config.weights[name]) for name in active}
    counts = draw_counts(sizes, weights)
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
        weights=np.concatenate([part.examples.weight for part in parts]),
        draws=drawn,
        pad=tokenizer.pad_token_id,
    )
    tasks = {name: part.report(counts[name]) for name, part in encoded.items()}
    examples = {name: part.examples for name, part in encoded.items()}
    return SftBatches(source, config, tasks, examples)


class SftBatches(BatchStream):
    """The stream of fine-tuning batches, as `sft_batches` makes it.

    Attributes:
        config: the config it was made with.
        tasks: of each task, `examples`, `drawn` (examples an epoch), `tokens` (of all examples),
            `shortened` (examples that lost items of their history to `row_tokens`),
            `dropped_items` (items that would have given the answer away) and `left_out`, by reason.
        efficiency: share of an epoch's tokens that are not padding.
        max_loss_tokens: the most places of a row that the loss lies on. A head over a large
            vocabulary need not be computed anywhere else.
    """

    def __init__(
        self,
        source: TextSource,
        config: SftConfig,
        tasks: Mapping[str, dict[str, Any]],
        examples: Mapping[str, TaskExamples],
    ):
        stream = {
            "version": _STATE_VERSION,
            "seed": source.seed,
            "process_count": source.process_count,
            "batch_size": source.batch_size,
            "max_items": config.max_items,
            "pack": config.pack,
            "row_tokens": source.row_size,
            "drawn": {name: task["drawn"] for name, task in tasks.items()},
            # Last: it changes with the fields above, which say more.
            "data": digest(
                source.spans.pool,
                source.spans.start,
                source.spans.length,
                source.weights,
                source.draws,
            ),
        }
        super().__init__(source, config, stream)
        self.config = config
        self.tasks = dict(tasks)
        self._draws = source.draws
        self._names = list(examples)
        self._first = np.cumsum([0, *map(len, examples.values())])
        self._user = np.concatenate([part.user for part in examples.values()])
        self._target = np.concatenate([part.target for part in examples.values()])
        self.max_loss_tokens = source.max_loss_tokens
        places = (source.spans.lengths - 1)[source.draws].sum()
        self.efficiency = float(places) / (self.num_rows * self.row_size)

    def name_examples(self, examples: np.ndarray) -> str:
        """Returns each example's task, user and target."""
        parts = []
        for example in self._draws[examples].tolist():
            task = self._names[int(np.searchsorted(self._first, example, side="right")) - 1]
            user = self._user[example]
            whose = f" of user {user}" if user >= 0 else ""
            parts.append(f"{task}{whose}, item {self._target[example]}")
        return "; ".join(parts)


def _active(templates: Mapping[str, Template], config: SftConfig) -> dict[str, Template]:
    """Returns the templates of the tasks that are on, in the tasks' order."""
    weights = dict.fromkeys(templates, 1.0) if config.weights is None else config.weights
    active = [name for name in TASKS if weights.get(name, 0) > 0]
    if not active:
        raise ValueError("prompts: no templates; at least one task needs one")
    for name in active:
        if name not in templates:
            raise ValueError(
                f"prompts.{name} is missing: the task has the weight {weights[name]!r} and needs a "
                f"template; there are {', '.join(templates) or 'none'}"
            )
    return {name: templates[name] for name in active}


@dataclasses.dataclass(frozen=True, eq=False)
class _EncodedTask:
    """One task's examples as runs of the pool: those of the prompt, then the answer."""

    examples: TaskExamples
    start: np.ndarray
    length: np.ndarray
    shortened: int

    def report(self, drawn: int) -> dict[str, Any]:
        return {
            "examples": len(self.examples),
            "drawn": drawn,
            "tokens": int(self.length.sum(dtype=np.int64)),
            "shortened": self.shortened,
            "dropped_items": self.examples.dropped_items,
            "left_out": dict(self.examples.left_out),
        }


def _encode(
    template: Template,
    examples: TaskExamples,
    texts: ItemTexts,
    tokenizer: TextTokenizer,
    row_tokens: int | None,
    pool: Pool,
) -> _EncodedTask:
    answers, which = np.unique(examples.target, return_inverse=True)
    written = texts.of(template.task.asks)
    ids, offsets = tokenizer.encode_flat(
        [template.write_answer(written[item]) for item in answers.tolist()]
    )
    ends = offsets[1:]
    ids = np.insert(ids, ends, tokenizer.eos_token_id)
    offsets = offsets + np.arange(len(offsets))
    begin = pool.add(ids)
    answer_start, answer_length = begin + offsets[:-1][which], np.diff(offsets)[which]
    # The last token of an example is a target only.
    most = np.iinfo(np.int32).max if row_tokens is None else row_tokens + 1
    prompts = encode_prompts(
        template,
        examples.shown,
        texts.of(template.task.shows),
        tokenizer,
        most - answer_length,
        pool,
    )
    shortened = np.count_nonzero(prompts.fits & (prompts.shown.sizes < examples.shown.sizes))
    start = np.empty((len(examples), NUM_RUNS + 1), np.int64)
    length = np.empty((len(examples), NUM_RUNS + 1), np.int32)
    start[:, :-1], start[:, -1] = prompts.start, answer_start
    length[:, :-1], length[:, -1] = prompts.length, answer_length
    kept = examples.where(prompts.fits, "too_long")
    if not len(kept):
        raise ValueError(
            f"row_tokens={row_tokens}: no example of task {template.name!r} fits in a row, not "
            "even with one item; raise row_tokens or shorten its template"
        )
    return _EncodedTask(kept, start[prompts.fits], length[prompts.fits], int(shortened))
