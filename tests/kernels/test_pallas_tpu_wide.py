"""The wide kernel against a walk over all candidates, interpreted with race detection.

Most of the time goes into the programs, of which each shape is one, the larger the more chunks of
128 tokens there are. So the cases that can share a shape do, and the fewest chunks that take a way
through the kernel stand for it. Where all scores are equal the kernel takes one maximum after the
other, which race detection would look at a thousand times: those cases run without it.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step.pallas_tpu import wide
from kernels.beam_step.pallas_tpu.wide import wide_step
from kernels.dispatch import UnsupportedError
from tests.bounds import assert_close, log_softmax_roundings


class Table(NamedTuple):
    """A mask table: its lines, its bits `[nodes, span]`, its edges `[nodes, span]`, its nodes."""

    mask: np.ndarray
    child: np.ndarray
    edge: np.ndarray
    below: np.ndarray


class Step(NamedTuple):
    logits: np.ndarray
    node: np.ndarray
    score: np.ndarray
    log_normalizer: np.ndarray


def random_table(random: np.random.Generator, nodes: int, span: int, density: float) -> Table:
    child = random.random((nodes, span)) < density
    if nodes > 1:
        child[0] = False
    blocks = -(-span // 2048)
    edge = np.cumsum(child.reshape(-1)).reshape(child.shape) - child
    bits = np.pad(child, [(0, 0), (0, blocks * 2048 - span)]).reshape(nodes, blocks, 16, 128)
    mask = np.sum(bits * (1 << np.arange(16, dtype=np.int64))[:, None], axis=2)
    base = edge[:, ::2048]
    mask[..., 0] |= (base & 0xFFFF) << 16
    mask[..., 1] |= (base >> 16) << 16
    lines = mask.astype(np.uint32).view(np.int32).reshape(-1, 128)
    # Room for all, so that tables of one size are one shape.
    below = random.permutation(-(-(nodes * span + 1) // 128) * 128).astype(np.int32)
    return Table(lines, child, edge, below)


def random_step(
    random: np.random.Generator, batch: int, beams: int, vocab: int, nodes: int
) -> Step:
    return Step(
        logits=3 * random.standard_normal((batch, beams, vocab), np.float32),
        node=random.integers(0, nodes, (batch, beams)).astype(np.int32),
        score=-np.sort(random.exponential(3, (batch, beams))).astype(np.float32),
        log_normalizer=random.standard_normal((batch, beams), np.float32),
    )


def spoil(step: Step, nodes: int) -> Step:
    """Puts dead beams and broken rows everywhere; needs 10 beams."""
    step.score[:, ::5] = -np.inf
    step.score[0, 1], step.score[0, 2] = np.nan, np.inf
    step.node[:, 3], step.node[:, 4], step.node[:, 6] = -1, nodes + 5, 0
    step.logits[:, 7], step.logits[:, 8, ::2] = -np.inf, -np.inf
    step.logits[0, 1, 0], step.logits[-1, 2, -1] = np.nan, np.inf
    step.log_normalizer[0, 8], step.log_normalizer[-1, 9] = -np.inf, np.nan
    return step


def best_candidates(step, table, first_token, num_beams, mode, live):
    """Returns token, parent, node, score, found one candidate after the other."""
    rows = []
    for b in range(len(step.logits)):
        found = []
        for m, logits in enumerate(step.logits[b]):
            node, score = step.node[b, m], step.score[b, m]
            if not 0 <= node < len(table.child) or not np.isfinite(score):
                continue
            first = 0 if mode == "columns" else first_token
            window = logits[first : first + table.child.shape[1]]
            child = table.child[node, : len(window)]
            read = window[child] if mode == "columns" else logits
            if np.any(np.isnan(read) | (read == np.inf)):
                continue
            normalizer = step.log_normalizer[b, m] if mode == "given" else np.float32(0)
            if mode in ("vocab", "children"):
                counted = logits if mode == "vocab" else window[child]
                with np.errstate(divide="ignore"):
                    total = np.sum(np.exp(counted.astype(np.float64)))
                    normalizer = np.log(total).astype(np.float32)
            if not np.isfinite(normalizer):
                continue
            scores = score + (window - normalizer)
            winner = child & np.isfinite(scores)
            if live is not None:
                winner &= live[b, m, : len(window)]
            for t in np.flatnonzero(winner):
                new = table.below[table.edge[node, t]]
                found.append((-scores[t], m, first_token + t, new))
        found = [(t, m, new, -score) for score, m, t, new in sorted(found)[:num_beams]]
        rows.append(found + [(0, 0, -1, -np.inf)] * (num_beams - len(found)))
    return [np.array([[c[i] for c in row] for row in rows]) for i in range(4)]


def with_slow_way_cut_off(monkeypatch):
    """Makes an overflow of the fast way a wrong result, for runs that are traced anew."""
    monkeypatch.setattr(wide, "take_maxima", lambda refs, plan: None)


def check(
    step,
    table,
    num_beams,
    *,
    mode="given",
    first_token=0,
    live=None,
    dtype=jnp.float32,
    unrolled=None,
    run=wide_step,
    races=True,
):
    logits = jnp.asarray(step.logits, dtype)
    step = step._replace(logits=np.asarray(logits.astype(jnp.float32)))
    expected = best_candidates(step, table, first_token, num_beams, mode, live)
    if races:
        interpreter.reset_tpu_interpret_mode_state()
    actual = run(
        logits,
        jnp.asarray(step.node),
        jnp.asarray(step.score),
        jnp.asarray(table.mask),
        jnp.asarray(table.below.reshape(-1, 128)),
        jnp.asarray(step.log_normalizer) if mode == "given" else None,
        None if live is None else jnp.asarray(live),
        first_token=first_token,
        span=table.child.shape[1],
        num_beams=num_beams,
        mode=mode,
        interpret=pltpu.InterpretParams(detect_races=True) if races else True,
        unrolled=unrolled,
    )
    jax.block_until_ready(actual)
    if races:
        assert interpreter.races is not None
        assert not interpreter.races.races_found
    for want, got in zip(expected[:3], actual[:3], strict=True):
        np.testing.assert_array_equal(np.asarray(got), want)
    if mode in ("given", "columns"):
        np.testing.assert_array_equal(np.asarray(actual[3]), expected[3].astype(np.float32))
    else:
        terms = np.concatenate([step.logits.ravel(), expected[3].ravel()])
        scale = 2 * np.abs(terms[np.isfinite(terms)]).max(initial=0.0)
        assert_close(actual[3], expected[3], log_softmax_roundings(logits.shape[-1]), scale)


@pytest.mark.parametrize("mode", ["vocab", "children"])
def test_best_candidates_of_rows_with_dead_beams_and_broken_logits(mode):
    random = np.random.default_rng(1)
    table = random_table(random, 30, 384, 0.6)
    step = spoil(random_step(random, 2, 13, 300, 30), 30)
    live = random.random((2, 13, 384)) < 0.7 if mode == "children" else None
    check(step, table, 16, mode=mode, live=live)


def test_columns_are_log_probabilities_and_only_children_are_read():
    random = np.random.default_rng(2)
    table = random_table(random, 30, 384, 0.6)
    step = spoil(random_step(random, 2, 13, 384, 30), 30)
    check(step, table, 16, mode="columns", first_token=256)


# The first kind is that of the test above, for the mode "given". Of two tokens that are good for
# all beams a bin gets more than it keeps, and the column still has room.
@pytest.mark.parametrize(
    "kind", ["broken", "all equal", "rounded", "one beam", "one token", "two tokens"]
)
def test_broken_rows_ties_and_crowded_bins_are_exact(kind):
    random = np.random.default_rng(3)
    table = random_table(random, 30, 512, 0.9)
    step = random_step(random, 1, 20, 512, 30)
    if kind == "broken":
        check(spoil(step, 30), table, 30, races=False)
        return
    step.log_normalizer[:] = 0
    if kind == "all equal":
        step.logits[:], step.score[:] = 1, 0
    elif kind == "rounded":
        step = step._replace(logits=np.round(step.logits), score=np.round(step.score))
    elif kind == "one beam":
        step.score[:, 1:] -= 100
    else:
        step.logits[:, :, [300] if kind == "one token" else [300, 428]] += 30
    check(step, table, 30, races=False)


@pytest.mark.parametrize(
    ("batch", "span", "num_beams", "mode"),
    [(3, 256, 40, "vocab"), (2, 640, 130, "children"), (1, 1152, 150, "columns")],
)
def test_root_gives_more_beams_than_come_in(batch, span, num_beams, mode, monkeypatch):
    random = np.random.default_rng(4)
    table = random_table(random, 1, span, 0.9)
    step = random_step(random, batch, 1, span - 30, 1)
    live = random.random((batch, 1, span)) < 0.9 if mode == "children" else None
    with_slow_way_cut_off(monkeypatch)
    run = inspect.unwrap(wide_step)
    check(step, table, num_beams, mode=mode, live=live, run=run)


# One group of beams with more candidates than a column of 256 slots holds, and two groups; both
# are dealt to sets by chunks, and the two groups so that a bin may get more than it keeps.
@pytest.mark.parametrize(("beams", "num_beams"), [(3, 300), (11, 120)])
def test_few_beams_become_many(beams, num_beams, monkeypatch):
    random = np.random.default_rng(11)
    table = random_table(random, 5, 1280, 0.9)
    step = random_step(random, 1, beams, 1280, 5)
    step.score[:] /= 10
    with_slow_way_cut_off(monkeypatch)
    check(step, table, num_beams, run=inspect.unwrap(wide_step))


# More than the lanes of a line come out of one beam; two others tie with it, and come after it.
@pytest.mark.parametrize(("beams", "num_beams"), [(1, 130), (3, 40)])
@pytest.mark.parametrize("kind", ["all equal", "rounded", "zeros"])
def test_ties_at_the_root_are_exact(beams, num_beams, kind):
    random = np.random.default_rng(12)
    table = random_table(random, 2, 384, 0.9)
    step = random_step(random, 1, beams, 384, 1)
    step.node[:], step.log_normalizer[:], step.score[:] = 1, 0, 0
    kinds = {
        "all equal": np.ones_like(step.logits),
        "rounded": np.round(step.logits * 4) / 4,
        "zeros": np.where(step.logits > 0, np.float32(0.0), np.float32(-0.0)),
    }
    check(step._replace(logits=kinds[kind]), table, num_beams, races=False)


def test_fewer_candidates_than_beams_leave_dead_beams():
    random = np.random.default_rng(5)
    table = random_table(random, 2, 384, 0.03)
    # A program of the test above.
    check(random_step(random, 1, 3, 384, 2), table, 40, races=False)


def test_nodes_of_several_lines_and_tables_too_large_to_be_resident():
    random = np.random.default_rng(6)
    table = random_table(random, 260, 2176, 0.5)
    check(random_step(random, 1, 9, 2176, 260), table, 12)


@pytest.mark.parametrize("mode", ["vocab", "children"])
def test_large_vocabulary_is_streamed(mode):
    random = np.random.default_rng(7)
    table = random_table(random, 12, 512, 0.9)
    step = spoil(random_step(random, 2, 10, 9000, 12), 12)
    check(step, table, 8, mode=mode, first_token=8448, dtype=jnp.bfloat16)


def test_unrolled_as_on_a_chip():
    random = np.random.default_rng(8)
    table = random_table(random, 30, 256, 0.8)
    check(random_step(random, 3, 12, 256, 30), table, 20, mode="vocab", unrolled=True)


def test_batch_that_programs_do_not_divide(monkeypatch):
    monkeypatch.setattr(wide, "_MAX_BLOCK_BYTES", 2 * 4 * 8 * 128)  # Two users a program.
    random = np.random.default_rng(9)
    table = random_table(random, 8, 128, 0.8)
    step = random_step(random, 5, 3, 128, 8)
    check(step, table, 5, run=inspect.unwrap(wide_step))


def test_window_too_large_for_the_chip_is_refused():
    random = np.random.default_rng(10)
    table = random_table(random, 1, 65536, 0.001)
    with pytest.raises(UnsupportedError, match="vector memory"):
        check(random_step(random, 1, 64, 65536, 1), table, 4)
