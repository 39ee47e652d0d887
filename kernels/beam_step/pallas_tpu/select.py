"""Exact top-k inside a Pallas TPU kernel: bin maxima, one threshold, compaction, all-pairs rank.

Scores are int32 keys in lines of 128 lanes; the flat order of a key is (line, lane), and of equal
keys the earlier is the better. For each user:

1. Candidates fall into 256 bins, and the k-th largest maximum of a bin is a threshold which at
   least k candidates reach, and rarely many more. It is found without a search: all 256 maxima are
   compared with each other.
2. The candidates that reach it are numbered by prefix sums, which are matrix products, and brought
   into one column of `slots` by one-hot matrix products, byte by byte, so that nothing is rounded.
3. All pairs of the column are compared; a candidate's rank is the lane it leaves from.

Where more candidates than slots reach the threshold, a binary search on the key, and then on the
flat index, cuts them down to a number that fits; real scores hardly ever need it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.compact import Best, Payload, compact
from kernels.beam_step.pallas_tpu.threshold import find_thresholds, num_slots
from kernels.beam_step.pallas_tpu.vectors import DEAD_KEY, LANES, SUBLANES, iota, loop

MAX_AT_ONCE = 80
"""Best keys of one pass; with 256 bins, more would often leave more survivors than slots."""

__all__ = ["MAX_AT_ONCE", "Best", "Payload", "passes", "scratch_shapes", "select_best"]


def scratch_shapes(users: int) -> list[Any]:
    """Returns the scratch that `select_best` needs, to be passed as `scratch`."""
    # A row a user, in whole registers; all lanes of a row are equal.
    shape = (-(-users // SUBLANES) * SUBLANES, LANES)
    return [pltpu.VMEM(shape, dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32)]


def passes(num_best: int) -> tuple[int, int]:
    """Returns how many passes `select_best` makes, and how many of the best each one finds."""
    turns = -(-num_best // MAX_AT_ONCE)
    return turns, -(-num_best // turns)


def select_best(
    key_ref: Any,
    *,
    users: int,
    lines: int,
    num_best: int,
    payloads: Sequence[Payload] = (),
    write: Callable[[Any, Best], None],
    scratch: Sequence[Any],
    unroll: int = 4,
) -> None:
    """Finds each user's `num_best` largest keys, exactly, and hands them to `write`.

    To be called inside a kernel, once all keys are written. Costs about a thousand cycles, and two
    to three hundred more for each user.

    Args:
        key_ref: VMEM reference, int32 `[users * lines, 128]`, a user's lines in flat order;
            `DEAD_KEY` where there is no candidate. Written over where `num_best > MAX_AT_ONCE`.
        users: static: how many.
        lines: static: lines a user, a multiple of 8.
        num_best: static, any number from 1.
        payloads: what to bring along.
        write: is called with a user's number (static or traced) and `Best`, once a pass. The last
            pass may find more than was asked for.
        scratch: references to `scratch_shapes(users)`.
        unroll: users whose latencies hide behind each other; 1 also keeps the program short, for an
            interpreter.
    """
    turns, at_once = passes(num_best)
    slots = num_slots(at_once)
    threshold_ref, cut_ref, count_ref = scratch
    if lines > LANES:
        unroll = 1  # Their own blocks hide latencies.

    def one_pass(turn: Any) -> None:
        find_thresholds(
            key_ref,
            users,
            lines,
            at_once,
            slots,
            threshold_ref,
            cut_ref,
            count_ref,
            min(16, 4 * unroll) if unroll > 1 else 1,
        )

        def finish(user: Any) -> Generator[None]:
            # It waits at every product and cross-lane sum; between its yields others' turns run.
            best = yield from compact(
                key_ref, user, lines, slots, turn * at_once, payloads, threshold_ref, cut_ref
            )
            write(user, best)
            if turns > 1:
                _remove(key_ref, user, lines, best, at_once)

        loop(users, finish, unroll=unroll)

    if turns == 1:
        one_pass(0)
    else:
        pl.loop(0, turns)(one_pass)


def _remove(key_ref: Any, user: Any, lines: int, best: Best, count: int) -> None:
    """Marks what was written as no candidates."""
    # Of this pass the last lane holds the worst: that key and what comes before it in the order of
    # ties is what was written.
    at = count - 1
    last_key = jnp.broadcast_to(best.key[:, at : at + 1], (SUBLANES, LANES))
    last = best.line * LANES + best.lane
    last = jnp.broadcast_to(last[:, at : at + 1], (SUBLANES, LANES))

    @pl.loop(0, lines // SUBLANES)
    def _(i):
        at = pl.ds(user * lines + i * SUBLANES, SUBLANES)
        keys = key_ref[at, :]
        shape = (SUBLANES, LANES)
        flat = (i * SUBLANES + iota(shape, 0)) * LANES + iota(shape, 1)
        written = (keys > last_key) | ((keys == last_key) & (flat <= last))
        key_ref[at, :] = jnp.where(written, DEAD_KEY, keys)
