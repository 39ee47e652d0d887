"""The beam step for GPUs: Triton kernels, called through jax-triton.

Two kernels, because a batch may be two users and a GPU has more than a hundred processors:

1. a program a beam reads its row of logits once, from memory to registers, makes the log-sum-exp of
   it, finds the children of the beam's node and writes their scores as integer keys; where
   a node has many children, only the best `num_beams` of them, found by bisecting a threshold. No
   more than these can be among the user's best.
2. a program a user bisects a threshold over all that its beams wrote, ranks the few that are left
   and turns them into beams.

What is written between the two is `[B, M, min(C, num_beams)]`; nothing of the logits' size is
stored. Where a row of logits is longer than a program's registers, a kernel before the first makes
log-sum-exps of its parts, so that long rows are read by many programs; where there are more
candidates a user than one program's registers hold, kernels between the two thin them out.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from kernels.beam_step.types import Beams, BeamStep
from kernels.dispatch import UnsupportedError
from kernels.trie import Live, Trie
from kernels.trie.tables import MaskTable, RowTable
from kernels.triton_launch import is_interpreted, launch

MAX_BEAMS = 512
"""The most beams that a user may keep."""

# Eight values a thread. A bisection is some ten rounds, each a count over all values of a program:
# with more warps a round is shorter, and with fewer values a thread needs fewer registers, so that
# more of them share a processor. With sixteen, the largest programs spill.
_VALUES_PER_WARP = 256
_MAX_WARPS = 32

# Values of a row or of a mask, or candidates of a user, that one program holds: what the most warps
# take. Of longer rows several programs make their parts. A multiple of a mask's 2048 tokens a line.
_ROW_TILE = _MERGE_TILE = _MAX_WARPS * _VALUES_PER_WARP

# Of short rows a program takes several, up to so many values, so that its warps have enough to do;
# but only where programs remain for every processor.
_PROGRAM_VALUES = 1024
_MIN_PROGRAMS = 256
_INTERPRETED_VALUES = 1 << 17

_INT32_MAX = 2**31 - 1

_capability: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "_capability", default=None
)

# How a kernel runs: compiled for this compute capability, for the GPU at hand (None), or not at
# all, in Triton's interpreter.
_Target = int | str | None
_INTERPRETER = "interpreter"


@contextlib.contextmanager
def compiling_for(compute_capability: int) -> Generator[None]:
    """Makes steps traced inside compile for a kind of GPU, whether or not one is at hand.

    For example to export a step for CUDA on a machine without a GPU; JAX's CUDA plugin must be
    installed, CUDA's libraries need not. JAX remembers what it has traced, so a function that was
    traced inside stays compiled for that GPU.

    Args:
        compute_capability: 90 for Hopper, 80 for Ampere.
    """
    token = _capability.set(compute_capability)
    try:
        yield
    finally:
        _capability.reset(token)


def beam_step(
    logits: Float[Array, "B M V"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    normalize: str,
    log_normalizer: Float32[Array, "B M"] | None,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.beam_step.beam_step`.

    Raises:
        UnsupportedError: more than `MAX_BEAMS` beams, more candidates than an int32 numbers, nodes
            of a row table with more than 8192 rows, no Triton, or no GPU.
    """
    if log_normalizer is not None:
        normalize = "given"
    target = _target()
    return _step(target, logits, beams, trie, level, num_beams, normalize, log_normalizer, live)


