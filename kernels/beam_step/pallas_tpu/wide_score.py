"""The wide Pallas TPU kernel's first half: lines of the mask table, normalisers, scores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.vectors import LANES, SUBLANES, iota, tree
from kernels.beam_step.pallas_tpu.wide_plan import (
    CHUNKS_PER_LINE,
    LOWEST,
    Plan,
    Refs,
    first_row,
    for_tiles,
    place_of,
)

# Lines copied at once: their arithmetic comes first, as a copy holds up what comes after it.
_COPIES = 16


def fetch_lines(r: Refs, plan: Plan, tiles: list[tuple[Any, Any]]) -> None:
    """Starts to copy eight beams' lines of the mask table; beams past the end copy the last one's.

    Scalar work, which the compiler hides behind the vector work around it.
    """
    nodes = r.mask.shape[0] // plan.blocks
    places = [
        (user, group, k)
        for user, group in tiles
        for k in range(SUBLANES)
        if not (
            plan.resident_mask and isinstance(group, int) and group * SUBLANES + k >= plan.beams
        )
    ]
    for start in range(0, len(places), _COPIES):
        lines = []  # All before the first copy, which would hold up the next one's arithmetic.
        for user, group, k in places[start : start + _COPIES]:
            beam = group * SUBLANES + k
            if not isinstance(beam, int):
                beam = jnp.minimum(beam, plan.beams - 1)
            elif beam >= plan.beams:
                beam = plan.beams - 1
            node = r.node_scalar[place_of(r, user, plan), beam]
            # Unsigned, a negative node is a large one: one comparison. What is fetched for it is
            # masked later.
            known = node.astype(jnp.uint32) < jnp.uint32(nodes)
            node = jnp.where(known, node, 0)
            lines.append(node if plan.blocks == 1 else node * plan.blocks)
        for (user, group, k), line in zip(places[start : start + _COPIES], lines, strict=True):
            row = pl.ds(first_row(group) + k, 1)
            for block in range(plan.blocks):
                source = pl.ds(line + block if block else line, 1)
                if plan.resident_mask:
                    r.lines[user, block, row, :] = r.mask[source, :]
                else:
                    pltpu.make_async_copy(
                        r.mask.at[source], r.lines.at[user, block, row], r.line_semaphore
                    ).start()


def wait_lines(r: Refs, plan: Plan) -> None:
    """Waits until all lines are there."""
    if not plan.resident_mask:
        # A wait counts bytes: these are as many as all lines' copies bring.
        pltpu.make_async_copy(r.lines, r.lines, r.line_semaphore).wait()


def _chunk(logits: Any, user: Any, group: Any, first: int) -> jax.Array:
    """Returns float32 `[8, 128]`: the logits of eight beams from a column on."""
    rows = pl.ds(first_row(group), SUBLANES)
    return logits[user, rows, pl.ds(first, LANES)].astype(jnp.float32)


def _is_child(lines: list[jax.Array], chunk: int, plan: Plan) -> jax.Array:
    """Returns bool `[8, 128]`: whether the tokens of a chunk are children, and have a logit."""
    line = lines[chunk // CHUNKS_PER_LINE]
    # 128 neighbouring tokens are one bit of a whole register of words.
    bit = (line & (1 << chunk % CHUNKS_PER_LINE)) != 0
    tokens = plan.vocab - plan.offset - chunk * LANES
    return bit if tokens >= LANES else bit & (iota(bit.shape, 1) < tokens)


def row_sums(r: Refs, plan: Plan, tiles: list[tuple[Any, Any]]) -> None:
    """Sums exponentials in each lane, relative to the lane's own maximum."""
    counted = plan.mode in ("vocab", "children")
    for user, group in tiles:
        rows = pl.ds(first_row(group), SUBLANES)
        lines = [r.lines[user, block, rows, :] for block in range(plan.blocks)]
        values, bad = [], []
        for first in range(0, plan.vocab, LANES):
            x = _chunk(r.logits, user, group, first)
            if first + LANES > plan.vocab:
                x = jnp.where(iota(x.shape, 1) < plan.vocab - first, x, -jnp.inf)
            if plan.mode == "vocab":
                values.append(x)
                continue
            chunk = (first - plan.offset) // LANES
            inside = 0 <= chunk < plan.chunks
            child = _is_child(lines, chunk, plan) if inside else None
            if plan.mode == "columns":
                assert child is not None
                # Of columns only the children's are read; the comparison is false for NaN and for
                # +inf.
                bad.append(jnp.where(child & ~(x < jnp.inf), 1.0, 0.0))
            else:
                bad.append(jnp.where(x < jnp.inf, 0.0, 1.0))
            if plan.mode == "children" and child is not None:
                values.append(jnp.where(child, x, -jnp.inf))
        if counted:
            # Each lane has a maximum of its own: nothing crosses lanes until all logits are read.
            maximum = jnp.maximum(tree(jnp.maximum, values), LOWEST)
            r.row_max[user, group] = maximum
            r.row_sum[user, group] = tree(jnp.add, [jnp.exp(x - maximum) for x in values])
        if bad:
            r.row_bad[user, group] = tree(jnp.maximum, bad)


def stream_sums(r: Refs, plan: Plan, number: Any, tiles: list[tuple[Any, Any]]) -> None:
    """Adds one block of the vocabulary to the sums of `row_sums`."""
    for user, group in tiles:
        values, bad = [], []
        for first in range(0, plan.block, LANES):
            x = _chunk(r.logits, user, group, first)
            if plan.vocab % plan.block:
                left = plan.vocab - first - number * plan.block
                x = jnp.where(iota(x.shape, 1) < left, x, -jnp.inf)
            if plan.mode == "vocab":
                values.append(x)
            else:
                bad.append(jnp.where(x < jnp.inf, 0.0, 1.0))
        if values:
            _add_exponentials(r, user, group, values)
        else:
            r.row_bad[user, group] = jnp.maximum(r.row_bad[user, group], tree(jnp.maximum, bad))


