"""The threshold of the exact top-k: which of a user's candidates may be among the best."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.vectors import (
    DEAD_KEY,
    LANES,
    SUBLANES,
    dot,
    iota,
    keys_of,
    loop,
    scores_of,
    tree,
)


def num_bins(at_once: int) -> int:
    """Returns how many bins keep survivors few: `at_once` of their maxima are the best."""
    # By the formula below, 50 of 128 bins leave 64 survivors on average; 80 would leave 126, and
    # more than 128 often. Of 256 bins 80 leave 96.
    return LANES if at_once <= 50 else 2 * LANES


def num_slots(at_once: int) -> int:
    """Returns how many survivors the compaction holds.

    When values fall into bins at random, about `-bins log(1 - k / bins)` of them fill `k` bins,
    with a standard deviation of about the square root of what that exceeds `k` by. Of a thousand
    users, all but one or two stay below what is returned; the search is there for those.
    """
    bins = num_bins(at_once)
    mean = -bins * math.log1p(-at_once / bins)
    slots = mean + 3.3 * math.sqrt(mean - at_once) + 2
    # A register of bfloat16 holds 16 sublanes, and the one-hot matrices have a row a slot. The
    # slots are compared with each other as a column with a row, which ends at 128 lanes.
    return min(LANES, math.ceil(slots / 16) * 16)


def find_thresholds(
    key_ref: Any,
    users: int,
    lines: int,
    num_best: int,
    slots: int,
    threshold_ref: Any,
    cut_ref: Any,
    count_ref: Any,
    unroll: int,
) -> None:
    """Writes for each user which candidates survive: between `num_best` and `slots` of them.

    A candidate survives if its key is above the threshold, or equal and its flat index at most the
    cut. Where there are fewer candidates than `num_best`, all of them survive.
    """
    halves = num_bins(num_best) // LANES
    diagonal = iota((LANES, LANES), 0) == iota((LANES, LANES), 1)
    ones = jnp.ones((LANES, LANES), jnp.bfloat16)

    def find(user: Any) -> Generator[None]:
        bins = _bins(key_ref, user, lines)
        if halves == 1:
            # `_bins` gives two rows of bins; one is asked for.
            bins = jnp.maximum(bins, pltpu.roll(bins, 1, 0))
        # The upper 16 bits as a float that bfloat16 holds exactly: cut off, not rounded.
        # A negative score's key has the float's lower bits flipped, so ones there are zeros in it.
        value = scores_of(jnp.where(bins < 0, bins | 0xFFFF, bins & ~0xFFFF))
        value = [
            jnp.broadcast_to(value[half : half + 1], (SUBLANES, LANES)) for half in range(halves)
        ]
        yield
        # Each row of bins as a column, equal in all lanes: its diagonal times ones. A sum of one
        # value and zeros is that value, and 8 significant bits go through bfloat16 as they are.
        columns = [
            dot(
                jnp.where(diagonal, jnp.tile(row, (LANES // SUBLANES, 1)), 0.0).astype(
                    jnp.bfloat16
                ),
                ones,
            )
            for row in value
        ]
        yield
        # The k-th largest maximum is the least of those that fewer than k others exceed. All pairs
        # are compared, eight bins of the column at a time; the eight partial counts are summed
        # last.
        kth = jnp.full((SUBLANES, LANES), jnp.inf)
        for row in value:
            above = jnp.zeros((SUBLANES, LANES), jnp.float32)
            for column in columns:
                for start in range(0, LANES, SUBLANES):
                    above += jnp.where(column[start : start + SUBLANES] > row, 1.0, 0.0)
            number = jnp.broadcast_to(jnp.sum(above, axis=0, keepdims=True), above.shape)
            kth = jnp.minimum(kth, jnp.where(number < num_best, row, jnp.inf))
        yield
        kth = jnp.min(kth, axis=1, keepdims=True)
        yield
        kth = jnp.broadcast_to(kth, (SUBLANES, LANES))
        # A bin's maximum was cut to its upper half, so whatever shares that half reaches the bound:
        # the least such key, less one, is what it must exceed. Never below the key of -inf, which
        # no candidate has: where there are fewer candidates than k, all survive and nothing else.
        threshold = jnp.maximum((keys_of(kth) & ~0xFFFF) - 1, DEAD_KEY)[:1]
        threshold_ref[pl.ds(user, 1), :] = threshold
        # No flat index is -1 or less: keys equal to the threshold do not survive.
        cut_ref[pl.ds(user, 1), :] = jnp.full((1, LANES), -1, jnp.int32)
        # Ones are summed as float32, which counts exactly up to 2^24.
        total = _count_vector(key_ref, user, lines, threshold)
        total = jnp.sum(total, axis=0, keepdims=True)
        yield
        total = jnp.sum(total, axis=1, keepdims=True)
        count_ref[pl.ds(user, 1), :] = jnp.broadcast_to(total, (1, LANES))

    loop(users, find, unroll=unroll)
    # One scalar for all users, so that the search costs one branch where nobody needs it.
    overflow = jnp.max(count_ref[pl.ds(0, users), :]) > slots

    @pl.when(overflow)
    def _():
        @pl.loop(0, users)
        def _(user):
            @pl.when(jnp.max(count_ref[pl.ds(user, 1), :]) > slots)
            def _():
                low = threshold_ref[user, 0]
                found, cut = _search(key_ref, user, lines, num_best, slots, low)
                threshold_ref[pl.ds(user, 1), :] = jnp.full((1, LANES), found, jnp.int32)
                cut_ref[pl.ds(user, 1), :] = jnp.full((1, LANES), cut, jnp.int32)


def _bins(key_ref: Any, user: Any, lines: int) -> jax.Array:
    """Returns the bins' maxima, int32 `[8, 128]`; rows repeat after two."""
    tile = 16 * SUBLANES
    if lines <= 2 * tile:
        maximum = tree(
            jnp.maximum,
            [key_ref[pl.ds(user * lines + r, SUBLANES), :] for r in range(0, lines, SUBLANES)],
        )
    else:

        def body(i, carry):
            start = user * lines + i * SUBLANES
            return jnp.maximum(carry, key_ref[pl.ds(start, SUBLANES), :])

        maximum = jax.lax.fori_loop(
            0, lines // SUBLANES, body, jnp.full((SUBLANES, LANES), DEAD_KEY, jnp.int32)
        )
    # Even sublanes fold into one, odd ones into the other: two rows of 128 bins.
    maximum = jnp.maximum(maximum, pltpu.roll(maximum, 4, 0))
    maximum = jnp.maximum(maximum, pltpu.roll(maximum, 2, 0))
    return maximum