def beam_select(
    candidate_log_probs: Float32[Array, "B M C"],
    beams: Beams,
    trie: Trie,
    level: int,
    *,
    num_beams: int,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams; see `kernels.beam_step.beam_select`.

    Raises:
        UnsupportedError: as `beam_step`.
    """
    target = _target()
    return _step(target, candidate_log_probs, beams, trie, level, num_beams, "none", None, live)


def _target() -> _Target:
    """Returns how kernels are to run here, or says what is missing."""
    try:
        from kernels.beam_step.triton_gpu import select as kernels
    except ImportError as error:
        raise UnsupportedError(f"triton_gpu needs Triton: pip install triton ({error})") from error
    if is_interpreted(kernels.best_beams):
        return _INTERPRETER
    try:
        import jax_triton  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            f"triton_gpu needs jax-triton: pip install jax-triton ({error})"
        ) from error
    capability = _capability.get()
    if capability is None and jax.default_backend() != "gpu":
        raise UnsupportedError(
            f"triton_gpu: JAX's default backend is {jax.default_backend()!r}. It needs a GPU; "
            "without one, set TRITON_INTERPRET=1 before Python starts to run it in Triton's "
            "interpreter, or lower it inside triton_gpu.compiling_for(90)"
        )
    return capability


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _step(
    target: _Target,
    values: Float[Array, "B M V"] | Float32[Array, "B M C"],
    beams: Beams,
    trie: Trie,
    level: int,
    num_beams: int,
    normalize: str,
    log_normalizer: Float32[Array, "B M"] | None,
    live: Live | None,
) -> BeamStep:
    """Returns the best beams of logits, or with `normalize="none"` of log-probabilities."""
    columns = trie.max_children(level)
    if num_beams > MAX_BEAMS:
        raise UnsupportedError(f"triton_gpu: num_beams={num_beams}; at most {MAX_BEAMS}")
    if values.shape[1] * columns > _INT32_MAX:
        raise UnsupportedError(f"triton_gpu: {values.shape[1]} beams of {columns} columns each")
    live_mask = None if live is None else trie.live_children(live, beams.node, level)
    table = trie.table_at(level)
    rest = (num_beams, normalize, log_normalizer, live_mask)
    if isinstance(table, MaskTable):
        key, token, edge = _mask_candidates(target, values, beams, table, *rest)
    else:
        key, token, edge = _row_candidates(target, values, beams, table, level, *rest)
    is_last = level == table.capacities.level + table.capacities.num_levels - 1
    return _best(target, key, token, edge, table.below if is_last else None, num_beams)


def _row_candidates(
    target: _Target,
    values: Array,
    beams: Beams,
    table: RowTable,
    level: int,
    num_beams: int,
    normalize: str,
    log_normalizer: Array | None,
    live_mask: Array | None,
) -> list[Array]:
    """Returns keys, tokens and edges of the candidates, int32 `[B, M, kept]`."""
    from kernels.beam_step.triton_gpu import candidates as kernels

    sizes, field = table.capacities, table.field(level)
    span = sizes.columns[level - sizes.level]
    if span > _ROW_TILE:
        raise UnsupportedError(f"triton_gpu: {span} rows below a node; at most {_ROW_TILE}")
    batch, num_parents, width = values.shape
    row_sums = _row_sums(target, values, normalize)
    kept = _kept(span, num_beams)
    tile, whole = _power_of_two(span), _whole(width, normalize)
    return _launch(
        target,
        kernels.row_table_candidates,
        values,
        row_sums,
        None,
        log_normalizer,
        live_mask,
        beams.score,
        beams.node,
        table.words[field.word],
        out=[jax.ShapeDtypeStruct((batch, num_parents, kept), jnp.int32)] * 3,
        **_program(target, batch * num_parents, max(tile, whole)),
        NORMALIZE=normalize,
        WIDTH=width,
        WHOLE=whole,
        PARTS=-(-width // _ROW_TILE),
        SPAN=span,
        EDGES=sizes.edges,
        DIFFERENCE_BITS=field.difference_bits,
        PLACE=field.place,
        SHIFT=field.shift,
        CODE_BITS=field.bits,
        TILE=tile,
        KEPT=kept,
    )


def _mask_candidates(
    target: _Target,
    values: Array,
    beams: Beams,
    table: MaskTable,
    num_beams: int,
    normalize: str,
    log_normalizer: Array | None,
    live_mask: Array | None,
) -> list[Array]:
    """Returns keys, tokens and edges of the candidates, int32 `[B, M, tiles, kept]`."""
    from kernels.beam_step.triton_gpu import candidates as kernels

    sizes = table.capacities
    batch, num_parents, width = values.shape
    # Columns past the logits' end hold no candidates.
    columns = sizes.span
    if normalize != "none":
        columns = min(max(width - sizes.first_token, 1), columns)
    tile = min(_power_of_two(columns), _ROW_TILE)
    tiles = -(-columns // tile)
    shape = {
        "FIRST_TOKEN": sizes.first_token,
        "COLUMNS": columns,
        "NODES": sizes.nodes,
        "LINES": sizes.blocks,
        "TILE": tile,
    }
    row_sums = _row_sums(target, values, normalize)
    # With one tile a program sees all children of a beam and needs no other's sum.
    child_sums = None
    if tiles > 1 and normalize in ("children", "none"):
        (child_sums,) = _launch(
            target,
            kernels.mask_partial_sums,
            values,
            beams.node,
            table.mask,
            out=[jax.ShapeDtypeStruct((batch, num_parents, tiles), jnp.float32)],
            **_program(target, batch * num_parents, tile, tiles),
            WIDTH=width,
            BY_TOKEN=normalize != "none",
            **shape,
        )
    kept = _kept(min(columns, tile), num_beams)
    whole = _whole(width, normalize)
    return _launch(
        target,
        kernels.mask_table_candidates,
        values,
        row_sums,
        child_sums,
        log_normalizer,
        live_mask,
        beams.score,
        beams.node,
        table.mask,
        out=[jax.ShapeDtypeStruct((batch, num_parents, tiles, kept), jnp.int32)] * 3,
        **_program(target, batch * num_parents, max(tile, whole), tiles),
        NORMALIZE=normalize,
        WIDTH=width,
        WHOLE=whole,
        PARTS=-(-width // _ROW_TILE),
        SPAN=sizes.span,
        TILES=tiles,
        KEPT=kept,
        **shape,
    )


def _row_sums(target: _Target, values: Array, normalize: str) -> Array | None:
    """Returns the log-sum-exp of each part of each row, `[B, M, parts]`; None for short rows."""
    from kernels.beam_step.triton_gpu import candidates as kernels

    batch, num_parents, width = values.shape
    if normalize == "none" or width <= _ROW_TILE:
        return None
    parts = -(-width // _ROW_TILE)
    (sums,) = _launch(
        target,
        kernels.partial_sums,
        values,
        out=[jax.ShapeDtypeStruct((batch, num_parents, parts), jnp.float32)],
        **_program(target, batch * num_parents, _ROW_TILE, parts),
        WIDTH=width,
        TILE=_ROW_TILE,
    )
    return sums


def _best(
    target: _Target,
    key: Array,
    token: Array,
    edge: Array,
    below: Array | None,
    num_beams: int,
) -> BeamStep:
    """Returns the best of the candidates `[B, M, …]`, which lie in the order that ties go by."""
    from kernels.beam_step.triton_gpu import select as kernels

    batch, num_parents = key.shape[:2]
    per_user = candidates = key.size // batch
    index = None
    # Each round leaves `num_beams` a tile, at most a sixteenth of what it held, in the order that
    # ties go by.
    while candidates > _MERGE_TILE:
        tiles = -(-candidates // _MERGE_TILE)
        key, index = _launch(
            target,
            kernels.merge,
            key,
            index,
            out=[jax.ShapeDtypeStruct((batch, tiles, num_beams), jnp.int32)] * 2,
            grid=(batch, tiles),
            num_warps=_num_warps(_MERGE_TILE),
            CANDIDATES=candidates,
            TILE=_MERGE_TILE,
            KEPT=num_beams,
        )
        candidates = tiles * num_beams

    # Blocks are powers of two; what is past the end is masked.
    tile, beam_tile = _power_of_two(candidates), _power_of_two(num_beams)
    # Ranking compares all beams with each other, which asks for warps too.
    num_warps = _num_warps(max(tile, 8 * beam_tile))
    integers = jax.ShapeDtypeStruct((batch, num_beams), jnp.int32)
    floats = jax.ShapeDtypeStruct((batch, num_beams), jnp.float32)
    _, _, token, parent, node, score = _launch(
        target,
        kernels.best_beams,
        key,
        index,
        token,
        edge,
        below,
        out=[integers, integers, integers, integers, integers, floats],
        grid=(batch, 1),
        num_warps=num_warps,
        CANDIDATES=candidates,
        TILE=tile,
        PER_USER=per_user,
        PER_PARENT=per_user // num_parents,
        NUM_BEAMS=num_beams,
        BEAM_TILE=beam_tile,
        # All pairs at a time would not fit into registers; a comparison is short-lived.
        RANK_TILE=max(1, min(beam_tile, 2 * num_warps * _VALUES_PER_WARP // beam_tile)),
    )
    return BeamStep(token=token, parent=parent, node=node, score=score)


def _launch(
    target: _Target, kernel: Any, *arrays: Array | None, num_warps: int, **rest: Any
) -> list[Array]:
    capability = target if isinstance(target, int) else None
    return launch(kernel, *arrays, num_warps=num_warps, compute_capability=capability, **rest)


def _program(target: _Target, rows: int, width: int, parts: int = 1) -> dict[str, Any]:
    """Returns how rows of `width` values are dealt to programs, one for each part of them."""
    if target == _INTERPRETER:  # To which a program is the same work whatever its size.
        height = min(_INTERPRETED_VALUES // width, _power_of_two(rows))
    else:
        height = min(_PROGRAM_VALUES // width, rows // _MIN_PROGRAMS)
    # Triton's blocks have sizes that are powers of two.
    height = 1 << max(height, 1).bit_length() - 1  # The power of two that is in it.
    return {
        "grid": (-(-rows // height), parts),
        "num_warps": _num_warps(height * width),
        "ROWS": rows,
        "HEIGHT": height,
    }


def _kept(columns: int, num_beams: int) -> int:
    """Returns how many of a row's columns are written: a search must pay for itself."""
    return num_beams if columns >= 2 * num_beams else columns


def _whole(width: int, normalize: str) -> int:
    """Returns the power of two that holds a row, or the sums of its parts; 1 if not needed."""
    if normalize == "none":
        return 1
    return _power_of_two(width if width <= _ROW_TILE else -(-width // _ROW_TILE))


def _num_warps(values: int) -> int:
    return min(max(values // _VALUES_PER_WARP, 1), _MAX_WARPS)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
