"""Reads tiles of prompts, and looks first what of them has been read before.

A model of tokens reads its prompts in blocks of one size, so that a prompt that begins as one that
was read before costs the blocks behind that alone. Every block goes through one program, whether
the ones before it come from the cache or not: the bits are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from minirec.models.cache import PrefixCache
from minirec.serving.programs import Programs, Reading, Rows, Weights
from minirec.serving.reading_cache import ReadingCache, Row

BLOCK = 32
"""Tokens that are read at a time. Fewer cost more calls, more are more often read again."""


class Reader:
    """Reads prompts of few widths, a tile at a time."""

    def __init__(self, programs: Programs, cache: ReadingCache):
        """Compiles nothing yet.

        Args:
            programs: the compiled ones.
            cache: of readings; it may keep none.
        """
        self._programs, self._cache = programs, cache
        self._ways: dict[int, _Whole | _Blocks] = {}

    def read(
        self,
        weights: Weights,
        versions: Sequence[Hashable],
        prompts: Sequence[Int[np.ndarray, " n"]],
        width: int,
    ) -> tuple[Reading, Callable[[], None]]:
        """Returns the reading of a tile, and what keeps what is new of it, to be called later.

        Args:
            weights: the model.
            versions: of all that a reading depends on beside the prompt.
            prompts: a tile of them at most.
            width: what they are padded to.
        """
        if width not in self._ways:
            in_blocks = width > BLOCK and hasattr(weights.model, "prefill_block")
            self._ways[width] = (_Blocks if in_blocks else _Whole)(
                self._programs, self._cache, weights, width
            )
        lengths = np.ones(self._programs.tile, np.int32)
        lengths[: len(prompts)] = [len(prompt) for prompt in prompts]
        return self._ways[width].read(weights, (*versions, width), prompts, lengths)


class _Whole:
    """Reads a prompt at once."""

    def __init__(self, programs: Programs, cache: ReadingCache, weights: Weights, width: int):
        self._programs, self._cache, self._width = programs, cache, width
        self._rows = Rows(programs, weights, width) if cache.keeps else None

    def read(
        self,
        weights: Weights,
        versions: tuple[Hashable, ...],
        prompts: Sequence[np.ndarray],
        lengths: np.ndarray,
    ) -> tuple[Reading, Callable[[], None]]:
        keys = [(*versions, _digest(prompt)) for prompt in prompts]
        rows = [self._cache.get(key) for key in keys]
        for row in rows:
            self._cache.count(whole=row is not None)
        held = [row for row in rows if row is not None]
        if self._rows is not None and len(held) == len(rows):
            held += [held[0]] * (self._programs.tile - len(held))
            return self._rows.together(held, lengths), _nothing
        tile = _tile(prompts, self._programs.tile, self._width)
        reading = self._programs.read(weights, tile, lengths)

        def keep() -> None:
            assert self._rows is not None
            for place, (key, row) in enumerate(zip(keys, rows, strict=True)):
                if row is None:
                    self._cache.put(key, self._rows.take(reading, place))

        return reading, _nothing if self._rows is None else keep


@dataclasses.dataclass(frozen=True)
class _Before:
    """What is there of a prompt.

    Attributes:
        block_keys: names of its full blocks, each with all before it.
        end_key: names the whole prompt.
        blocks: keys and values of the first full blocks, as many as are there.
        end: the state after the prompt, and keys and values of its last block if that is not full.
        first: the first block that must be read; the number of all where none must.
    """

    block_keys: list[Hashable]
    end_key: Hashable
    blocks: list[Row]
    end: Row | None
    first: int


class _Blocks:
    """Reads a prompt block by block, the later ones alone where the first are there."""

    def __init__(self, programs: Programs, cache: ReadingCache, weights: Weights, width: int):
        self._programs, self._cache = programs, cache
        self._width = -(-width // BLOCK) * BLOCK
        self._empty = jax.eval_shape(lambda: self._nothing_read(weights))

    def _nothing_read(self, weights: Weights) -> tuple[Any, PrefixCache]:
        model, tile = weights.model, self._programs.tile
        prefix = model.init_prefix(tile, self._width)
        tokens, lengths = jnp.zeros((tile, BLOCK), jnp.int32), jnp.ones(tile, jnp.int32)
        return model.prefill_block(tokens, jnp.int32(0), lengths, prefix)[0], prefix

    def read(
        self,
        weights: Weights,
        versions: tuple[Hashable, ...],
        prompts: Sequence[np.ndarray],
        lengths: np.ndarray,
    ) -> tuple[Reading, Callable[[], None]]:
        found = [self._look_up(versions, prompt) for prompt in prompts]
        tokens = _tile(prompts, self._programs.tile, self._width)
        reading = self._begun(prompts, found, lengths)
        # What a prompt that is whole has in these blocks is read again, to the same bits.
        left = [
            (before.first, -(-len(prompt) // BLOCK))
            for prompt, before in zip(prompts, found, strict=True)
            if before.end is None
        ]
        first, stop = (
            min((one for one, _ in left), default=0),
            max((end for _, end in left), default=0),
        )
        for block in range(first, stop):
            start = block * BLOCK
            part = tokens[:, start : start + BLOCK]
            reading = self._programs.read_block(weights, part, np.int32(start), reading)
        if not self._cache.keeps or all(before.end is not None for before in found):
            return reading, _nothing
        return reading, lambda: self._keep(reading, prompts, found)

    def _look_up(self, versions: tuple[Hashable, ...], prompt: np.ndarray) -> _Before:
        num_full, rest = divmod(len(prompt), BLOCK)
        ends = [BLOCK * (block + 1) for block in range(num_full)]
        block_keys: list[Hashable] = [(*versions, "block", _digest(prompt[:end])) for end in ends]
        end_key = (*versions, "end", _digest(prompt))
        blocks: list[Row] = []
        for key in block_keys:
            block = self._cache.get(key)
            if block is None:
                break
            blocks.append(block)
        end = self._cache.get(end_key) if len(blocks) == num_full else None
        first = len(blocks)
        if end is not None:
            first = num_full + bool(rest)
        elif first == num_full and not rest:
            first -= 1  # All keys and values are there; the state after them comes of the last.
        self._cache.count(whole=end is not None, begun=first > 0)
        return _Before(block_keys, end_key, blocks, end, first)

    def _begun(
        self, prompts: Sequence[np.ndarray], found: Sequence[_Before], lengths: np.ndarray
    ) -> Reading:
        """Returns a reading of what is there."""
        hidden, prefix = self._empty
        if not any(before.blocks or before.end for before in found):
            zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), prefix)
            return Reading(jnp.zeros(hidden.shape, hidden.dtype), zeros, jnp.asarray(lengths))
        states = np.zeros(hidden.shape, hidden.dtype)
        arrays = [np.zeros(prefix.key.shape, prefix.key.dtype) for _ in range(2)]
        for row, (prompt, before) in enumerate(zip(prompts, found, strict=True)):
            parts = list(before.blocks)
            if before.end is not None:
                states[row], *last = before.end
                parts += [tuple(last)] if len(prompt) % BLOCK else []
            for array, of_kind in zip(arrays, zip(*parts, strict=True), strict=False):
                joined = np.concatenate(of_kind, axis=1)
                array[:, row, : joined.shape[1]] = joined
        key, value = map(jnp.asarray, arrays)
        return Reading(jnp.asarray(states), PrefixCache(key, value), jnp.asarray(lengths))

    def _keep(
        self, reading: Reading, prompts: Sequence[np.ndarray], found: Sequence[_Before]
    ) -> None:
        hidden = np.asarray(reading.hidden)
        arrays = [np.asarray(array) for array in (reading.prefix.key, reading.prefix.value)]

        def copied(row: int, start: int, stop: int) -> Row:
            return tuple(array[:, row, start:stop].copy() for array in arrays)

        for row, (prompt, before) in enumerate(zip(prompts, found, strict=True)):
            if before.end is not None:
                continue
            for block in range(len(before.blocks), len(before.block_keys)):
                start = BLOCK * block
                self._cache.put(before.block_keys[block], copied(row, start, start + BLOCK))
            full = BLOCK * len(before.block_keys)
            last = copied(row, full, len(prompt)) if full < len(prompt) else ()
            self._cache.put(before.end_key, (hidden[row].copy(), *last))


def _tile(prompts: Sequence[np.ndarray], tile: int, width: int) -> Int[np.ndarray, "B W"]:
    tokens = np.zeros((tile, width), np.int32)
    for place, prompt in enumerate(prompts):
        tokens[place, : len(prompt)] = prompt
    return tokens


def _nothing() -> None:
    """Does nothing."""


def _digest(prompt: Int[np.ndarray, " n"]) -> bytes:
    return hashlib.blake2b(prompt.tobytes(), digest_size=16).digest()