def _count_vector(key_ref: Any, user: Any, lines: int, threshold: jax.Array) -> jax.Array:
    """Returns parts of how many keys lie above the threshold `[1, 128]`, float32 `[8, 128]`."""
    total = jnp.zeros((SUBLANES, LANES), jnp.float32)
    if lines <= 16 * SUBLANES:
        for start in range(0, lines, SUBLANES):
            keys = key_ref[pl.ds(user * lines + start, SUBLANES), :]
            total += jnp.where(keys > threshold, 1.0, 0.0)
    else:

        def body(i, total):
            keys = key_ref[pl.ds(user * lines + i * SUBLANES, SUBLANES), :]
            return total + jnp.where(keys > threshold, 1.0, 0.0)

        total = jax.lax.fori_loop(0, lines // SUBLANES, body, total)
    return total


def _search(
    key_ref: Any, user: Any, lines: int, num_best: int, slots: int, low: Any
) -> tuple[Any, Any]:
    """Returns a threshold and a cut that leave `num_best` to `slots` candidates of one user.

    Args:
        key_ref: as in `select_best`.
        user: as in `select_best`.
        lines: as in `select_best`.
        num_best: the fewest that must survive.
        slots: the most that may.
        low: int32, a threshold that more than `slots` candidates exceed.
    """

    def survivors(threshold: Any, cut: Any) -> Any:
        def body(i, total):
            keys = key_ref[pl.ds(user * lines + i * SUBLANES, SUBLANES), :]
            shape = (SUBLANES, LANES)
            flat = (i * SUBLANES + iota(shape, 0)) * LANES + iota(shape, 1)
            inside = (keys > threshold) | ((keys == threshold) & (flat <= cut))
            return total + jnp.where(inside, 1.0, 0.0)

        zeros = jnp.zeros((SUBLANES, LANES), jnp.float32)
        return jnp.sum(jax.lax.fori_loop(0, lines // SUBLANES, body, zeros))

    # More than slots exceed low; fewer than num_best exceed high. One of a finer resolution fits.
    def too_many(state):
        low, high, found = state
        return (found == 0) & (high - 1 > low)

    def halve(state):
        low, high, _ = state
        # The sum of both may not fit int32.
        # Half of each, and one more where both were odd.
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        count = survivors(middle, -1)
        fits = (count >= num_best) & (count <= slots)
        enough = count >= num_best
        return (
            jnp.where(enough, middle, low),
            jnp.where(enough, high, middle),
            fits.astype(jnp.int32),
        )

    # The key of +inf, which no finite score reaches.
    highest = jnp.int32(0x7F800000)
    low, high, found = jax.lax.while_loop(too_many, halve, (low, highest, jnp.int32(0)))
    # Not found: ties at `high`. Then the cut: too few survive at first, enough at last.
    threshold = jnp.where(found == 1, low, high)
    first = jnp.int32(-1)
    last = jnp.where(found == 1, first, lines * LANES - 1)

    def narrow(state):
        first, last = state
        middle = (first + last) >> 1
        enough = survivors(threshold, middle) >= num_best
        return jnp.where(enough, first, middle), jnp.where(enough, middle, last)

    _, cut = jax.lax.while_loop(lambda state: state[1] - state[0] > 1, narrow, (first, last))
    return threshold, cut
