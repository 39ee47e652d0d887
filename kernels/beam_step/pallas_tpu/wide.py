"""The beam step as one Pallas TPU kernel, where nodes have many children: bit masks over tokens.

Eight beams and 128 tokens make a vector register; so do eight beams' lines of the mask table, whose
bit `c` speaks of the `c`-th register of logits. Masking is therefore two operations, no gather.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Float32, Int32

from kernels.beam_step.pallas_tpu.vectors import LANES, SUBLANES
from kernels.beam_step.pallas_tpu.wide_best import find_best, take_maxima
from kernels.beam_step.pallas_tpu.wide_edges import find_edges, translate_edges
from kernels.beam_step.pallas_tpu.wide_plan import (
    CHUNKS_PER_LINE,
    LOWEST,
    Plan,
    Refs,
    for_tiles,
    loop,
    scratch_shapes,
)
from kernels.beam_step.pallas_tpu.wide_score import (
    child_sums,
    fetch_lines,
    row_sums,
    row_terms,
    stream_sums,
    wait_lines,
    write_scores,
)
from kernels.beam_step.pallas_tpu.x32 import in_32_bits
from kernels.dispatch import UnsupportedError
from kernels.trie import DEAD_NODE

# A table of so few lines is copied as a whole; the others line by line.
_RESIDENT_LINES = 512
# Columns and bytes of what a program sees of the logits, and bytes of the window of candidates, as
# float32. Each is in VMEM twice: the next program's come in beside this one's.
_MAX_BLOCK = 8192
_MAX_BLOCK_BYTES = 4 * 2**20
_MAX_WINDOW_BYTES = 8 * 2**20
# Flat indices of candidates travel as float32.
_MAX_FLAT = 2**24
_VMEM_BYTES = 64 * 2**20


def _kernel(*refs, plan: Plan) -> None:
    r = Refs(plan, refs)
    if plan.streams:
        number = pl.program_id(1)
        last = pl.cdiv(plan.vocab, plan.block) - 1
        pl.when(number == 0)(functools.partial(_begin_stream, r, plan))
        for_tiles(plan, plan.block // LANES, functools.partial(stream_sums, r, plan, number))
        pl.when(number == last)(functools.partial(_finish, r, plan))
        return
    r.overflow[...] = jnp.zeros((SUBLANES, LANES), jnp.float32)
    fetch = functools.partial(fetch_lines, r, plan)
    sums = functools.partial(row_sums, r, plan)
    registers = pl.cdiv(plan.vocab, LANES)
    # Of the whole row all logits count, so the sums need no lines, and copying these hides behind
    # them. Of the children alone, the lines say which count.
    if plan.mode == "vocab":
        for_tiles(plan, registers, lambda tiles: (fetch(tiles), sums(tiles)))
    else:
        for_tiles(plan, registers, fetch)
        wait_lines(r, plan)
        for_tiles(plan, registers, sums)
    _finish(r, plan)


def _begin_stream(r: Refs, plan: Plan) -> None:
    tiles = r.row_max.shape
    r.overflow[...] = jnp.zeros((SUBLANES, LANES), jnp.float32)
    r.row_max[...] = jnp.full(tiles, LOWEST)
    r.row_sum[...] = jnp.zeros(tiles, jnp.float32)
    r.row_bad[...] = jnp.zeros(tiles, jnp.float32)
    for_tiles(plan, 2, functools.partial(fetch_lines, r, plan))


def _finish(r: Refs, plan: Plan) -> None:
    """Does what comes after the rows' sums."""
    if plan.mode == "vocab" or plan.streams:
        wait_lines(r, plan)
    if plan.mode == "children" and plan.streams:
        for_tiles(plan, plan.chunks, functools.partial(child_sums, r, plan))
    row_terms(r, plan)
    for_tiles(plan, plan.chunks, functools.partial(write_scores, r, plan))
    loop(plan.users, plan.interleaved, functools.partial(find_best, r, plan))
    take_maxima(r, plan)
    loop(plan.users, plan.interleaved, functools.partial(find_edges, r, plan))
    _write(r, plan)


