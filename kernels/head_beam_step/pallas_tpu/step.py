"""The fused head as a Pallas kernel for TPU: the head streams through the chip once.

Blocks of the head's rows come into VMEM while the last block's logits, a product on the MXU, are
reduced there: lane by lane to a running maximum and sum, so that nothing crosses lanes before the
end, and to the children's logits by gathers within 128 lanes. Out go the rows' normalisers and the
children's logits; `beam_select` does the rest.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32, Int32

from kernels import dispatch
from kernels.beam_step import api as beam_step_api
from kernels.beam_step import xla as beam_step_xla
from kernels.beam_step.pallas_tpu.x32 import in_32_bits
from kernels.beam_step.types import Beams, BeamStep
from kernels.dispatch import UnsupportedError
from kernels.head_beam_step import xla
from kernels.head_beam_step.logits import logits_of
from kernels.head_beam_step.xla import log_probs_of
from kernels.trie import Live, Trie
from kernels.trie.tables import MaskTable

_LANES = 128
_SUBLANES = 8
# Groups of 8 rows that are reduced together, as one alone waits for its exponentials; fewer where
# there is more to pick.
_UNROLL = 16
# Rows of `hidden` that stay in VMEM while the head streams by; more of them read the head again.
_MOST_ROWS = (512, 256, 128, 64)
# Bytes of a block of the head: large enough for a DMA at full bandwidth.
_BLOCK_BYTES = 2 << 20
_MAX_BLOCK = 1024
# Half of what a v5e, v6e or v5p has.
_VMEM_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Static sizes of the kernel.

    Attributes:
        rows: rows of `hidden` a tile, a multiple of `8 · unroll`.
        unroll: groups of 8 rows that are reduced together.
        block: tokens a block, a multiple of 128.
        vocab: tokens.
        first_block: the block where the span that is written starts; None where tokens are picked.
        span_blocks: blocks that are written.
    """

    rows: int
    unroll: int
    block: int
    vocab: int
    first_block: int | None = None
    span_blocks: int = 0

    @property
    def num_blocks(self) -> int:
        """Blocks of the head, the last one perhaps not whole."""
        return pl.cdiv(self.vocab, self.block)