def child_sums(r: Refs, plan: Plan, tiles: list[tuple[Any, Any]]) -> None:
    """Adds the children's exponentials to sums that hold nothing yet."""
    for user, group in tiles:
        rows = pl.ds(first_row(group), SUBLANES)
        lines = [r.lines[user, block, rows, :] for block in range(plan.blocks)]
        values = []
        for chunk in range(plan.chunks):
            x = _chunk(r.window, user, group, chunk * LANES)
            values.append(jnp.where(_is_child(lines, chunk, plan), x, -jnp.inf))
        _add_exponentials(r, user, group, values)


def _add_exponentials(r: Refs, user: Any, group: Any, values: list[jax.Array]) -> None:
    before = r.row_max[user, group]
    maximum = jnp.maximum(tree(jnp.maximum, values), before)
    total = tree(jnp.add, [jnp.exp(x - maximum) for x in values])
    # The sum so far, brought to the new maximum. NaN and +inf stay in it.
    r.row_sum[user, group] = r.row_sum[user, group] * jnp.exp(before - maximum) + total
    r.row_max[user, group] = maximum


def row_terms(r: Refs, plan: Plan) -> None:
    """Finds each beam's normaliser and score, and which bits of its lines may win."""
    nodes = r.mask.shape[0] // plan.blocks

    def body(tiles):
        results = []  # Stored after all loads, which stores at unknown places would hold up.
        for user, group in tiles:
            place = pl.ds(place_of(r, user, plan), 1)
            node = r.node[place, :]
            row = jnp.where((node >= 0) & (node < nodes), r.score[place, :], -jnp.inf)
            parent = _beams_column(row, group, plan)
            if plan.mode in ("vocab", "children"):
                lane_max = r.row_max[user, group]
                maximum = jnp.max(lane_max, axis=1, keepdims=True)
                total = jnp.sum(
                    r.row_sum[user, group] * jnp.exp(lane_max - maximum), axis=1, keepdims=True
                )
                normalizer = maximum + jnp.log(total)
            elif plan.mode == "given":
                normalizer = _beams_column(r.normalizer[place, :], group, plan)
            else:
                normalizer = jnp.zeros((SUBLANES, 1), jnp.float32)
            # False for NaN as well. A broken beam loses all bits of its lines, and with them all
            # candidates.
            sound = (jnp.abs(normalizer) < jnp.inf) & (jnp.abs(parent) < jnp.inf)
            if plan.mode != "vocab":
                sound &= jnp.max(r.row_bad[user, group], axis=1, keepdims=True) == 0
            rows = pl.ds(first_row(group), SUBLANES)
            lines = []
            for block in range(plan.blocks):
                line = r.lines[user, block, rows, :]
                if plan.live:
                    line &= r.live[user, rows, pl.ds(block * LANES, LANES)]
                lines.append(jnp.where(sound, line, 0))
            results.append((normalizer, parent, lines))
        for (user, group), (normalizer, parent, lines) in zip(tiles, results, strict=True):
            # Maxima and sums are done with; their memory holds normalisers and parents' scores from
            # here on.
            r.row_max[user, group] = jnp.broadcast_to(normalizer, (SUBLANES, LANES))
            r.row_sum[user, group] = jnp.broadcast_to(parent, (SUBLANES, LANES))
            for block, line in enumerate(lines):
                r.allowed[user, block, pl.ds(first_row(group), SUBLANES), :] = line

    for_tiles(plan, 4, body)


def _beams_column(row: jax.Array, group: Any, plan: Plan) -> jax.Array:
    """Returns `[8, 1]`: eight beams' values out of `[1, M]`."""
    shape = (SUBLANES, plan.beams)
    mine = iota(shape, 1) == iota(shape, 0) + group * SUBLANES
    return jnp.max(jnp.where(mine, row, -jnp.inf), axis=1, keepdims=True)


def write_scores(r: Refs, plan: Plan, tiles: list[tuple[Any, Any]]) -> None:
    """Writes the candidates' scores, each chunk's beams rotated by its number.

    So a beam alone fills all bins, not only those of its own sublane.
    """
    for user, group in tiles:
        normalizer, parent = r.row_max[user, group], r.row_sum[user, group]
        rows = pl.ds(first_row(group), SUBLANES)
        lines = [r.allowed[user, block, rows, :] for block in range(plan.blocks)]
        scores = []
        for chunk in range(plan.chunks):
            x = _chunk(r.window, user, group, r.window_start + chunk * LANES)
            score = parent + (x - normalizer) if plan.mode != "columns" else parent + x
            child = _is_child(lines, chunk, plan)
            if plan.mode in ("given", "columns"):
                # A row's own log-sum-exp is at least each logit; a normaliser from elsewhere may be
                # so far below that the difference overflows.
                child &= score < jnp.inf
            score = jnp.where(child, score, -jnp.inf)
            scores.append(pltpu.roll(score, chunk % SUBLANES, 0) if chunk % SUBLANES else score)
        for chunk, score in enumerate(scores):
            r.candidates[user, group, chunk] = score
        # From here on the maxima of the scores; see `_bound`.
        r.row_bad[user, group] = tree(jnp.maximum, scores)