def _write(r: Refs, plan: Plan) -> None:
    if plan.below:
        translate_edges(r, plan)
    # Which candidate a flat index is: its column below, its beam above; `stride` is a power of two.
    score = r.best_score[...]
    flat = r.best_flat[...].astype(jnp.int32)
    alive = score > -jnp.inf
    results = (
        (r.out_token, jnp.where(alive, plan.first_token + (flat & (plan.stride - 1)), 0)),
        (r.out_parent, jnp.where(alive, flat >> int(math.log2(plan.stride)), 0)),
        (r.out_node, jnp.where(alive, r.edge[...], DEAD_NODE)),
        (r.out_score, jnp.where(score == 0, 0.0, score)),  # -0.0 as 0.0.
    )
    for out, result in results:
        result = result[: plan.users, : plan.num_beams]
        # The results of all users stay in VMEM, because a program's users need not be whole
        # registers of them. The last program may have users past the batch's end.
        if plan.users == plan.batch:
            out[...] = result
            continue
        for user in range(plan.users):
            place = r.first_user + user

            @pl.when(place < plan.batch)
            def _(out=out, row=result[user : user + 1], place=place):
                out[pl.ds(place, 1), :] = row


@in_32_bits
@functools.partial(
    jax.jit,
    static_argnames=("first_token", "span", "num_beams", "mode", "interpret", "unrolled"),
)
def wide_step(
    logits: Float[Array, "B M V"],
    node: Int32[Array, "B M"],
    score: Float32[Array, "B M"],
    mask: Int32[Array, "lines 128"],
    below: Int32[Array, "edge_lines 128"] | None,
    log_normalizer: Float32[Array, "B M"] | None,
    live_mask: Bool[Array, "B M span"] | None,
    *,
    first_token: int,
    span: int,
    num_beams: int,
    mode: str,
    interpret: Any = False,
    unrolled: bool | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Returns token, parent, node and score of the best beams, `[B, num_beams]` each.

    Scores, ties and dead beams are those of `kernels.beam_step.beam_step`.

    Args:
        logits: float32 or bfloat16 `[B, M, V]`; with mode "columns", the children's
            log-probabilities, float32 `[B, M, span]`.
        node: int32 `[B, M]`.
        score: float32 `[B, M]`.
        mask: of the `MaskTable`.
        below: of the `MaskTable`, or None.
        log_normalizer: float32 `[B, M]`, for the mode "given".
        live_mask: bool `[B, M, span]`, which children may win; all if None.
        first_token: of the `MaskTable`, static.
        span: of the `MaskTable`, static.
        num_beams: static.
        mode: static: "vocab", "children", "given" or "columns".
        interpret: static: as for `pallas_call`.
        unrolled: static: whether to unroll loops; None: unless interpreted.

    Raises:
        UnsupportedError: the window of candidates is too large for the chip's vector memory.
    """
    batch, beams, vocab = logits.shape
    offset = 0 if mode == "columns" else first_token
    chunks = pl.cdiv(min(span, vocab - offset), LANES)
    if chunks <= 0:
        return _nothing(batch, num_beams)
    rows = SUBLANES * pl.cdiv(beams, SUBLANES)
    padded_vocab = LANES * pl.cdiv(vocab, LANES)
    window = rows * chunks * LANES
    # The largest flat index, by `Plan.stride`; and the window's bytes.
    if rows * LANES * pl.next_power_of_2(chunks) > _MAX_FLAT or 4 * window > _MAX_WINDOW_BYTES:
        raise UnsupportedError(
            f"logits: {beams} beams of {chunks * LANES} candidates do not fit the vector memory"
        )
    block, block_rows = padded_vocab, rows
    if mode != "columns" and (padded_vocab > _MAX_BLOCK or 4 * rows * vocab > _MAX_BLOCK_BYTES):
        block = max(LANES, min(_MAX_BLOCK, _MAX_BLOCK_BYTES // (4 * rows * LANES) * LANES))
    users = max(1, min(batch, 16, _MAX_BLOCK_BYTES // (4 * rows * max(block, chunks * LANES))))
    # As even as the number of programs allows.
    users = pl.cdiv(batch, pl.cdiv(batch, users))
    if unrolled is None:
        unrolled = not interpret
    # What is mixed is compiled as often: little where there is much of it.
    small = rows // SUBLANES * chunks <= 32
    interleaved = 2 if num_beams > 2 * LANES or not small else 4 if num_beams > LANES else 16
    plan = Plan(
        batch=batch,
        users=users,
        interleaved=min(users, interleaved) if unrolled else 1,
        beams=beams,
        num_beams=num_beams,
        vocab=vocab,
        block=vocab if block == padded_vocab else block,
        first_token=first_token,
        offset=offset,
        chunks=chunks,
        mode=mode,
        live=live_mask is not None,
        below=below is not None,
        resident_mask=mask.shape[0] <= _RESIDENT_LINES,
        resident_below=below is not None and below.shape[0] <= _RESIDENT_LINES,
        unrolled=unrolled,
    )

    def whole(array):
        return pl.BlockSpec(array.shape, lambda *_: (0, 0))

    # A large table stays where it is, and lines are copied from it one by one.
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    operands: list[Array] = [logits]
    specs = [pl.BlockSpec((users, block_rows, block), lambda i, v, *_: (i, 0, v))]
    if plan.streams:
        operands.append(logits[:, :, offset : offset + chunks * LANES])
        specs.append(pl.BlockSpec((users, rows, chunks * LANES), lambda i, *_: (i, 0, 0)))
    operands += [node, score]
    specs += [whole(node), whole(score)]
    if plan.mode == "given":
        assert log_normalizer is not None
        operands.append(log_normalizer)
        specs.append(whole(log_normalizer))
    if live_mask is not None:
        operands.append(_live_lines(live_mask, plan))
        specs.append(pl.BlockSpec((users, rows, plan.blocks * LANES), lambda i, *_: (i, 0, 0)))
    operands.append(mask)
    specs.append(whole(mask) if plan.resident_mask else anywhere)
    if below is not None:
        operands.append(below)
        specs.append(whole(below) if plan.resident_below else anywhere)
    out = jax.ShapeDtypeStruct((batch, num_beams), jnp.int32)
    out_float = jax.ShapeDtypeStruct((batch, num_beams), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(pl.cdiv(batch, users), pl.cdiv(vocab, plan.block)),
            in_specs=specs,
            out_specs=[whole(out)] * 4,
            scratch_shapes=scratch_shapes(plan),
        ),
        out_shape=[out, out, out, out_float],
        compiler_params=pltpu.CompilerParams(
            disable_bounds_checks=True, vmem_limit_bytes=_VMEM_BYTES
        ),
        interpret=interpret,
        name="beam_step_wide",
    )(node, *operands)


def _nothing(batch: int, num_beams: int) -> tuple[Array, Array, Array, Array]:
    """Returns dead beams."""
    zeros = jnp.zeros((batch, num_beams), jnp.int32)
    return zeros, zeros, zeros + DEAD_NODE, jnp.full(zeros.shape, -jnp.inf)


def _live_lines(live_mask: jax.Array, plan: Plan) -> jax.Array:
    """Returns int32 `[B, M, blocks * 128]`: the filter in the layout of the mask's lines."""
    batch, beams, span = live_mask.shape
    tokens = plan.blocks * CHUNKS_PER_LINE * LANES
    bits = jnp.pad(live_mask, [(0, 0), (0, 0), (0, max(0, tokens - span))])[..., :tokens]
    bits = bits.reshape(batch, beams, plan.blocks, CHUNKS_PER_LINE, LANES).astype(jnp.int32)
    # Bit c of a lane is chunk c, as in the table. No two share a bit, so the sum is the union.
    weight = (1 << jnp.arange(CHUNKS_PER_LINE, dtype=jnp.int32))[:, None]
    return jnp.sum(bits * weight, axis=3).reshape(batch, beams, plan.blocks * LANES)
