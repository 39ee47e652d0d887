"""The beam step over a row table, one Pallas TPU kernel.

A grid step holds the logits of a group of users, or a block of their vocabulary where all of it
does not fit. It

1. starts one DMA a beam for the line of the table that holds the beam's children, and meanwhile
   sums the exponentials of the logits lane by lane;
2. at the last block, finds which lanes are children, picks up their logits with gathers inside the
   registers, and turns their scores into keys;
3. hands the keys to `select_best`, and writes tokens, parents, nodes and scores.

A tile is as many beams as one register has sublanes; see `Plan.tile`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32, Int32

from kernels.beam_step.pallas_tpu import select
from kernels.beam_step.pallas_tpu.rows_plan import (
    INFINITY,
    VMEM_BYTES,
    Plan,
    Refs,
    beam_row,
    make_plan,
    scratch_shapes,
)
from kernels.beam_step.pallas_tpu.rows_scores import (
    at_lane,
    gather_block,
    lanes_of,
    sum_block,
    token_of,
    write_keys,
)
from kernels.beam_step.pallas_tpu.vectors import DEAD_KEY, loop, scores_of, side_by_side
from kernels.beam_step.pallas_tpu.x32 import in_32_bits
from kernels.trie import DEAD_NODE
from kernels.trie.layout import LINE, Field

_TILES_TOGETHER = 14  # Tiles whose latencies overlap.


@in_32_bits
@functools.partial(
    jax.jit, static_argnames=("mode", "field", "lines_per_node", "num_beams", "interpret")
)
def row_step(
    values: Float[Array, "B M V"],
    node: Int32[Array, "B M"],
    score: Float32[Array, "B M"],
    word: Int32[Array, "lines 128"],
    below: Int32[Array, "lines 128"] | None,
    log_normalizer: Float32[Array, "B M"] | None,
    live: Float32[Array, "B M C"] | None,
    *,
    mode: str,
    field: Field,
    lines_per_node: int,
    num_beams: int,
    interpret: Any = False,
) -> tuple[Array, Array, Array, Array]:
    """Returns token, parent, node and score `[B, num_beams]` of the best beams over a row table.

    Args:
        values: logits, float32 or bfloat16, or float32 `[B, M, C]` for `mode="columns"`.
        node: the beams' nodes.
        score: the beams' scores.
        word: the word of the table that holds the level.
        below: what edges lead to; None where they are nodes themselves.
        log_normalizer: for `mode="given"`.
        live: a filter, not 0 where a column is live; None for none.
        mode: see `Plan`.
        field: where the word holds the level.
        lines_per_node: lines that a node's rows may take.
        num_beams: beams to return.
        interpret: as for `pallas_call`; with True, of which XLA makes a CPU program, the kernel is
            written shorter.

    Raises:
        UnsupportedError: sizes that the kernel is not made for.
    """
    batch, beams, _ = values.shape
    plan = make_plan(
        values, word, below, live, mode, field, lines_per_node, num_beams, interpret is True
    )
    users, rows = plan.users, plan.rows
    lanes = plan.lines * LINE

    # Nodes twice: scalars address the DMAs, vectors do the rest.
    operands: list[Array] = [node, node, score]
    # A block's last axis is whole registers of 128 lanes. What lies past the beams is not defined,
    # and `write_keys` marks it dead.
    beam_lanes = -(-beams // LINE) * LINE
    by_lane = pl.BlockSpec((users, beam_lanes), lambda i, j: (i, 0))
    specs = [
        pl.BlockSpec((users, beams), lambda i, j: (i, 0), memory_space=pltpu.SMEM),
        by_lane,
        by_lane,
    ]
    if mode == "given":
        assert log_normalizer is not None
        operands.append(log_normalizer)
        specs.append(by_lane)
    operands.append(values)
    if mode == "columns":
        specs.append(pl.BlockSpec((users, rows, lanes), lambda i, j: (i, 0, 0)))
    else:
        specs.append(pl.BlockSpec((users, rows, plan.block), lambda i, j: (i, 0, j)))
    if live is not None:
        operands.append(live)
        specs.append(pl.BlockSpec((users, rows, lanes), lambda i, j: (i, 0, 0)))
    for table in (word, below):
        if table is not None:
            if not interpret:
                # Or XLA copies small tables to VMEM, whence single lines are slower to fetch.
                table = pltpu.with_memory_space_constraint(table, pltpu.HBM)
            operands.append(table)
            specs.append(pl.BlockSpec(memory_space=pltpu.HBM))

    out = pl.BlockSpec((users, num_beams), lambda i, j: (i, 0))
    step = pl.pallas_call(
        functools.partial(_kernel, plan=plan),
        grid=(-(-batch // users), plan.blocks),
        in_specs=specs,
        out_specs=[out] * 4,
        out_shape=[
            jax.ShapeDtypeStruct((batch, num_beams), dtype)
            for dtype in (jnp.int32, jnp.int32, jnp.int32, jnp.float32)
        ],
        scratch_shapes=scratch_shapes(plan),
        compiler_params=pltpu.CompilerParams(
            # Groups of users know nothing of each other; the blocks of a vocabulary add to the same
            # sums, one after the other.
            dimension_semantics=("parallel", "arbitrary"),
            # Every line that is fetched is cut to the table in `_fetch`.
            disable_bounds_checks=True,
            disable_semaphore_checks=True,
            vmem_limit_bytes=2 * VMEM_BYTES,
        ),
        interpret=interpret,
        name=f"beam_step_rows_{mode}",
    )(*operands)
    return tuple(step)


def _kernel(*refs: Any, plan: Plan) -> None:
    r = Refs(iter(refs), plan)
    block = pl.program_id(1)

    def fetch(user: Any, tile: Any, beams: int) -> Generator[None]:
        _fetch(r, plan, user, tile, beams)
        return
        yield

    def fetch_and_sum(user: Any, tile: Any, beams: int) -> Generator[None]:
        _fetch(r, plan, user, tile, beams)
        if plan.mode != "columns":
            yield from sum_block(r, plan, user, tile, 0)

    if not plan.streams:
        # All in one block. Up to 128 beams lie along one row of lanes: users go in turn, so that
        # one's copies run while another's keys are written; more beams go stage by stage.
        if plan.beams <= LINE and not plan.short:
            _in_turn(r, plan)
        else:
            _for_tiles(plan, fetch_and_sum, unroll=1 if plan.short else 2)
            _wait(r, plan)
            _for_tiles(plan, functools.partial(write_keys, r, plan), unroll=_unroll(plan))
        _select(r, plan)
        return

    @pl.when(block == 0)
    def _():
        _for_tiles(plan, fetch, unroll=1)
        _wait(r, plan)

    _for_tiles(
        plan, lambda user, tile, _: sum_block(r, plan, user, tile, block), unroll=_unroll(plan)
    )
    _for_tiles(
        plan, lambda user, tile, _: gather_block(r, plan, user, tile, block), unroll=_unroll(plan)
    )

    @pl.when(block == plan.blocks - 1)
    def _():
        _for_tiles(plan, functools.partial(write_keys, r, plan), unroll=_unroll(plan))
        _select(r, plan)


def _in_turn(r: Refs, plan: Plan) -> None:
    """Writes all keys, while some users' lines come and their sums are made, the last ones' keys.

    What starts a DMA are scalar instructions, which go beside the vector instructions.
    """
    together = max(1, _TILES_TOGETHER // (plan.tiles * plan.lines))
    # Every turn is the same program, so the users must come out even.
    while plan.users % together:
        together -= 1
    turns = plan.users // together

    def tiles_of(turn: Any) -> list[tuple[Any, int, int]]:
        sizes = [min(plan.tile, plan.beams - tile * plan.tile) for tile in range(plan.tiles)]
        users = [turn * together + i for i in range(together)]
        return [(user, tile, sizes[tile]) for user in users for tile in range(plan.tiles)]

    def prepare(turn: Any) -> Generator[None]:
        for user, tile, beams in tiles_of(turn):
            _fetch(r, plan, user, tile, beams, _parity(turn))
            if plan.mode != "columns":
                yield from sum_block(r, plan, user, tile, 0)
            yield

    def finish(turn: Any) -> Generator[None]:
        yield from side_by_side([write_keys(r, plan, *tile) for tile in tiles_of(turn)])

    def wait(turn: Any) -> None:
        # A wait knows no copies, only bytes: it waits for as many as these lines have, wherever
        # they went. So that one turn's bytes do not end the wait for another's, even and odd turns
        # have a semaphore each.
        lines = pl.ds(0, together * plan.beams * plan.lines)
        for ref in (r.words, r.below) if plan.below else (r.words,):
            copy = pltpu.make_async_copy(
                ref.at[lines], ref.at[lines], r.semaphore.at[_parity(turn)]
            )
            copy.wait()

    for _ in prepare(0):
        pass

    def turn(turn: Any) -> None:
        wait(turn)
        for _ in side_by_side([finish(turn), prepare(turn + 1)]):
            pass

    if turns == 2:
        turn(0)
    elif turns > 2:
        pl.loop(0, turns - 1)(turn)
    wait(turns - 1)
    for _ in finish(turns - 1):
        pass


def _parity(turn: Any) -> Any:
    return turn % 2 if isinstance(turn, int) else jax.lax.rem(turn, 2)


def _for_tiles(
    plan: Plan, body: Callable[[Any, Any, int], Generator[None]], *, unroll: int
) -> None:
    """Runs `body(user, tile, beams of the tile)` for every tile; see `loop`."""
    whole = plan.beams // plan.tile
    rest = plan.beams % plan.tile

    if plan.tiles <= unroll:
        # Several users together.
        def user_tiles(user: Any) -> Generator[None]:
            tiles = [
                body(user, tile, plan.tile if tile < whole else rest) for tile in range(plan.tiles)
            ]
            yield from side_by_side(tiles)

        loop(plan.users, user_tiles, unroll=max(1, unroll // plan.tiles))
        return

    def one_user(user: Any) -> Generator[None]:
        loop(whole, lambda tile: body(user, tile, plan.tile), unroll=unroll)
        if rest:
            yield from body(user, whole, rest)
        return
        yield

    loop(plan.users, one_user, unroll=1)


def _unroll(plan: Plan) -> int:
    return 1 if plan.short else max(1, 9 // plan.lines)


def _fetch(r: Refs, plan: Plan, user: Any, tile: Any, beams: int, semaphore: Any = 0) -> None:
    """Starts the DMAs of a tile's first `beams` beams."""
    # A dead beam's line is fetched as well: without a branch all copies are alike, and what comes
    # of it is masked.
    last_line = plan.edges // LINE - 1
    arrived = r.semaphore.at[semaphore]
    for i in range(beams):
        node = r.node_scalar[user, tile * plan.tile + i]
        # Negative nodes become large ones, and those are cut.
        line = jnp.minimum(jax.lax.shift_right_logical(node, 7), last_line)
        # The lines of one beam lie one under the other; see `_line_rows`.
        row = ((user * plan.tiles + tile) * plan.tile + i) * plan.lines
        for k in range(plan.lines):
            at = line if k == 0 else jnp.minimum(line + k, last_line)
            to = pl.ds(row + k, 1)
            pltpu.make_async_copy(r.table.at[pl.ds(at, 1)], r.words.at[to], arrived).start()
            if plan.below:
                source = r.below_table.at[pl.ds(at, 1)]
                pltpu.make_async_copy(source, r.below.at[to], arrived).start()


