"""From logits and lines to keys, a tile of beams at a time; part of `tpu.rows`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from kernels.beam_step.pallas_tpu.rows_plan import CHUNKS, INFINITY, Plan, Refs, beam_row
from kernels.beam_step.pallas_tpu.vectors import DEAD_KEY, keys_of, tree
from kernels.trie.layout import LINE

# The lowest float32. It stands in for -inf as a maximum, because -inf - -inf is NaN.
_LOWEST = -3.4028235e38


def sum_block(r: Refs, plan: Plan, user: Any, tile: Any, block: Any) -> Generator[None]:
    """Adds a block's logits to each lane's sum of exponentials, relative to its maximum.

    Where the normaliser is not made of the whole row, only notes which lanes saw NaN or +inf.
    """
    rows = _rows(plan, user, tile)
    shape = (plan.tile, LINE)

    def read(starts: Any, tails: Any) -> list[jax.Array]:
        return [
            _chunk(r, plan, user, tile, s, block, t) for s, t in zip(starts, tails, strict=True)
        ]

    if plan.mode != "vocab":

        def look(starts: Any, tails: Any, broken: jax.Array) -> jax.Array:
            # NaN is not less than infinity either, so one comparison finds both.
            sound = [jnp.where(x < INFINITY, 0.0, 1.0) for x in read(starts, tails)]
            return jnp.maximum(broken, tree(jnp.maximum, sound))

        before = jnp.zeros(shape, jnp.float32)
        if plan.streams:
            before = jnp.where(block == 0, 0.0, r.maxima[rows, :])
        r.maxima[rows, :] = _chunk_groups(plan, look, before)
        return

    def add(starts: Any, tails: Any, carry: Any) -> Any:
        x = read(starts, tails)
        # A maximum of -inf would make NaN of -inf - -inf.
        maximum = jnp.maximum(tree(jnp.maximum, x), _LOWEST)
        if carry is not None:
            maximum = jnp.maximum(maximum, carry[0])
        total = tree(jnp.add, [jnp.exp(value - maximum) for value in x])
        if carry is not None:
            # The sum so far was relative to the maximum so far. NaN and +inf end in the sum (+inf -
            # +inf is NaN), so the whole row's normaliser shows them without another look.
            total += carry[1] * jnp.exp(carry[0] - maximum)
        return maximum, total

    carry: Any = None
    if plan.streams or plan.block > LINE * CHUNKS:
        carry = (jnp.full(shape, _LOWEST, jnp.float32), jnp.zeros(shape, jnp.float32))
    if plan.streams:
        carry = (
            jnp.where(block == 0, carry[0], r.maxima[rows, :]),
            jnp.where(block == 0, carry[1], r.sums[rows, :]),
        )
    maximum, total = _chunk_groups(plan, add, carry)
    r.maxima[rows, :] = maximum
    r.sums[rows, :] = total
    return
    yield


def gather_block(r: Refs, plan: Plan, user: Any, tile: Any, block: Any) -> Generator[None]:
    """Picks up the children's logits that a block holds."""
    for line in range(plan.lines):
        at = _line_rows(plan, user, tile, line)
        token = token_of(plan, r.words[at, :])
        before = jnp.where(block == 0, 0.0, r.gathered[at, :])
        r.gathered[at, :] = _gather(r, plan, user, tile, token, block, before)
    return
    yield


