"""Answers of a language model, drawn token by token on a cache.

A prompt is read once (prefill); each token after it is one step. Prompts are padded on the right up
to a bucket's width, and an answer's keys and values are written over the padding, row by row, so
that no token ever attends to it. Programs are compiled once a bucket of widths, lengths and rows,
and shared by all models of one shape.

A token's randomness is the row's seed and the token's place, so an answer does not depend on what
shares its batch. Rounding does depend on the rows of a batch, in the last bit of a logit; `tile`
gives all batches the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from minirec.decoding.draw import DrawNumbers, SamplingSettings, draw
from minirec.decoding.searcher import Buckets
from minirec.decoding.stops import StopReader
from minirec.models.cache import PrefixCache

_STOP_EVERY = 8  # steps between two looks for stop strings
_WIDTHS = Buckets(smallest=16, steps=2)
_LENGTHS = Buckets(smallest=16, steps=1)
_ROWS = Buckets(steps=1)


class TextModel(Protocol):
    """What a sampler asks of a model; `SidDecoder` has it."""

    def prefill(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Reads right-padded prompts."""
        ...

    def extend(
        self, tokens: Int[Array, " B"], lengths: Int[Array, " B"], cache: PrefixCache
    ) -> tuple[Float[Array, "B D"], PrefixCache]:
        """Reads one more token a row."""
        ...

    def logits(self, hidden: Float[Array, "B D"]) -> Float[Array, "B V"]:
        """Returns logits over the vocabulary."""
        ...


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was written behind a prompt.

    Attributes:
        tokens: its tokens, without one that ends it; the one that completes a stop string is there.
        text: its text up to the stop string; None where the sampler has no `decode`.
        reason: "end" (the model ended it), "stop" (a stop string) or "length" (no room for more).
    """

    tokens: tuple[int, ...]
    text: str | None
    reason: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Written:
    """A batch of answers after `count` tokens; a pytree.

    Attributes:
        cache: keys and values of the prompts and of the answers' tokens but the newest.
        lengths: int32 `[B]`, tokens of each prompt.
        tokens: int32 `[B, N]`, the answers; -1 where nothing is written.
        count: int32, tokens of each answer so far, at least 1.
        ended: bool `[B]`, answers that take no more tokens.
        seen: bool `[B, V]`, tokens of each prompt and answer.
        keys: `[B]`, each row's source of randomness.
    """

    cache: PrefixCache
    lengths: Int32[Array, " B"]
    tokens: Int32[Array, "B N"]
    count: Int32[Array, ""]
    ended: Bool[Array, " B"]
    seen: Bool[Array, "B V"]
    keys: Key[Array, " B"]


@functools.partial(jax.jit, static_argnames=("room", "ends"))
def _begin(
    model: Any,
    prompts: Int32[Array, "B S"],
    lengths: Int32[Array, " B"],
    seeds: Int[Array, " B"],
    numbers: DrawNumbers,
    *,
    room: int,
    ends: tuple[int, ...],
) -> _Written:
    """Returns the answers after their first token, with room for `room` of them."""
    B, S = prompts.shape
    hidden, cache = model.prefill(prompts, lengths)
    logits = model.logits(hidden)
    # A prompt's padding is sent where there is no token.
    token = jnp.where(jnp.arange(S) < lengths[:, None], prompts, logits.shape[-1])
    rows = jnp.arange(B, dtype=jnp.int32)
    seen = jnp.zeros(logits.shape, bool).at[rows[:, None], token].set(True, mode="drop")
    state = _Written(
        # The newest token has no entry yet, so that the last needs none.
        cache=cache.widened(S + room - 1),
        lengths=lengths,
        tokens=jnp.full((B, room), -1, jnp.int32),
        count=jnp.zeros((), jnp.int32),
        ended=jnp.zeros(B, bool),
        seen=seen,
        keys=jax.vmap(jax.random.key)(seeds),
    )
    return _with_drawn(state, logits, numbers, ends)


@functools.partial(jax.jit, static_argnames=("ends",), donate_argnames=("state",))
def _go_on(
    model: Any,
    state: _Written,
    numbers: DrawNumbers,
    until: Int[Array, ""],
    *,
    ends: tuple[int, ...],
) -> _Written:
    """Returns the answers with `until` tokens, or all ended before that."""

    def unfinished(state: _Written) -> Array:
        return (state.count < until) & ~jnp.all(state.ended)

    def step(state: _Written) -> _Written:
        newest = jax.lax.dynamic_index_in_dim(state.tokens, state.count - 1, 1, keepdims=False)
        place = state.lengths + state.count - 1
        hidden, cache = model.extend(jnp.maximum(newest, 0), place, state.cache)
        state = dataclasses.replace(state, cache=cache)
        return _with_drawn(state, model.logits(hidden), numbers, ends)

    return jax.lax.while_loop(unfinished, step, state)


def _with_drawn(
    state: _Written, logits: Array, numbers: DrawNumbers, ends: tuple[int, ...]
) -> _Written:
    """Returns the state with one more token an answer."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(state.keys, state.count)
    token = draw(logits, state.seen, keys, numbers)
    ended = state.ended | jnp.isin(token, jnp.array(ends, jnp.int32))
    token = jnp.where(ended, -1, token)
    rows = jnp.arange(len(token), dtype=jnp.int32)
    drop = jnp.where(ended, logits.shape[-1], token)
    return dataclasses.replace(
        state,
        tokens=jax.lax.dynamic_update_index_in_dim(state.tokens, token, state.count, 1),
        count=state.count + 1,
        ended=ended,
        seen=state.seen.at[rows, drop].set(True, mode="drop"),
    )


