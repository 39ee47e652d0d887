"""What the parts of the wide Pallas TPU kernel share: its sizes, its memory, its loops."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu.vectors import LANES, SUBLANES, iota

# A line's lower half-words: a bit for each of 16 chunks of 128 tokens (`kernels.trie.layout`).
CHUNKS_PER_LINE = 16
# The lowest float32. It stands in for -inf as a maximum, because -inf - -inf is NaN.
LOWEST = float(jnp.finfo(jnp.float32).min)
STACK = 3
"""The most candidates that a bin keeps; see `tpu.wide_best`."""

_GROUPS_PER_SET = 3
# Users whose selection may take the slow way, as a share: scores are not always so well spread.
_OVERFLOWS = 3e-4
# Vector registers of work above which a loop is written as one: code grows with them.
_STATIC_REGISTERS = 320


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static sizes of one kernel.

    Attributes:
        batch: `B`.
        users: users a program.
        interleaved: users whose instructions are mixed, so that latencies overlap.
        beams: `M`.
        num_beams: `K`.
        vocab: `V`, or the columns given.
        block: columns of logits a program sees at once; the whole of them where they fit.
        first_token: of the mask table, a multiple of 128.
        offset: column of the logits where the first token stands.
        chunks: groups of 128 tokens in the window of candidates.
        mode: "vocab", "children", "given" or "columns".
        live: whether there is a filter.
        below: whether edges are translated.
        resident_mask: whether the mask table is small enough to be copied as a whole.
        resident_below: whether the table that translates edges is.
        unrolled: whether to unroll loops over beams; an interpreter compiles loops sooner.
    """

    batch: int
    users: int
    interleaved: int
    beams: int
    num_beams: int
    vocab: int
    block: int
    first_token: int
    offset: int
    chunks: int
    mode: str
    live: bool
    below: bool
    resident_mask: bool
    resident_below: bool
    unrolled: bool

    @property
    def streams(self) -> bool:
        """Whether the logits come in several blocks, and the window on its own."""
        return self.block < self.vocab

    @property
    def static_registers(self) -> int:
        """Registers of work up to which loops over beams are unrolled."""
        return _STATIC_REGISTERS if self.unrolled else 0

    @property
    def groups(self) -> int:
        """Groups of eight beams."""
        return pl.cdiv(self.beams, SUBLANES)

    @property
    def blocks(self) -> int:
        """Lines a node."""
        return pl.cdiv(self.chunks, CHUNKS_PER_LINE)

    @property
    def stride(self) -> int:
        """Flat index of a candidate: beam * stride + column."""
        # A power of two, so that beam and column come back by a shift and a mask.
        return LANES * pl.next_power_of_2(self.chunks)

    @functools.cached_property
    def sets(self) -> list[list[tuple[int, int]]]:
        """Tiles, each a group and a chunk, that share stacks.

        Few, as a popular token is good for all of them, and so many that the best `K` and what
        comes with them hardly ever overflow a stack.
        """
        # Poisson's law: some 1.4 K candidates fall into n sets of 1,024 bins. A bin holds `share /
        # n` on average, and four or more in `(share / n)^4 / 24` of all cases; times 1,024 n bins
        # that is to be at most `_OVERFLOWS`, which gives n.
        share = 1.4 * self.num_beams / (SUBLANES * LANES)
        wanted = math.ceil((SUBLANES * LANES * share**4 / 24 / _OVERFLOWS) ** (1 / 3))
        number = max(wanted, pl.cdiv(self.groups, _GROUPS_PER_SET))
        sets = _split(self.groups, self.chunks, min(number, self.groups), 1)
        # Of these, as many as a set has chunks; none where they cannot overflow anyway.
        for parts in range(1, self.chunks + 1):
            sets = _split(self.groups, self.chunks, min(number, self.groups), parts)
            if len(sets) >= number or max(map(self.most_in_bin, sets)) <= STACK:
                break
        return sets

    @property
    def alone(self) -> bool:
        """Whether there is one beam, as at the root: all its candidates are kept, in order."""
        return self.beams == 1

    @property
    def stack_rows(self) -> int:
        """Rows of candidates that the selection looks at closely."""
        if self.alone:
            return SUBLANES * pl.cdiv(self.chunks, SUBLANES)
        return SUBLANES * self.depth * len(self.sets)

    def most_in_bin(self, tiles: list[tuple[int, int]]) -> int:
        """Returns how many of the tiles' candidates one bin could get."""
        counts = [0] * SUBLANES
        for group, chunk in tiles:
            for row in range(min(SUBLANES, self.beams - group * SUBLANES)):
                counts[(row + chunk) % SUBLANES] += 1
        return max(counts)

    @functools.cached_property
    def depth(self) -> int:
        """Candidates that a bin keeps."""
        return min(STACK, max(map(self.most_in_bin, self.sets)))

    @property
    def slots(self) -> int:
        """Candidates that the selection has room for; hardly ever are there more."""
        # More reach the bound than K, as some bins hold several of the best.
        expected = self.num_beams + max(24, 3 * self.num_beams // 5)
        return SUBLANES * pl.cdiv(expected, SUBLANES)

    @property
    def bin_rows(self) -> int:
        """Rows of 128 bins that the bound is found from."""
        return 2 if self.num_beams <= 80 else 4 if self.num_beams <= 160 else 8

    @property
    def lanes_out(self) -> int:
        """`K`, rounded up to whole lines."""
        return LANES * pl.cdiv(self.num_beams, LANES)

    @property
    def rows_out(self) -> int:
        """Users, rounded up to whole registers."""
        return SUBLANES * pl.cdiv(self.users, SUBLANES)


def _split(groups: int, chunks: int, ways: int, parts: int) -> list[list[tuple[int, int]]]:
    """Returns tiles in `ways` sets of groups, each of these in up to `parts` ranges of chunks."""
    length = pl.cdiv(chunks, parts)
    ranges = [range(s, min(s + length, chunks)) for s in range(0, chunks, length)]
    groups_of = [range(way, groups, ways) for way in range(ways)]
    return [[(g, c) for g in some for c in part] for some in groups_of for part in ranges]


def pick(condition: jax.Array, values: jax.Array) -> jax.Array:
    """Returns float32 `[rows, 1]`: each line's value where its only condition holds, else -inf."""
    return jnp.max(jnp.where(condition, values, -jnp.inf), axis=1, keepdims=True)


def to_column(row: jax.Array, rows: int) -> jax.Array:
    """Returns float32 `[rows, 1]` of `[1, 128]`."""
    shape = (rows, LANES)
    return pick(iota(shape, 0) == iota(shape, 1), jnp.broadcast_to(row, shape))


def to_row(column: jax.Array, fill: float = 0.0) -> jax.Array:
    """Returns `[1, 128]` of a column's first 128 rows; `fill`, 0 or `-inf`, beyond.

    A column is `[rows, 1]`, or `[rows, 128]` of equal lanes.
    """
    shape = (column.shape[0], LANES)
    diagonal = iota(shape, 0) == iota(shape, 1)
    if fill:
        return jnp.max(jnp.where(diagonal, column, fill), axis=0, keepdims=True)
    # Of one value and zeros the sum is that value, as is the maximum of one and -inf.
    spread = jnp.where(diagonal, column, jnp.zeros((), column.dtype))
    return jnp.sum(spread, axis=0, keepdims=True)


def loop(trips: int, unroll: int, body) -> None:
    """Calls `body([i, i + 1, …])` over `range(trips)`, up to `unroll` indices at a time."""
    if trips <= unroll:
        body(list(range(trips)))
        return

    @pl.loop(0, trips // unroll)
    def _(turn):
        body([turn * unroll + i for i in range(unroll)])

    if trips % unroll:
        body(list(range(trips - trips % unroll, trips)))


class Refs:
    """Names for the kernel's references, as far as they are there."""

    def __init__(self, plan: Plan, refs: tuple[Any, ...]):
        left: list[Any] = list(refs)
        self.first_user = pl.program_id(0) * plan.users
        self.node_scalar = left.pop(0)
        self.logits = left.pop(0)
        self.window: Any = left.pop(0) if plan.streams else self.logits
        self.window_start: Any = 0 if plan.streams else plan.offset
        self.node = left.pop(0)
        self.score = left.pop(0)
        self.normalizer: Any = left.pop(0) if plan.mode == "given" else None
        self.live: Any = left.pop(0) if plan.live else None
        self.mask = left.pop(0)
        self.below: Any = left.pop(0) if plan.below else None
        self.out_token, self.out_parent, self.out_node, self.out_score = left[:4]
        left = left[4:]
        (
            self.lines,
            self.allowed,
            self.row_max,
            self.row_sum,
            self.row_bad,
            self.candidates,
            self.stack_score,
            self.stack_place,
            self.best_score,
            self.best_flat,
            self.overflow,
            self.edge,
        ) = left[:12]
        self.line_semaphore = left[12]
        if plan.below:
            self.edge_scalar, self.below_lines, self.edge_semaphore, self.below_semaphore = left[
                13:
            ]


def scratch_shapes(plan: Plan) -> list[Any]:
    """Returns the kernel's own memory, in the order of `Refs`."""
    tiles = (plan.users, plan.groups, SUBLANES, LANES)
    lines = (plan.users, plan.blocks, plan.groups * SUBLANES, LANES)
    stacks = (plan.interleaved, plan.stack_rows, LANES)
    out = (plan.rows_out, plan.lanes_out)
    shapes = [
        pltpu.VMEM(lines, jnp.int32),
        pltpu.VMEM(lines, jnp.int32),
        pltpu.VMEM(tiles, jnp.float32),
        pltpu.VMEM(tiles, jnp.float32),
        pltpu.VMEM(tiles, jnp.float32),
        pltpu.VMEM((*tiles[:2], plan.chunks, *tiles[2:]), jnp.float32),
        pltpu.VMEM(stacks, jnp.float32),
        pltpu.VMEM(stacks, jnp.int32),
        pltpu.VMEM(out, jnp.float32),
        pltpu.VMEM(out, jnp.float32),
        pltpu.VMEM((SUBLANES, LANES), jnp.float32),
        pltpu.VMEM(out, jnp.int32),
        pltpu.SemaphoreType.DMA,
    ]
    if plan.below:
        winners = pl.cdiv(plan.num_beams, SUBLANES) * SUBLANES
        shapes += [
            pltpu.SMEM(out, jnp.int32),
            pltpu.VMEM((plan.users, winners, LANES), jnp.int32),
            pltpu.SemaphoreType.DMA,
            pltpu.SemaphoreType.DMA,
        ]
    return shapes


def for_tiles(plan: Plan, registers: int, body) -> None:
    """Calls `body([(user, group), …])` over all groups of eight beams.

    With static groups where the code stays small, which spares most of the address arithmetic.

    Args:
        plan: the sizes.
        registers: vector registers that the work on one tile keeps busy.
        body: what to call.
    """
    if plan.groups * registers <= plan.static_registers:
        # Unrolled over the users too, or over as many as make some 128 registers of work a turn.
        everything = plan.users * plan.groups * registers <= plan.static_registers
        together = plan.users if everything else max(1, 128 // (plan.groups * registers))

        def static_groups(users):
            body([(user, group) for user in users for group in range(plan.groups)])

        loop(plan.users, together, static_groups)
        return

    def dynamic_groups(tiles):
        users = [jax.lax.div(jnp.int32(tile), jnp.int32(plan.groups)) for tile in tiles]
        body([(user, tile - user * plan.groups) for user, tile in zip(users, tiles, strict=True)])

    loop(plan.users * plan.groups, max(1, 48 // registers) if plan.unrolled else 1, dynamic_groups)


def place_of(r: Refs, user: Any, plan: Plan) -> Any:
    """Returns the place in the batch of a program's user, the last one's where it is past that."""
    place = r.first_user + user
    return jnp.minimum(place, plan.batch - 1) if plan.batch % plan.users else place


def first_row(group: Any) -> Any:
    """Returns the first of a group's rows."""
    return (
        group * SUBLANES if isinstance(group, int) else pl.multiple_of(group * SUBLANES, SUBLANES)
    )