def write_keys(r: Refs, plan: Plan, user: Any, tile: Any, beams: int) -> Generator[None]:
    """Writes the keys of a tile's beams."""
    del beams
    rows = _rows(plan, user, tile)
    field = plan.field
    lane = lanes_of((plan.tile, LINE))
    lines = [_line_rows(plan, user, tile, line) for line in range(plan.lines)]

    def known_lane(node: jax.Array) -> jax.Array:
        """Returns a node's lane; -1 for any other number."""
        known = (node >= 0) & (node < plan.edges)
        return jnp.where(known, node & (LINE - 1), -1).astype(jnp.float32)

    def last_line(node: jax.Array) -> jax.Array:
        return (plan.edges // LINE - 1 - (node >> 7)).astype(jnp.float32)

    # Numbers change from lanes to sublanes through a sum of float32, so a node goes as its lane,
    # which float32 holds; whole node numbers may be beyond 2^24.
    start_float = _column(r.node, plan, user, tile, known_lane)
    parent = _column(r.score, plan, user, tile)
    lines_after: Any = _column(r.node, plan, user, tile, last_line) if plan.lines > 1 else None
    given: Any = _column(r.log_normalizer, plan, user, tile) if plan.mode == "given" else None
    yield
    start = jnp.broadcast_to(start_float, lane.shape).astype(jnp.int32)
    words = [r.words[at, :] for at in lines]
    differences = [word & ((1 << field.difference_bits) - 1) for word in words]

    # Where the node ends: the first row after its own that begins another of its depth.
    ends = []
    for line, difference in enumerate(differences):
        begins = difference <= field.place
        if line == 0:
            # Its own first row begins the node, and does not end it.
            begins &= lane > start
        else:
            # A line past the table's end was cut to the last one (`_fetch`), and is not looked at
            # twice.
            begins |= lines_after < line
        place = jnp.where(begins, (lane + line * LINE).astype(jnp.float32), INFINITY)
        ends.append(place)
    # The first such place; `INFINITY`, past all lanes, where there is none.
    end = -_max_lanes(-tree(jnp.minimum, ends))
    lane_maximum: Any = None
    maximum: Any = None
    total: Any = None
    broken: Any = None
    normalizer: Any = None
    if plan.mode == "vocab":
        lane_maximum = r.maxima[rows, :]
        maximum = _max_lanes(lane_maximum)
    elif plan.mode != "columns":
        broken = _max_lanes(r.maxima[rows, :])
    yield

    if plan.mode == "vocab":
        # Each lane's sum was relative to its own maximum; now all are to the row's.
        total = _sum_lanes(r.sums[rows, :] * jnp.exp(lane_maximum - maximum))
    # Columns count from the node's first row: a node of several lines starts at lane 0, any other
    # ends in its first line.
    values, valid = [], []
    for line, (word, difference) in enumerate(zip(words, differences, strict=True)):
        # The node's first row starts a child, whatever it differs from the row before by: that row
        # is another node's.
        first = lane == start
        begins = difference == field.place + 1
        if line == 0:
            begins = (begins & (lane >= start)) | first
        child = begins & ((lane + line * LINE).astype(jnp.float32) < end)
        token = token_of(plan, word)
        if plan.mode == "columns":
            columns = r.values[user, _in_user(plan, tile), pl.ds(line * LINE, LINE)]
            # Column 0 is the node's first row, which stands at lane `start`.
            value = at_lane(columns, (lane - start) & 127)
        elif plan.streams:
            value = r.gathered[lines[line], :]
        else:
            value = _gather(r, plan, user, tile, token, 0, jnp.zeros(lane.shape, jnp.float32))
        # A field of so many bits cannot hold a larger token otherwise.
        if plan.mode != "columns" and plan.vocab < 1 << field.bits:
            child &= token < plan.vocab
        values.append(value)
        valid.append(child)
    yield

    if plan.mode == "vocab":
        normalizer = maximum + jnp.log(total)
    elif plan.mode == "given":
        # An infinite normaliser kills the beam further down.
        normalizer = jnp.where(broken > 0, INFINITY, given)
    elif plan.mode == "columns":
        spoils = [
            jnp.where(child & ~(value < INFINITY), 1.0, 0.0)
            for child, value in zip(valid, values, strict=True)
        ]
        broken = _max_lanes(tree(jnp.maximum, spoils))
        yield
    else:
        counted = [
            jnp.where(child, value, -INFINITY) for child, value in zip(valid, values, strict=True)
        ]
        maximum = jnp.maximum(_max_lanes(tree(jnp.maximum, counted)), _LOWEST)
        yield
        total = _sum_lanes(tree(jnp.add, [jnp.exp(value - maximum) for value in counted]))
        yield
        normalizer = jnp.where(broken > 0, INFINITY, maximum + jnp.log(total))

    # Neither rows past the last beam nor dead beams have children.
    alive = start >= 0
    if plan.beams % plan.tile:
        beam = tile * plan.tile + jax.lax.broadcasted_iota(jnp.int32, lane.shape, 0)
        alive &= beam < plan.beams
    parent = jnp.where(alive, parent, -INFINITY)
    if plan.mode == "columns":
        sound = jnp.where(broken > 0, -INFINITY, parent)
    else:
        # An infinite normaliser is as good as a dead parent: -inf - -inf must not come back.
        sound = jnp.where(jnp.abs(normalizer) < INFINITY, parent, -INFINITY)
    for line, (child, value) in enumerate(zip(valid, values, strict=True)):
        # In this order, which the public function promises: float32 sums depend on it.
        score = sound + (value if plan.mode == "columns" else value - normalizer)
        child &= jnp.abs(score) < INFINITY
        if plan.live:
            live = r.live[user, _in_user(plan, tile), pl.ds(line * LINE, LINE)]
            live = at_lane(live, (lane - start) & 127)
            child &= live > 0
        # -0.0 has a lower key than 0.0, and must tie with it.
        score = jnp.where(score == 0, 0.0, score)
        keys = jnp.where(child, keys_of(score), DEAD_KEY)
        r.keys[lines[line], :] = keys


def _gather(
    r: Refs,
    plan: Plan,
    user: Any,
    tile: Any,
    token: jax.Array,
    block: Any,
    value: jax.Array,
) -> jax.Array:
    """Returns the tokens' logits where this block holds them, elsewhere `value`."""
    lane = token & (LINE - 1)
    chunk = token >> 7
    if plan.streams:
        chunk -= block * (plan.block // LINE)

    def pick(starts: Any, tails: Any, value: jax.Array) -> jax.Array:
        del tails  # No token past the end is valid.
        # Every chunk is looked up at the token's lane, and the right chunk's value is kept: a
        # gather reaches the 128 lanes of one register, not across registers.
        for start in starts:
            x = at_lane(_chunk(r, plan, user, tile, start, block, False), lane)
            here = start // LINE if isinstance(start, int) else start >> 7
            value = jnp.where(chunk == here, x, value)
        return value

    return _chunk_groups(plan, pick, value)


def _chunk(
    r: Refs, plan: Plan, user: Any, tile: Any, start: Any, block: Any, tail: bool
) -> jax.Array:
    """Returns 128 logits of a tile's beams in float32, `-inf` past the vocabulary's end."""
    if not isinstance(start, int):
        start = pl.multiple_of(start, LINE)
    x = r.values[user, _in_user(plan, tile), pl.ds(start, LINE)].astype(jnp.float32)
    if tail:
        x = jnp.where(block * plan.block + start + lanes_of(x.shape) < plan.vocab, x, -INFINITY)
    return x


def _chunk_groups(plan: Plan, body: Any, carry: Any) -> Any:
    """Runs `carry = body(chunk starts, tail, carry)` over a block, some chunks at a time."""
    chunks = plan.block // LINE
    uneven = plan.vocab % plan.block != 0
    whole = 0 if chunks <= CHUNKS else chunks // CHUNKS

    def group(i: Any, carry: Any) -> Any:
        starts = [i * (CHUNKS * LINE) + c * LINE for c in range(CHUNKS)]
        return body(starts, [uneven] * CHUNKS, carry)

    if whole:
        carry = jax.lax.fori_loop(0, whole, group, carry)
    starts = [c * LINE for c in range(whole * CHUNKS, chunks)]
    if starts:
        # In one block, only the last chunk can reach past the end.
        tails = [uneven and (plan.streams or start + LINE > plan.vocab) for start in starts]
        carry = body(starts, tails, carry)
    return carry


def _column(row_ref: Any, plan: Plan, user: Any, tile: Any, change: Any = None) -> jax.Array:
    """Returns a tile's numbers, which lie along a row's lanes, one a sublane: float32 `[tile, 1]`.

    A sum over lanes of which all but one hold 0; `change` maps the row to float32 before.
    """
    start = tile * plan.tile
    lanes = start // LINE
    row = beam_row(row_ref, plan, user, lanes)
    row = row if change is None else change(row)
    shape = (plan.tile, LINE)
    # Beam `start + i` goes to sublane i.
    own = lanes_of(shape) == start - lanes * LINE + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return _sum_lanes(jnp.where(own, jnp.broadcast_to(row, shape), 0.0))


def _in_user(plan: Plan, tile: Any) -> Any:
    """Returns a tile's rows among its user's."""
    start = tile * plan.tile
    return pl.ds(start if isinstance(start, int) else pl.multiple_of(start, plan.tile), plan.tile)


def _rows(plan: Plan, user: Any, tile: Any) -> Any:
    """Returns a tile's rows among all users'."""
    start = (user * plan.tiles + tile) * plan.tile
    return pl.ds(start if isinstance(start, int) else pl.multiple_of(start, plan.tile), plan.tile)


def _line_rows(plan: Plan, user: Any, tile: Any, line: int) -> Any:
    """Returns where one line of each of a tile's beams lies."""
    if plan.lines == 1:
        return _rows(plan, user, tile)
    start = (user * plan.tiles + tile) * plan.tile * plan.lines + line
    return pl.ds(start, plan.tile, stride=plan.lines)


def lanes_of(shape: tuple[int, ...] = (8, LINE)) -> jax.Array:
    """Returns each element's lane, int32."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, 1)


def at_lane(values: jax.Array, lane: jax.Array) -> jax.Array:
    """Returns each sublane's values at the lanes given, by a gather inside the registers."""
    return jnp.take_along_axis(values, lane, axis=1)


def token_of(plan: Plan, word: jax.Array) -> jax.Array:
    """Returns the tokens that words hold."""
    return (word >> plan.field.shift) & ((1 << plan.field.bits) - 1)


def _max_lanes(values: jax.Array) -> jax.Array:
    return jnp.max(values, axis=1, keepdims=True)


def _sum_lanes(values: jax.Array) -> jax.Array:
    return jnp.sum(values, axis=1, keepdims=True)