@functools.partial(jax.jit, static_argnames=("level", "num_beams", "normalize"))
def head_beam_step(
    hidden: Float[Array, "B M D"],
    head: Float[Array, "V D"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.head_beam_step.head_beam_step`.

    With `normalize="children"` nothing streams, and XLA's gathers and products are all it takes.

    Raises:
        UnsupportedError: the rows of the head are too long for VMEM.
    """
    if normalize == "children":
        log_probs = xla.candidate_log_probs(hidden, head, beams, trie, level, normalize)
    else:
        log_probs = _candidate_log_probs(hidden, head, beams, trie, level)
    options = {"num_beams": num_beams, "live": live}

    def interpreted(log_probs: Array) -> BeamStep:
        return beam_step_xla.beam_select(log_probs, beams, trie, level, **options)

    def compiled(log_probs: Array) -> BeamStep:
        names = dispatch.candidates(beam_step_api.IMPLEMENTATIONS, None, "tpu")
        with dispatch.record_implementations():  # The caller asked for one step, and hears of one.
            return dispatch.run(
                beam_step_api.IMPLEMENTATIONS,
                names,
                lambda module: module.beam_select(log_probs, beams, trie, level, **options),
            )

    # Interpreting the beam step's own kernel takes long and belongs to its own tests.
    return jax.lax.platform_dependent(log_probs, cpu=interpreted, default=compiled)


def _candidate_log_probs(
    hidden: Float[Array, "B M D"], head: Float[Array, "V D"], beams: Beams, trie: Trie, level: int
) -> Float32[Array, "B M C"]:
    rows = hidden.reshape(-1, hidden.shape[-1])
    child = trie.children(beams.node.reshape(-1), level)
    table = trie.table_at(level)
    if isinstance(table, MaskTable):
        sizes = sizes_of(rows.shape[0], head, 0)
        first, span = table.capacities.first_token, table.capacities.span
        # The span's blocks are written whole; its own columns are cut out of them below.
        start = min(first // sizes.block, sizes.num_blocks - 1)
        stop = min(pl.cdiv(first + span, sizes.block), sizes.num_blocks)
        sizes = dataclasses.replace(sizes, first_block=start, span_blocks=stop - start)
        normalizer, written = dispatch.interpreted_on_cpu(
            functools.partial(stream, sizes), rows, head, None
        )
        column = first - start * sizes.block
        missing = max(0, column + span - written.shape[1])
        picked = jnp.pad(written, [(0, 0), (0, missing)])[:, column : column + span]
    else:
        sizes = sizes_of(rows.shape[0], head, child.token.shape[1])
        normalizer, picked = dispatch.interpreted_on_cpu(
            functools.partial(stream, sizes), rows, head, child.token
        )
    picked = jnp.where(child.valid & (child.token < head.shape[0]), picked, -jnp.inf)
    return log_probs_of(picked, normalizer).reshape(*hidden.shape[:2], -1)


def sizes_of(num_rows: int, head: Float[Array, "V D"], columns: int) -> Sizes:
    """Returns sizes that fit VMEM, where so many logits a row are picked; 0 if blocks are written.

    Raises:
        UnsupportedError: there are none.
    """
    vocab, width = head.shape
    item = head.dtype.itemsize
    # Whole registers of 128 tokens; 0 where 128 rows of the head are more than a block may hold.
    block = min(_MAX_BLOCK, _BLOCK_BYTES // (width * item) // _LANES * _LANES)
    block = min(block, pl.cdiv(vocab, _LANES) * _LANES)
    unrolled = max(1, _UNROLL // max(1, pl.cdiv(columns, _LANES)))
    for most_rows in _MOST_ROWS:
        groups = pl.cdiv(pl.cdiv(num_rows, pl.cdiv(num_rows, most_rows)), _SUBLANES)
        rounds = pl.cdiv(groups, unrolled)
        unroll = pl.cdiv(groups, rounds)
        if item < 4 and rounds * unroll % 2:
            unroll += 1  # A register holds 16 rows of bfloat16.
        rows = rounds * unroll * _SUBLANES
        # What comes and goes is there twice; logits are picked beside their tokens.
        picked = 2 * columns if columns else block
        streamed = (rows + block) * width * item + rows * (picked + _LANES) * 4
        kept = rows * (2 * block + 2 * _LANES) * 4
        if block and 2 * streamed + kept <= _VMEM_BYTES:
            return Sizes(rows=rows, unroll=unroll, block=block, vocab=vocab)
    raise UnsupportedError(f"head: D={width}, {columns} children a node: too much for VMEM")


@in_32_bits
def stream(
    sizes: Sizes,
    rows: Float[Array, "R D"],
    head: Float[Array, "V D"],
    token: Int32[Array, "R C"] | None,
    *,
    interpret: Any,
) -> tuple[Float32[Array, " R"], Float32[Array, "R X"]]:
    """Returns the rows' normalisers, and the logits of `token` or of the blocks of the span."""
    num_rows, width = rows.shape
    padding = (0, -num_rows % sizes.rows)
    rows = jnp.pad(rows, [padding, (0, 0)])
    tiles = rows.shape[0] // sizes.rows
    in_specs = [
        pl.BlockSpec((sizes.rows, width), lambda tile, block: (tile, 0)),
        pl.BlockSpec((sizes.block, width), lambda tile, block: (block, 0)),
    ]
    operands = [rows, head]
    if token is not None:
        columns = token.shape[1]
        token = jnp.pad(token, [padding, (0, -columns % _LANES)])
        operands.append(token)
        in_specs.append(pl.BlockSpec((sizes.rows, token.shape[1]), lambda tile, block: (tile, 0)))
        picked = token.shape
        picked_spec = pl.BlockSpec((sizes.rows, token.shape[1]), lambda tile, block: (tile, 0))
    else:
        first, last = sizes.first_block or 0, sizes.span_blocks - 1
        columns = sizes.span_blocks * sizes.block
        picked = (rows.shape[0], columns)
        # The first block of the span stays in VMEM until its turn, the last one after it.
        picked_spec = pl.BlockSpec(
            (sizes.rows, sizes.block),
            lambda tile, block: (tile, jnp.clip(block - first, 0, last)),
        )
    # Each lane keeps a maximum and a sum, so that no block crosses lanes.
    lanes = (sizes.rows, _LANES)
    normalizer, picked = pl.pallas_call(
        functools.partial(_kernel, sizes),
        out_shape=(
            jax.ShapeDtypeStruct((rows.shape[0], _LANES), jnp.float32),
            jax.ShapeDtypeStruct(picked, jnp.float32),
        ),
        grid=(tiles, sizes.num_blocks),
        in_specs=in_specs,
        out_specs=(pl.BlockSpec(lanes, lambda tile, block: (tile, 0)), picked_spec),
        scratch_shapes=[
            pltpu.VMEM((sizes.rows, sizes.block), jnp.float32),
            pltpu.VMEM(lanes, jnp.float32),
            pltpu.VMEM(lanes, jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
        ),
        interpret=interpret,
        name="head_beam_step",
    )(*operands)
    return normalizer[:num_rows, 0], picked[:num_rows, :columns]


def _kernel(sizes: Sizes, hidden_ref, head_ref, *refs) -> None:
    """Reduces one block's logits.

    Refs: hidden `[rows, D]`, head `[block, D]`, where tokens are picked token `[rows, C]`; out the
    normalisers `[rows, 128]`, equal in all lanes, and the logits picked or written; scratch the
    block's logits, and each lane's maximum and its sum of exponentials below that maximum.
    """
    *token_refs, normalizer_ref, picked_ref, logits_ref, maximum_ref, sum_ref = refs
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        # The first block adds `0 · exp(-inf - shift)`, which is 0, as `shift` is finite.
        maximum_ref[...] = jnp.full_like(maximum_ref, -jnp.inf)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        if token_refs:
            picked_ref[...] = jnp.zeros_like(picked_ref)

    logits_ref[...] = logits_of(hidden_ref[...], head_ref[...])
    rest = sizes.vocab - (sizes.num_blocks - 1) * sizes.block
    if rest < sizes.block:

        @pl.when(block == sizes.num_blocks - 1)
        def _():
            # What lies behind the head's end is undefined.
            column = jax.lax.broadcasted_iota(jnp.int32, logits_ref.shape, 1)
            logits_ref[...] = jnp.where(column < rest, logits_ref[...], -jnp.inf)

    if sizes.first_block is not None:
        place = block - sizes.first_block

        @pl.when((place >= 0) & (place < sizes.span_blocks))
        def _():
            picked_ref[...] = logits_ref[...]

    chunks = sizes.block // _LANES

    def reduce(group: Array, _: None) -> None:
        group_rows = pl.ds(pl.multiple_of(group * _SUBLANES, _SUBLANES), _SUBLANES)
        logits = [
            logits_ref[group_rows, chunk * _LANES : (chunk + 1) * _LANES] for chunk in range(chunks)
        ]
        old = maximum_ref[group_rows]
        maximum = functools.reduce(jnp.maximum, logits, old)
        shift = _finite(maximum)
        # NaN and +inf end in the sum, whatever a maximum makes of NaN.
        total = sum_ref[group_rows] * jnp.exp(old - shift)
        sum_ref[group_rows] = total + sum(jnp.exp(values - shift) for values in logits)
        maximum_ref[group_rows] = maximum
        for first in range(0, picked_ref.shape[1] if token_refs else 0, _LANES):
            columns = pl.ds(first, _LANES)
            token = token_refs[0][group_rows, columns]
            # A gather reaches the 128 lanes of a register: each chunk is read at the token's lane,
            # and the chunk that holds the token gives its value.
            lane, wanted = token % _LANES, token // _LANES - block * chunks
            picked = picked_ref[group_rows, columns]
            for chunk, values in enumerate(logits):
                here = jnp.take_along_axis(values, lane, axis=1, mode="promise_in_bounds")
                picked = jnp.where(wanted == chunk, here, picked)
            picked_ref[group_rows, columns] = picked

    jax.lax.fori_loop(0, sizes.rows // _SUBLANES, reduce, None, unroll=sizes.unroll)

    @pl.when(block == sizes.num_blocks - 1)
    def _():
        # Only now across lanes: their sums brought to the row's maximum.
        maximum = maximum_ref[...]
        shift = _finite(jnp.max(maximum, axis=1, keepdims=True))
        total = jnp.sum(sum_ref[...] * jnp.exp(maximum - shift), axis=1, keepdims=True)
        normalizer_ref[...] = jnp.broadcast_to(shift + jnp.log(total), normalizer_ref.shape)


def _finite(maximum: Array) -> Array:
    """Returns what to subtract before an exponential: the maximum, or 0 where it is not finite."""
    return jnp.where(jnp.abs(maximum) < jnp.inf, maximum, 0.0)