def _wait(r: Refs, plan: Plan) -> None:
    """Waits for all lines; one wait counts the bytes of all of them."""
    lines = pl.ds(0, plan.users * plan.beams * plan.lines)
    for ref in (r.words, r.below) if plan.below else (r.words,):
        pltpu.make_async_copy(ref.at[lines], ref.at[lines], r.semaphore.at[0]).wait()


def _select(r: Refs, plan: Plan) -> None:
    """Writes the best beams of all users of this program."""

    def read_token(start: Any, size: int) -> jax.Array:
        return token_of(plan, r.words[pl.ds(start, size), :])

    payloads = [select.Payload(read_token, plan.field.bits)]
    if plan.below:
        # An edge is an int32 and not negative: 31 bits.
        payloads.append(select.Payload(lambda start, size: r.below[pl.ds(start, size), :], 31))

    def write(user: Any, best: select.Best) -> None:
        parent, line = best.line, 0
        if plan.lines > 1:
            # A division of whole numbers by way of float32. Half a line is added, so that the
            # rounding of an exact quotient cannot lead below it; lines are fewer than 512 · 32 =
            # 2^14.
            parent = ((best.line.astype(jnp.float32) + 0.5) / plan.lines).astype(jnp.int32)
            line = best.line - parent * plan.lines
        if plan.below:
            node = best.payloads[1]
        else:
            node = jnp.zeros((8, LINE), jnp.int32)
            at = jnp.broadcast_to(parent, (8, LINE))
            for start in range(0, plan.beams, LINE):
                row = beam_row(r.node, plan, user, start // LINE)
                chunk = at_lane(jnp.broadcast_to(row, (8, LINE)), at & (LINE - 1))
                node = jnp.where(at >> 7 == start // LINE, chunk, node)
            # Without a table below, an edge is its place in this one: the line where the parent's
            # rows start, the lines after it, the lane.
            node = (((node[:1] >> 7) + line) << 7) + best.lane
        dead = best.key <= DEAD_KEY
        fields = (
            jnp.where(dead, 0, best.payloads[0]),
            jnp.where(dead, 0, parent),
            jnp.where(dead, DEAD_NODE, node),
            jnp.where(dead, -INFINITY, scores_of(best.key)),
        )
        if not plan.staged:
            for ref, value in zip(r.out, fields, strict=True):
                ref[pl.ds(user, 1), :] = value[:, : plan.num_beams]
            return
        # What one pass found may lie across two registers of the whole row.
        at_once = select.passes(plan.num_beams)[1]
        for ref, value in zip(r.staged, fields, strict=True):
            if value.dtype != jnp.int32:
                value = pltpu.bitcast(value, jnp.int32)
            # The pass's best come in the lanes from 0 on; they belong behind those of the passes
            # before.
            value = pltpu.roll(value, jax.lax.rem(best.first, LINE), 1)
            for lanes in range(-(-plan.num_beams // LINE)):
                at = pl.ds(lanes * plan.padded_users + user, 1)
                place = lanes * LINE + lanes_of((1, LINE))
                found = (place >= best.first) & (place < best.first + at_once)
                ref[at, :] = jnp.where(found, value, ref[at, :])

    select.select_best(
        r.keys,
        users=plan.users,
        lines=plan.rows * plan.lines,
        num_best=plan.num_beams,
        payloads=payloads,
        write=write,
        scratch=r.select,
        unroll=1 if plan.short else 16 if plan.rows * plan.lines <= LINE // 2 else 8,
    )
    for out, ref in zip(r.out, r.staged, strict=False):
        for start in range(0, plan.num_beams, LINE):
            width = min(LINE, plan.num_beams - start)
            value = ref[pl.ds(start // LINE * plan.padded_users, plan.users), :]
            if out.dtype != jnp.int32:
                value = pltpu.bitcast(value, jnp.float32)
            out[:, pl.ds(start, width)] = value[:, :width]
