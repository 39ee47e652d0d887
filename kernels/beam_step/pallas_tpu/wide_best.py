"""The wide Pallas TPU kernel's selection: a user's best candidates, exact.

1. The largest score of each of 256 bins, or more. The `K`-th largest of these is a bound which at
   least `K` candidates reach, and hardly more than `K` do.
2. One more pass pushes the candidates that reach it onto short stacks, one a bin.
   A lone beam's, at the root, fit as they are: each chunk of 128 is a row, and nothing falls out.
3. Matrix products with one-hot matrices bring them into a column of `slots`. Values travel as three
   bfloat16 pieces, so that nothing is rounded.
4. All pairs of the column are compared; the number of better ones is the place in the result.

Where a stack or the column overflows, which takes many equal scores or an unlikely arrangement,
the maximum is taken `K` times instead.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.vectors import LANES, SUBLANES, dot, iota, ones_where, tree
from kernels.beam_step.pallas_tpu.wide_plan import LOWEST, Plan, Refs, pick, to_column, to_row

# Below this, the last of a score's three pieces could be subnormal, which the chip takes for zero.
_TINY = 2.0**-100


def _bound(r: Refs, plan: Plan, user: Any) -> jax.Array:
    """Returns `[1, 1]`: a score which at least `K` candidates reach, or the lowest number."""
    # All candidates fit the column: there is nothing to leave out.
    if plan.beams * plan.chunks * LANES <= plan.slots:
        return jnp.full((1, 1), LOWEST)
    # `row_bad` holds the maxima of each group's scores by now. Groups are turned against each other
    # along the lanes, so that one token that is good for many beams is not one bin's.
    bins = tree(
        jnp.maximum,
        [pltpu.roll(r.row_bad[user, g], 14 * g % LANES, 1) for g in range(plan.groups)],
    )
    height = SUBLANES
    # Folded in halves; `roll` brings the lower half's rows beside the upper ones.
    while height > plan.bin_rows:
        height //= 2
        bins = jnp.maximum(bins, pltpu.roll(bins, height, 0))
    filled = min(height, plan.chunks) if plan.alone else height
    rows = [bins[i : i + 1] for i in range(filled)]
    # How many maxima are larger than each: every row as a column against every row. Ones in float32
    # count exactly.
    larger = [jnp.zeros((SUBLANES, LANES), jnp.float32) for _ in rows]
    for row in rows:
        column = to_column(row, LANES)
        for i, other in enumerate(rows):
            ahead = jnp.where(column > other, 1.0, 0.0)
            larger[i] = larger[i] + tree(
                jnp.add, [ahead[k : k + SUBLANES] for k in range(0, LANES, SUBLANES)]
            )
    # The K-th largest maximum: the least of those that fewer than K exceed.
    bound = jnp.full((1, LANES), jnp.inf)
    for row, number in zip(rows, larger, strict=True):
        number = jnp.sum(number, axis=0, keepdims=True)
        bound = jnp.minimum(bound, jnp.where(number < plan.num_beams, row, jnp.inf))
    return jnp.maximum(jnp.min(bound, axis=1, keepdims=True), LOWEST)


def _fill_stacks(r: Refs, plan: Plan, user: Any, i: int, bound: jax.Array) -> jax.Array:
    """Pushes what reaches the bound onto stacks; returns what fell out below, `-inf` if nothing."""
    bound = jnp.broadcast_to(bound, (SUBLANES, LANES))
    padded = plan.stride // LANES
    fell = []
    depth = plan.depth
    for s, tiles in enumerate(plan.sets):
        # Where a bin cannot get more candidates than it keeps, nothing can fall out, and looking is
        # spared.
        overflows = plan.most_in_bin(tiles) > depth
        nothing = jnp.full((SUBLANES, LANES), -jnp.inf)
        scores = [nothing] * depth
        places = [jnp.zeros((SUBLANES, LANES), jnp.int32)] * depth
        lost = nothing
        for group, chunk in tiles:
            x = r.candidates[user, group, chunk]
            reaches = x >= bound
            if overflows:
                lost = jnp.where(reaches, jnp.maximum(lost, scores[-1]), lost)
            # Onto the top, everything below one further down; what was lowest is lost.
            above = [x, *scores[:-1]]
            scores = [jnp.where(reaches, a, b) for a, b in zip(above, scores, strict=True)]
            above = [group * padded + chunk, *places[:-1]]
            places = [jnp.where(reaches, a, b) for a, b in zip(above, places, strict=True)]
        fell.append(lost)
        for level in range(depth):
            rows = pl.ds((s * depth + level) * SUBLANES, SUBLANES)
            r.stack_score[i, rows, :] = scores[level]
            r.stack_place[i, rows, :] = places[level]
    return tree(jnp.maximum, fell)


def _keep_all(r: Refs, plan: Plan, user: Any, i: int, bound: jax.Array) -> jax.Array:
    """Does what `_fill_stacks` does for a lone beam: nothing falls out, one chunk stands a row."""
    for start in range(0, plan.chunks, SUBLANES):
        chunks = range(start, min(start + SUBLANES, plan.chunks))
        x = tree(jnp.maximum, [r.candidates[user, 0, chunk] for chunk in chunks])
        rows = pl.ds(start, SUBLANES)
        r.stack_score[i, rows, :] = jnp.where(x >= bound, x, -jnp.inf)
        r.stack_place[i, rows, :] = iota(x.shape, 0) + start
    return jnp.full((SUBLANES, LANES), -jnp.inf)


def _compact(r: Refs, plan: Plan, i: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Brings the stacks' candidates into a column.

    Returns:
        float32 `[slots, 1]` scores, `-inf` where there is none; float32 `[slots, 1]` flat indices;
        float32 `[1, 128]` the number of candidates.
    """
    score = r.stack_score[i]
    place = r.stack_place[i]
    height = score.shape[0]
    there = score > -jnp.inf
    score = jnp.where(there, score, 0.0)

    # Stacks hold group * padded + chunk; the sublane and the chunk give the beam.
    padded = plan.stride // LANES
    chunk = place & (padded - 1)
    group = place >> int(math.log2(padded))
    # `write_scores` turned chunk c's beams by c sublanes; this turns them back.
    sublane = (iota(place.shape, 0) - chunk) & (SUBLANES - 1)
    line = ((group * SUBLANES + sublane) * padded) + chunk
    line_bits = int(math.log2(plan.groups * SUBLANES * padded - 1)) + 1

    flags = ones_where(there)
    lane_row, lane_column = iota((LANES, 2 * LANES), 0), iota((LANES, 2 * LANES), 1)
    # Columns 0 to 127: the candidates in lanes before each. Columns 128 to 255: all of the row's,
    # in every lane. One product gives both.
    counts = dot(flags, ones_where(lane_row < lane_column))
    total = counts[:, LANES:]
    rows = (height, height)
    before = dot(ones_where(iota(rows, 1) < iota(rows, 0)), total.astype(jnp.bfloat16))
    slot = counts[:, :LANES] + before
    if plan.slots > 256:  # A bfloat16 tells 256 numbers apart; a line spans fewer slots than that.
        slot = (slot.astype(jnp.int32) & 255).astype(jnp.float32)
    slot = jnp.where(there, slot, -1.0)
    number = before[height - 1 :] + total[height - 1 :]

    # A float32 has 24 significant bits, three times bfloat16's 8: each piece is what the ones
    # before leave, and both subtractions are exact.
    first = score.astype(jnp.bfloat16)
    rest = score - first.astype(jnp.float32)
    second = rest.astype(jnp.bfloat16)
    third = (rest - second.astype(jnp.float32)).astype(jnp.bfloat16)
    pieces = [slot.astype(jnp.bfloat16), first, second, third]
    for shift in range(0, line_bits, 8):
        pieces.append(((line >> shift) & 0xFF).astype(jnp.float32).astype(jnp.bfloat16))
    pieces = jnp.concatenate(pieces, axis=1)

    slots = (plan.slots, LANES)
    mine = iota(slots, 0).astype(jnp.float32)
    found: Any = None
    for start in range(0, height, LANES):
        part = slice(start, min(start + LANES, height))
        low = to_row(before[part])
        high = low + to_row(total[part])
        width = part.stop - part.start
        # One-hot: each slot lies in the range of one row of the stacks, and the product fetches
        # that row.
        has = ones_where((mine >= low) & (mine < high))[:, :width]
        product = dot(has, pieces[part])
        found = product if found is None else found + product
    taken = [found[:, k : k + LANES] for k in range(0, found.shape[1], LANES)]
    is_it = taken[0] == mine
    if plan.slots > 256:
        is_it = (taken[0] == (iota(slots, 0) & 255).astype(jnp.float32)) & (mine < number)
    # The largest first: each sum is the score less its smaller pieces, which float32 holds.
    value = (taken[1] + taken[2]) + taken[3]
    line = taken[4]
    for k, piece in enumerate(taken[5:]):
        # A byte a piece; together below 2^24, where float32 is exact.
        line = line + piece * 256.0 ** (k + 1)
    flat = line * LANES + iota(slots, 1).astype(jnp.float32)
    value = pick(is_it, value)
    flat = pick(is_it, flat)
    return value, flat, number


