"""The wide Pallas TPU kernel's last part: from the winners to their nodes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.vectors import LANES, SUBLANES, dot, iota, ones_where
from kernels.beam_step.pallas_tpu.wide_plan import (
    CHUNKS_PER_LINE,
    Plan,
    Refs,
    loop,
    to_column,
    to_row,
)

# As in `wide_score`.
_COPIES = 16


def find_edges(r: Refs, plan: Plan, users: list[Any]) -> None:
    """Writes the winners' edges: the base of their line and the children before them."""
    height = plan.groups * SUBLANES
    for user in users:
        lines = [r.lines[user, block] for block in range(plan.blocks)]
        line = jnp.concatenate(lines, axis=0)
        # bfloat16 holds whole numbers up to 256, so a line of int32 travels as four bytes.
        bytes_of = [
            ((line >> shift) & 0xFF).astype(jnp.float32).astype(jnp.bfloat16)
            for shift in (0, 8, 16, 24)
        ]
        pieces = jnp.concatenate(bytes_of, axis=1)
        winners = r.best_flat[pl.ds(user, 1), :]
        edges = []
        for start in range(0, plan.lanes_out, LANES):
            rows = min(LANES, pl.cdiv(plan.num_beams - start, SUBLANES) * SUBLANES)
            flat = to_column(winners[:, start : start + LANES], rows).astype(jnp.int32)
            beam = flat >> int(math.log2(plan.stride))
            column = flat & (plan.stride - 1)
            # A column is lane + 128 · chunk + 2048 · block; the blocks' lines lie one below the
            # other.
            chunk = (column >> 7) & (CHUNKS_PER_LINE - 1)
            place = beam + (column >> 11) * height if plan.blocks > 1 else beam

            mine = iota((rows, len(pieces)), 1) == place
            found = dot(ones_where(mine), pieces)
            piece = [found[:, k : k + LANES] for k in range(0, 4 * LANES, LANES)]
            # The lower 16 bits of each word mark children; the upper ones of lanes 0 and 1 hold the
            # edge of the line's first child (see `MaskTable`).
            bits = (piece[0] + piece[1] * 256.0).astype(jnp.int32)
            upper = piece[2] + piece[3] * 256.0

            lane = iota((rows, LANES), 1)
            # Children before this one: in all lanes those of earlier chunks, in earlier lanes that
            # of its own chunk.
            before = jax.lax.population_count(bits & ((1 << chunk) - 1))
            before += jnp.where(lane < (column & (LANES - 1)), (bits >> chunk) & 1, 0)
            low = before.astype(jnp.float32) + jnp.where(lane == 0, upper, 0.0)
            # At most 2^16 + 2^11, exact in float32; a carry into the upper half comes with the
            # addition.
            low = jnp.sum(low, axis=1, keepdims=True).astype(jnp.int32)
            high = jnp.sum(jnp.where(lane == 1, upper, 0.0), axis=1, keepdims=True)
            edge = to_row((high.astype(jnp.int32) << 16) + low)
            if plan.below:
                # A dead winner's index may lead anywhere, but must be an address.
                edge = jnp.clip(edge, 0, r.below.shape[0] * LANES - 1)
            edges.append(edge)
        r.edge[pl.ds(user, 1), :] = jnp.concatenate(edges, axis=1)


def translate_edges(r: Refs, plan: Plan) -> None:
    """Replaces edges by the nodes of the table below."""
    # Addresses are scalars: the edges are copied from the vector memory to the scalar one.
    copy = pltpu.make_async_copy(r.edge, r.edge_scalar, r.edge_semaphore)
    copy.start()
    copy.wait()

    def fetch(users):
        def start(slots):
            for user in users:
                for first in range(0, len(slots), _COPIES):
                    some = slots[first : first + _COPIES]
                    lines = [r.edge_scalar[user, slot] >> 7 for slot in some]
                    for slot, line in zip(some, lines, strict=True):
                        source, row = pl.ds(line, 1), pl.ds(slot, 1)
                        if plan.resident_below:
                            r.below_lines[user, row, :] = r.below[source, :]
                        else:
                            pltpu.make_async_copy(
                                r.below.at[source], r.below_lines.at[user, row], r.below_semaphore
                            ).start()

        loop(plan.num_beams, 80, start)

    loop(plan.users, 2, fetch)
    for user in range(0 if plan.resident_below else plan.users):
        target = r.below_lines.at[user, pl.ds(0, plan.num_beams)]
        pltpu.make_async_copy(target, target, r.below_semaphore).wait()

    def body(users):
        nodes = []
        starts = range(0, plan.lanes_out, LANES)
        for user in users:
            edges = r.edge[pl.ds(user, 1), :]
            for start in starts:
                rows = min(LANES, pl.cdiv(plan.num_beams - start, SUBLANES) * SUBLANES)
                lane = (edges[:, start : start + LANES] & (LANES - 1)).astype(jnp.float32)
                lane = to_column(lane, rows).astype(jnp.int32)
                line = r.below_lines[user, pl.ds(start, rows), :]
                # A gather within the 128 lanes of each winner's line.
                node = jnp.take_along_axis(line, jnp.broadcast_to(lane, line.shape), axis=1)
                nodes.append(to_row(node))
        for i, user in enumerate(users):
            part = nodes[i * len(starts) : (i + 1) * len(starts)]
            r.edge[pl.ds(user, 1), :] = jnp.concatenate(part, axis=1)

    loop(plan.users, plan.interleaved, body)
