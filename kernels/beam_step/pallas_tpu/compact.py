"""The survivors of a threshold, compacted and ranked: matrix products, then all pairs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.vectors import (
    INT32_MIN,
    LANES,
    SUBLANES,
    dot,
    iota,
    ones_where,
    sum_sublanes,
    tree,
)

_BYTE = 0xFF
# From 2^23 on, the last bit of a float32 is worth 1.
_MAGIC = 2.0**23


class Best(NamedTuple):
    """The best candidates of one user, best first along the lanes.

    As many as one pass finds are of use: the lanes below `passes(num_best)[1]`.

    Attributes:
        first: how many better ones were found before: 0, or traced where there are more passes.
        key: int32 `[1, 128]`; `DEAD_KEY` or less where candidates ran out.
        line: int32 `[1, 128]`, the line of the candidate among its user's.
        lane: int32 `[1, 128]`.
        payloads: int32 `[1, 128]` each, in the order of the payloads given.
    """

    first: Any
    key: jax.Array
    line: jax.Array
    lane: jax.Array
    payloads: tuple[jax.Array, ...]


class Payload(NamedTuple):
    """A small number that goes with every candidate.

    Attributes:
        read: maps a first line (dynamic, among all users' lines) and a static number of lines to
            int32 `[lines, 128]`, each in `[0, 2^bits)`.
        bits: static, at most 31.
    """

    read: Callable[[Any, int], jax.Array]
    bits: int


def compact(
    key_ref: Any,
    user: Any,
    lines: int,
    slots: int,
    first: Any,
    payloads: Sequence[Payload],
    threshold_ref: Any,
    cut_ref: Any,
) -> Generator[None, None, Best]:
    """Brings the survivors into one column, and from there, by rank, into a row."""
    threshold = threshold_ref[pl.ds(user, 1), :]
    cut = cut_ref[pl.ds(user, 1), :]
    ones = jnp.ones((LANES, LANES), jnp.bfloat16)
    # Times this, a line becomes its running sum: lane j gets the lanes up to j.
    up_to = ones_where(iota((LANES, LANES), 0) <= iota((LANES, LANES), 1))

    # Two parts of one number fit under each other where lines are few: one product, not two.
    paired = lines <= LANES // 2
    # A number holds 23 bits: 16 in two parts, and above them the line's seven. One of a single part
    # (the block's, or a small payload's) takes the line as its second; else the key's upper half
    # takes it as its third.
    carrier = 3 if payloads and payloads[0].bits <= 8 else 1  # The number that brings the line.
    fetched: list[jax.Array] = []
    column_carry = jnp.zeros((1, LANES), jnp.float32)
    row_carry = jnp.zeros((SUBLANES, LANES), jnp.float32)
    for start in range(0, lines, LANES):
        size = min(LANES, lines - start)
        shape = (size, LANES)
        # Blocks of 128 lines: their counts are laid along the 128 lanes of a row.
        keys = key_ref[pl.ds(user * lines + start, size), :]
        flat = (start + iota(shape, 0)) * LANES + iota(shape, 1)
        survives = (keys > threshold) | ((keys == threshold) & (flat <= cut))
        alive = ones_where(survives)
        yield
        # Survivors in the lanes up to each one; in its line; in the lines before it.
        in_line = dot(alive, up_to)
        total = dot(alive, ones)
        # The same totals along the lanes: line j of the block in lane j.
        total_row = jax.lax.dot_general(
            ones[:SUBLANES],
            _under(survives, survives) if paired else alive,
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        yield
        # Strictly below the diagonal: the lines before each. A count of at most 128 is exact in
        # bfloat16, which holds whole numbers up to 256.
        before = ones_where(iota((size, size), 1) < iota((size, size), 0))
        lines_before = dot(before, total.astype(jnp.bfloat16)) + column_carry
        width = LANES if paired else size
        row, column = iota((width, width), 0), iota((width, width), 1)
        same = (row // (LANES // 2) == column // (LANES // 2)) if paired else row == row
        up_to_line = ones_where((row <= column) & same)
        # Where each line's slots end and, less its count, start.
        end_row = dot(total_row.astype(jnp.bfloat16), up_to_line) + row_carry[:, :width]
        yield
        position = jnp.where(survives, in_line + lines_before, 0.0)
        start_row = end_row - total_row
        slot = iota((slots, width), 0).astype(jnp.float32)
        # One-hot: a slot belongs to the one line whose range of slots holds it, so the product
        # below fetches that line. Where two parts lie under each other, it has a one for each and
        # adds them.
        of_slot = ones_where(
            (jnp.broadcast_to(start_row[:1], (slots, width)) <= slot)
            & (slot < jnp.broadcast_to(end_row[:1], (slots, width))),
        )
        yield
        ordered = keys ^ INT32_MIN  # Unsigned order, so that bytes are not negative.
        line = iota(shape, 0)
        # Whole numbers below 2^23, each a sum of parts that have 8 significant bits, as many as
        # bfloat16 holds. The parts are multiplied apart and added in float32, exactly. The key is
        # two numbers of 16 bits.
        numbers = [
            [position],
            [_bits(ordered, 24, 8, 8), _bits(ordered, 16, 8, 0)],
            [_bits(ordered, 8, 8, 8), ordered & _BYTE],
        ]
        if lines > LANES:
            numbers.append([jnp.full(shape, start // LANES, jnp.int32)])
        for payload in payloads:
            values = payload.read(user * lines + start, size)
            numbers += _payload_parts(values, payload.bits)
        numbers[carrier].append(line << 16)
        for i, parts in enumerate(numbers):
            if paired:
                pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
                weights = [_under(*pair) for pair in pairs]
            else:
                weights = [part.astype(jnp.float32).astype(jnp.bfloat16) for part in parts]
            product = tree(jnp.add, [dot(of_slot, weight) for weight in weights])
            if start == 0:
                fetched.append(product)
            else:
                fetched[i] += product
        if start + size < lines:
            # The survivors of all blocks before, for the next one's slots.
            column_carry += dot(ones[:SUBLANES, :size], total.astype(jnp.bfloat16))[:1]
            row_carry += dot(total_row.astype(jnp.bfloat16), ones[:size])

    yield
    # Of each slot's line, the one lane whose position is the slot.
    square = (slots, LANES)
    slot = iota(square, 0)
    other = iota(square, 1)
    # Positions count from 1, so a lane without a survivor, whose position is 0, has no slot.
    hit = fetched[0] == (slot + 1).astype(jnp.float32)
    lane = (other << 16).astype(jnp.float32)
    # The key's lower half has 7 bits left above its 16: the lane goes there.
    fetched[2] += lane

    def column(value: jax.Array) -> jax.Array:
        """Returns the one value of each slot, an integer below 2^23, in all its lanes."""
        total = jnp.sum(jnp.where(hit, value, 0.0), axis=1, keepdims=True)
        return jnp.broadcast_to(total, square)

    columns = [column(value) for value in fetched[1:]]
    yield
    # Adding 2^23 puts an integer into a float's low bits, which is cheaper than converting it.
    high, low = (pltpu.bitcast(value + _MAGIC, jnp.int32) for value in columns[:2])
    key_column = ((high << 16) | (low & 0xFFFF)) ^ INT32_MIN
    # The diagonal, summed over the sublanes: the column as a row, in int32 and thus exactly.
    key_row = sum_sublanes(jnp.where(slot == other, key_column, 0))
    yield
    if slots < LANES:
        # Lanes past the last slot count as worse than any key.
        key_row = jnp.where(iota((1, LANES), 1) < slots, key_row, INT32_MIN)
    # Not worse: as large and no later, or larger; itself included.
    not_worse = jnp.broadcast_to(key_row, square) >= key_column + jnp.where(other > slot, 1, 0)
    # Summed over the lanes by the matrix unit, which leaves the sum in every lane.
    rank = dot(ones_where(not_worse), ones)
    yield
    # Ranks differ, because equal keys are ordered by their slot: each lane gets one slot's values.
    leaves = rank == (other + 1).astype(jnp.float32)
    rows = [sum_sublanes(jnp.where(leaves, value, 0.0)).astype(jnp.int32) for value in columns]
    # The number that brought the line: its upper bits, then its own lower ones.
    line_row = rows[carrier - 1] >> 16
    rows[carrier - 1] &= 0xFFFF
    if lines > LANES:
        # Which block of 128 lines.
        line_row += rows[2] << 7
    taken = iter(rows[3:] if lines > LANES else rows[2:])
    return Best(
        first=first,
        key=((rows[0] << 16) | (rows[1] & 0xFFFF)) ^ INT32_MIN,
        line=line_row,
        lane=rows[1] >> 16,
        payloads=tuple(_payload(taken, payload.bits) for payload in payloads),
    )


def _payload_parts(values: jax.Array, bits: int) -> list[list[jax.Array]]:
    """Returns numbers below 2^23, each as parts of which bfloat16 holds each exactly."""
    if bits <= 8:
        return [[values]]
    if bits <= 16:
        return [[_bits(values, 8, 8, 8), values & _BYTE]]
    return [[_bits(values, 8, 8, 8), values & _BYTE], *_payload_parts(values >> 16, bits - 16)]


def _payload(rows: Iterator[jax.Array], bits: int) -> jax.Array:
    """Returns a payload from the numbers that `_payload_parts` made of it."""
    value = next(rows)
    return value if bits <= 16 else value | (_payload(rows, bits - 16) << 16)


def _bits(values: jax.Array, start: int, width: int, shift: int) -> jax.Array:
    """Returns `width` bits from bit `start` on, moved to bit `shift`; `start >= shift`."""
    mask = ((1 << width) - 1) << shift
    return jax.lax.shift_right_logical(values, start - shift) & mask


def _under(upper: jax.Array, lower: jax.Array | None = None) -> jax.Array:
    """Returns one block of at most 64 lines under another, each padded to 64, in bfloat16."""
    padding = jnp.zeros((LANES // 2 - upper.shape[0], LANES), jnp.float32)
    blocks: list[jax.Array] = []
    for block in (upper, lower):
        if block is None:
            blocks.append(jnp.zeros((LANES // 2, LANES), jnp.float32))
            continue
        block = jnp.where(block, 1.0, 0.0) if block.dtype == jnp.bool_ else block
        blocks.append(block.astype(jnp.float32))
        if padding.size:
            blocks.append(padding)
    return jnp.concatenate(blocks).astype(jnp.bfloat16)