class Sampler:
    """Writes answers with a model.

    Attributes:
        context: the most tokens of prompt and answer together; None: no limit.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        ends: Sequence[int] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
        context: int | None = None,
        max_rows: int = 32,
        tile: int | None = None,
    ):
        """Makes a sampler; compiles nothing yet.

        Args:
            model: what predicts the next token.
            ends: tokens that end an answer, and are no part of it.
            decode: from tokens to text; stop strings and texts need it.
            context: how many tokens the model can read; answers end there.
            max_rows: rows of a batch at most.
            tile: every batch has so many rows, filled up where there are fewer, and an answer's
                bits are the same in all of them. None: as many as there are, up to `max_rows`.

        Raises:
            ValueError: sizes below 1.
        """
        for name, value in (("context", context), ("max_rows", max_rows), ("tile", tile)):
            if value is not None and value < 1:
                raise ValueError(f"Sampler({name}={value}): must be at least 1")
        self._model, self._decode = model, decode
        self._ends = tuple(int(end) for end in ends)
        self._max_rows, self._tile = tile or max_rows, tile
        self.context = context

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        """Returns the answer to each prompt.

        Args:
            prompts: tokens of each, at least one.
            settings: of all answers.
            seeds: of each answer; None: the settings', for all.

        Raises:
            ValueError: a prompt without tokens or too long for the context, not a seed a prompt, or
                stop strings without `decode`.
        """
        settings = settings or SamplingSettings()
        seeds = [settings.seed] * len(prompts) if seeds is None else list(seeds)
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one a prompt")
        self._check(settings)
        widths = [self._width(prompt, f"prompt {row}") for row, prompt in enumerate(prompts)]
        answers: dict[int, Answer] = {}
        # A row's width is its own affair: another would change the order of its sums.
        for width in sorted(set(widths)):
            rows = [row for row, one in enumerate(widths) if one == width]
            for begin in range(0, len(rows), self._max_rows):
                part = rows[begin : begin + self._max_rows]
                given = [prompts[row] for row in part], [seeds[row] for row in part]
                answers |= zip(part, self._answers(*given, width, settings), strict=True)
        return [answers[row] for row in range(len(prompts))]

    def stream(
        self,
        prompt: Sequence[int],
        settings: SamplingSettings | None = None,
        seed: int | None = None,
    ) -> Iterator[int]:
        """Yields the tokens of an answer as they are drawn; see `generate` for what they are.

        Raises:
            ValueError: as `generate`, before the first token.
        """
        settings = settings or SamplingSettings()
        self._check(settings)
        width = self._width(prompt, "prompt")
        return self._stream(prompt, width, settings, settings.seed if seed is None else seed)

    def stream_text(
        self,
        prompt: Sequence[int],
        settings: SamplingSettings | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yields an answer's text as it grows; together it is `Answer.text`.

        Raises:
            ValueError: as `generate`, or the sampler has no `decode`; before the first piece.
        """
        settings = settings or SamplingSettings()
        if self._decode is None:
            raise ValueError("Sampler(decode=None): text needs a decoder")
        reader = StopReader(self._decode, settings.stop)
        tokens = self.stream(prompt, dataclasses.replace(settings, stop=()), seed)
        return _pieces(reader, tokens)

    def _stream(
        self, prompt: Sequence[int], width: int, settings: SamplingSettings, seed: int
    ) -> Iterator[int]:
        reader = StopReader(self._decode, settings.stop) if settings.stop and self._decode else None
        for state in self._states([prompt], [seed], width, settings, every=1):
            token = int(state.tokens[0, int(state.count) - 1])
            if token < 0:
                return
            yield token
            if reader is not None:
                reader.add(token)
                if reader.stopped:
                    return

    def _states(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        width: int,
        settings: SamplingSettings,
        every: int,
    ) -> Iterator[_Written]:
        """Yields the state of a batch after its first token and then after every so many.

        A state is not usable any more once the next one is asked for.
        """
        rows = self._tile or _ROWS.round_up(len(prompts), "rows")
        tokens, lengths = np.zeros((rows, width), np.int32), np.ones(rows, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
        numbers, ends = settings.numbers(), self._ends
        most = max(self._most(prompt, settings) for prompt in prompts)
        state = _begin(
            self._model,
            tokens,
            lengths,
            np.resize(np.asarray(seeds, np.uint32), rows),
            numbers,
            room=_LENGTHS.round_up(most, "max_new_tokens"),
            ends=ends,
        )
        # A row that only fills up is no reason to go on.
        filled = np.arange(rows) >= len(prompts)
        state = dataclasses.replace(state, ended=state.ended | filled)
        written = 1
        yield state
        while written < most and not np.asarray(state.ended).all():
            written = min(written + every, most)
            state = _go_on(self._model, state, numbers, np.int32(written), ends=ends)
            yield state

    def _answers(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        width: int,
        settings: SamplingSettings,
    ) -> list[Answer]:
        """Returns the answers of one batch."""
        if not settings.stop:
            *_, state = self._states(prompts, seeds, width, settings, settings.max_new_tokens)
            tokens = np.array(state.tokens)
            return [self._answer(p, tokens[row], settings) for row, p in enumerate(prompts)]
        found: dict[int, Answer] = {}
        readers = [StopReader(self._decoder, settings.stop) for _ in prompts]
        for state in self._states(prompts, seeds, width, settings, _STOP_EVERY):
            # Copies: the next step takes the state's memory.
            tokens, ended = np.array(state.tokens), np.array(state.ended)
            for row, reader in enumerate(readers):
                most = self._most(prompts[row], settings)  # Others of the batch may have more.
                written = tokens[row, : min(int(state.count), most)]
                for token in written[reader.tokens :].tolist():
                    if token < 0 or reader.stopped:
                        break
                    reader.add(token)
                if reader.stopped and row not in found:
                    kept = tuple(written[: reader.tokens].tolist())
                    found[row] = Answer(kept, reader.text, "stop")
            if all(ended[row] or row in found for row in range(len(prompts))):
                break
        return [
            found.get(row) or self._answer(prompt, tokens[row], settings)
            for row, prompt in enumerate(prompts)
        ]

    def _answer(
        self, prompt: Sequence[int], written: Int[np.ndarray, " N"], settings: SamplingSettings
    ) -> Answer:
        most = self._most(prompt, settings)
        kept = tuple(written[:most][written[:most] >= 0].tolist())
        text = None if self._decode is None else self._decode(kept)
        return Answer(kept, text, "length" if len(kept) == most else "end")

    def _most(self, prompt: Sequence[int], settings: SamplingSettings) -> int:
        """Returns how many tokens an answer may have."""
        if self.context is None:
            return settings.max_new_tokens
        return min(settings.max_new_tokens, self.context - len(prompt))

    def _width(self, prompt: Sequence[int], what: str) -> int:
        if not len(prompt):
            raise ValueError(f"{what} is empty: it must have a token at least")
        if self.context is not None and len(prompt) >= self.context:
            raise ValueError(
                f"{what} has {len(prompt)} tokens, which leave no room for an answer in a context "
                f"of {self.context}; shorten it"
            )
        return _WIDTHS.round_up(len(prompt), what)

    @property
    def _decoder(self) -> Callable[[Sequence[int]], str]:
        assert self._decode is not None
        return self._decode

    def _check(self, settings: SamplingSettings) -> None:
        if settings.stop and self._decode is None:
            raise ValueError(
                f"SamplingSettings.stop={settings.stop!r}: Sampler(decode=None) cannot look for it"
            )


def _pieces(reader: StopReader, tokens: Iterator[int]) -> Iterator[str]:
    for token in tokens:
        if piece := reader.add(token):
            yield piece
        if reader.stopped:
            return
    if piece := reader.end():
        yield piece