def _ranks(plan: Plan, value: jax.Array, flat: jax.Array) -> jax.Array:
    """Returns float32 `[slots, 128]`: how many candidates of the column are better than each."""
    parts = [slice(s, min(s + LANES, plan.slots)) for s in range(0, plan.slots, LANES)]
    values = [to_row(value[part], -jnp.inf) for part in parts]
    flats = [] if plan.alone else [to_row(flat[part], -jnp.inf) for part in parts]
    ranks = []
    for part in parts:
        mine = value[part]
        better = []
        for i, other in enumerate(parts):
            theirs = values[i]
            if plan.alone and other is not part:
                # A lone beam's candidates come in the order in which ties are broken.
                is_better = theirs >= mine if other.start < part.start else theirs > mine
            elif plan.alone:
                shape = (len(mine), LANES)
                is_better = theirs > mine
                is_better |= (theirs == mine) & (iota(shape, 1) < iota(shape, 0))
            else:
                is_better = (theirs > mine) | ((theirs == mine) & (flats[i] < flat[part]))
            better.append(jnp.where(is_better, 1.0, 0.0))
        # At most as many ones a lane as there are parts, which bfloat16 holds.
        total = tree(jnp.add, better).astype(jnp.bfloat16)
        ranks.append(dot(total, jnp.ones((LANES, LANES), jnp.bfloat16)))
    return jnp.concatenate(ranks, axis=0)


