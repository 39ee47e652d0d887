"""What the row tables' TPU kernel is made of: its static sizes, its references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from kernels.beam_step.pallas_tpu import select
from kernels.dispatch import UnsupportedError
from kernels.trie.layout import LINE, Field

MAX_BEAMS = 512
MAX_LINES_PER_NODE = 32
CHUNKS = 16
"""Chunks of 128 logits that are in registers together."""
INFINITY = float("inf")
_GROUP = 16  # Users a program: what more of them would gain is lost to registers.
_BLOCK_BYTES = 4 << 20
VMEM_BYTES = 48 << 20
"""What scratch may take; blocks of logits come on top."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static sizes of a kernel.

    Attributes:
        mode: what the values are: `"vocab"`, `"children"` and `"given"`, logits normalised so;
            `"columns"`, log-probabilities of the columns of `trie.children`.
        users: users a program.
        beams: `M`.
        num_beams: beams that come out.
        vocab: `V`; not used for `"columns"`.
        block: logits a grid step, of each beam.
        tile: beams a tile: 8 of float32, 16 of bfloat16.
        lines: lines a beam.
        field: where the words hold the level.
        edges: rows of the table.
        below: whether edges are translated.
        live: whether there is a filter.
        short: whether to write loops rather than a long program: XLA on CPU compiles it sooner.
    """

    mode: str
    users: int
    beams: int
    num_beams: int
    vocab: int
    block: int
    tile: int
    lines: int
    field: Field
    edges: int
    below: bool
    live: bool
    short: bool

    @property
    def tiles(self) -> int:
        """Tiles a user."""
        return -(-self.beams // self.tile)

    @property
    def rows(self) -> int:
        """Beams a user, padded to whole tiles."""
        return self.tiles * self.tile

    @property
    def padded_users(self) -> int:
        """Users, padded to whole registers."""
        return -(-self.users // 8) * 8

    @property
    def staged(self) -> bool:
        """Whether results are gathered in scratch before they leave."""
        return self.num_beams > select.MAX_AT_ONCE

    @property
    def blocks(self) -> int:
        """Blocks of the vocabulary."""
        return 1 if self.mode == "columns" else -(-self.vocab // self.block)

    @property
    def streams(self) -> bool:
        """Whether the vocabulary comes in more than one block."""
        return self.blocks > 1


def make_plan(
    values: Array,
    word: Array,
    below: Array | None,
    live: Array | None,
    mode: str,
    field: Field,
    lines_per_node: int,
    num_beams: int,
    short: bool,
) -> Plan:
    """Returns the sizes for these arguments; see `tpu.rows.row_step`.

    Raises:
        UnsupportedError: sizes that the kernel is not made for.
    """
    batch, beams, vocab = values.shape
    if max(beams, num_beams) > MAX_BEAMS:
        raise UnsupportedError(f"{beams} beams to {num_beams}; this kernel takes {MAX_BEAMS}")
    if lines_per_node > MAX_LINES_PER_NODE:
        raise UnsupportedError(
            f"{lines_per_node * LINE} children a node; this kernel takes "
            f"{MAX_LINES_PER_NODE * LINE}"
        )
    # As many beams as a register has rows: 8 of 32 bits, 16 of 16 bits.
    tile = 16 if values.dtype == jnp.bfloat16 else 8
    rows = -(-beams // tile) * tile
    # Scratch of a user, some ten arrays; then as much of the vocabulary as fits beside it, twice.
    scratch = 10 * rows * lines_per_node * LINE * 4
    users = batch
    while users > _GROUP or (users > 8 and users * scratch > VMEM_BYTES // 2):
        # All users, or a multiple of 8: a block's second last axis is whole registers unless it is
        # the array's own.
        users = _GROUP if users > _GROUP else 8
    if users * scratch > VMEM_BYTES:
        raise UnsupportedError(f"{beams} beams of {lines_per_node} lines do not fit into VMEM")
    block = -(-vocab // LINE) * LINE
    while users * rows * block * values.dtype.itemsize > _BLOCK_BYTES and block > LINE * CHUNKS:
        # Halved, in whole groups of `CHUNKS` chunks: a loop over groups has no rest then.
        block = -(-block // (2 * LINE * CHUNKS)) * LINE * CHUNKS
    return Plan(
        mode=mode,
        users=users,
        beams=beams,
        num_beams=num_beams,
        vocab=vocab,
        block=block,
        tile=tile,
        lines=lines_per_node,
        field=field,
        edges=word.size,
        below=below is not None,
        live=live is not None,
        short=short,
    )


def scratch_shapes(plan: Plan) -> list[Any]:
    """Returns the scratch of a program, in the order in which `Refs` takes it."""
    beams = plan.users * plan.rows
    candidates = beams * plan.lines
    shapes: list[Any] = [
        pltpu.SemaphoreType.DMA((2,)),
        pltpu.VMEM((candidates, LINE), jnp.int32),  # words
        pltpu.VMEM((candidates, LINE), jnp.int32),  # keys
    ]
    shapes += select.scratch_shapes(plan.users)
    if plan.below:
        shapes.append(pltpu.VMEM((candidates, LINE), jnp.int32))
    if plan.mode != "columns":
        shapes += [pltpu.VMEM((beams, LINE), jnp.float32)] * 2  # lanes' maxima and sums
    if plan.streams:
        shapes.append(pltpu.VMEM((candidates, LINE), jnp.float32))  # children's logits
    if plan.beams > LINE:
        # Registers of 8 users, one below the other for each 128 beams.
        split = -(-plan.beams // LINE) * plan.padded_users
        shapes += [pltpu.VMEM((split, LINE), dtype) for dtype in (jnp.int32, jnp.float32)]
        if plan.mode == "given":
            shapes.append(pltpu.VMEM((split, LINE), jnp.float32))
    if plan.staged:
        staged = -(-plan.num_beams // LINE) * plan.padded_users
        shapes += [pltpu.VMEM((staged, LINE), jnp.int32)] * 4
    return shapes


class Refs:
    """The kernel's references by name; see `row_step` and `scratch_shapes` for what they hold."""

    # What a plan does without is None, and its mode never asks for it.
    log_normalizer: Any
    live: Any
    below_table: Any
    below: Any
    maxima: Any
    sums: Any
    gathered: Any

    def __init__(self, refs: Iterator[Any], plan: Plan):
        self.node_scalar = next(refs)
        self.node = next(refs)
        self.score = next(refs)
        self.log_normalizer = next(refs) if plan.mode == "given" else None
        self.values = next(refs)
        self.live = next(refs) if plan.live else None
        self.table = next(refs)
        self.below_table = next(refs) if plan.below else None
        self.out = [next(refs) for _ in range(4)]
        self.semaphore = next(refs)
        self.words = next(refs)
        self.keys = next(refs)
        self.select = [next(refs) for _ in range(3)]
        self.below = next(refs) if plan.below else None
        self.maxima = next(refs) if plan.mode != "columns" else None
        self.sums = next(refs) if plan.mode != "columns" else None
        self.gathered = next(refs) if plan.streams else None
        if plan.beams > LINE:
            self.node = _split_rows(self.node, next(refs), plan)
            self.score = _split_rows(self.score, next(refs), plan)
            if plan.mode == "given":
                self.log_normalizer = _split_rows(self.log_normalizer, next(refs), plan)
        self.staged = [next(refs) for _ in range(4)] if plan.staged else []


def beam_row(row_ref: Any, plan: Plan, user: Any, lanes: Any) -> jax.Array:
    """Returns 128 beams of a user along the lanes, `[1, 128]`; those from `128 lanes` on."""
    if plan.beams <= LINE:
        return row_ref[pl.ds(user, 1), :]
    return row_ref[pl.ds(lanes * plan.padded_users + user, 1), :]


def _split_rows(ref: Any, scratch: Any, plan: Plan) -> Any:
    """Returns a reference for `beam_row`; a row past 128 lanes cannot be addressed by its user."""
    if plan.beams <= LINE:
        return ref
    for lanes in range(-(-plan.beams // LINE)):
        scratch[pl.ds(lanes * plan.padded_users, plan.users), :] = ref[:, pl.ds(lanes * LINE, LINE)]
    return scratch