def find_best(r: Refs, plan: Plan, users: list[Any]) -> None:
    """Writes the best candidates' scores and flat indices, best first."""
    bounds = [_bound(r, plan, user) for user in users]
    fill = _keep_all if plan.alone else _fill_stacks
    fell = [fill(r, plan, user, i, bounds[i]) for i, user in enumerate(users)]
    columns = [_compact(r, plan, i) for i in range(len(users))]
    for i, user in enumerate(users):
        value, flat, number = columns[i]
        score = r.stack_score[i]
        tiny = jnp.where((jnp.abs(score) < _TINY) & (score != 0), 1.0, 0.0)
        tiny = tree(jnp.maximum, [tiny[k : k + SUBLANES] for k in range(0, len(tiny), SUBLANES)])
        # What fell out may be among the best; what found no slot as well.
        bad = jnp.maximum(tiny, jnp.where(fell[i] > -jnp.inf, 1.0, 0.0))
        bad = jnp.maximum(bad, jnp.where(number > plan.slots, 1.0, 0.0))
        r.overflow[...] = jnp.maximum(r.overflow[...], bad)

        rank = _ranks(plan, value, flat)
        bests, flats = [], []
        for start in range(0, plan.lanes_out, LANES):
            place = iota((plan.slots, LANES), 1).astype(jnp.float32) + start
            # Ranks differ, as equal scores are ordered by flat index: one slot a lane, and the sum
            # is its value.
            chosen = (rank == place) & (place < number)
            best = jnp.sum(jnp.where(chosen, value, 0.0), axis=0, keepdims=True)
            best_flat = jnp.sum(jnp.where(chosen, flat, 0.0), axis=0, keepdims=True)
            bests.append(jnp.where(place[:1] < number, best, -jnp.inf))
            flats.append(best_flat)
        # Whole rows: the compiler refuses a part of a row whose number it does not know.
        r.best_score[pl.ds(user, 1), :] = jnp.concatenate(bests, axis=1)
        r.best_flat[pl.ds(user, 1), :] = jnp.concatenate(flats, axis=1)


def take_maxima(r: Refs, plan: Plan) -> None:
    """Replaces the best candidates, where something overflowed, by `K` maxima in a row."""
    # The candidates are untouched until here, so that all of the program's users can be done again,
    # whoever overflowed.
    turns = jnp.where(jnp.max(r.overflow[...]) > 0, plan.num_beams * plan.users, 0)
    tile = (SUBLANES, LANES)
    sublane, lane = iota(tile, 0), iota(tile, 1)

    def flat_of(group, chunk):
        beam = group * SUBLANES + ((sublane - chunk) & (SUBLANES - 1))
        return (beam * plan.stride + (chunk * LANES + lane)).astype(jnp.float32)

    @pl.loop(0, turns)
    def _(turn):
        slot = jax.lax.div(turn, plan.users)
        user = turn - slot * plan.users

        def largest(group, best):
            tiles = [r.candidates[user, group, chunk] for chunk in range(plan.chunks)]
            return jnp.maximum(best, tree(jnp.maximum, tiles))

        best = jax.lax.fori_loop(0, plan.groups, largest, jnp.full(tile, -jnp.inf))
        best = jnp.max(best)

        def first(group, flat):
            for chunk in range(plan.chunks):
                here = r.candidates[user, group, chunk] == best
                flat = jnp.minimum(flat, jnp.where(here, flat_of(group, chunk), jnp.inf))
            return flat

        flat = jax.lax.fori_loop(0, plan.groups, first, jnp.full(tile, jnp.inf))
        # Of equal scores the lowest flat index: the lower beam, then the lower token.
        flat = jnp.min(flat)

        @pl.loop(0, plan.groups)
        def _(group):
            for chunk in range(plan.chunks):
                x = r.candidates[user, group, chunk]
                taken = flat_of(group, chunk) == flat
                r.candidates[user, group, chunk] = jnp.where(taken, -jnp.inf, x)

        here = iota((1, plan.lanes_out), 1) == slot
        flat = jnp.where(best > -jnp.inf, flat, 0.0)
        row = pl.ds(user, 1)
        r.best_score[row, :] = jnp.where(here, best, r.best_score[row, :])
        r.best_flat[row, :] = jnp.where(here, flat, r.best_flat[row, :])
