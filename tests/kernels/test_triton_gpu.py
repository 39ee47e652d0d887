"""What is the Triton kernels' own: how rows and candidates are dealt to programs."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install triton")

from kernels.beam_step import (
    Beams,
    UnsupportedError,
    beam_step,
    default_implementation,
    record_implementations,
    reference,
    xla,
)
from kernels.beam_step.triton_gpu import select
from kernels.beam_step.triton_gpu import step as triton_gpu
from kernels.trie import DEAD_NODE, build_trie
from kernels.trie.tables import MaskTable, RowTable
from kernels.triton_launch import is_interpreted

pytestmark = pytest.mark.skipif(
    not is_interpreted(select.best_beams) and jax.default_backend() != "gpu",
    reason="needs a GPU, or TRITON_INTERPRET=1 in the environment",
)

B, M, V, NUM_BEAMS = 2, 6, 5000, 7
INF = np.float32(np.inf)


@pytest.fixture(scope="module")
def wide():
    """Two first tokens, 3,400 children each, spread over a long row of logits."""
    random = np.random.default_rng(0)
    seconds = [np.sort(random.choice(np.arange(200, V + 100), 3400, False)) for _ in range(2)]
    sids = [(first, second) for first in range(2) for second in seconds[first]]
    trie = build_trie(sids)
    assert isinstance(trie.table_at(1), MaskTable)
    return trie


@pytest.fixture
def small_programs(monkeypatch):
    """Programs so small that rows are cut into parts, masks into tiles, and merges follow."""
    monkeypatch.setattr(triton_gpu, "_ROW_TILE", 2048)
    monkeypatch.setattr(triton_gpu, "_MERGE_TILE", 256)
    triton_gpu._step.clear_cache()
    yield
    triton_gpu._step.clear_cache()


def some_step(seed=0):
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((B, M, V))).astype(np.float32)
    logits[0, 1, 4321] = np.nan  # Far from the row's start, and no matter whose child.
    logits[1, 2, :3000] = -INF
    node = np.array([[0, 1, 0, 1, DEAD_NODE, 1], [1, 0, 1, 0, 1, 2]], np.int32)
    score = -random.random((B, M)).astype(np.float32)
    return jnp.asarray(logits), Beams(jnp.asarray(node), jnp.asarray(score))


def assert_same(step, expected, bound=0.0):
    for field in ("token", "parent", "node"):
        assert getattr(step, field).tolist() == getattr(expected, field).tolist()
    dead = np.asarray(step.node) == DEAD_NODE
    assert np.all(np.asarray(step.score)[dead] == -INF)
    assert np.all(np.abs(np.asarray(step.score) - expected.score)[~dead] <= bound)


# Of a sum of V float32 terms that are at most their maximum, its logarithm, and two additions.
BOUND = float(np.finfo(np.float32).eps * (V + 64))


@pytest.mark.parametrize("normalize", ["vocab", "children", "given"])
@pytest.mark.parametrize("filtered", [False, True])
def test_long_rows_in_parts_give_the_references_step(wide, small_programs, normalize, filtered):
    logits, beams = some_step()
    live = wide.live(np.random.default_rng(1).random(6800) < 0.5) if filtered else None
    given = normalize == "given"
    arguments = {
        "num_beams": NUM_BEAMS,
        "normalize": "vocab" if given else normalize,
        "log_normalizer": jnp.asarray(beams.score) if given else None,
        "live": live,
    }
    step = triton_gpu.beam_step(logits, beams, wide, 1, **arguments)
    expected = reference.beam_step(logits, beams, wide, 1, **arguments)
    assert_same(step, expected, 0.0 if given else BOUND)


def test_long_rows_of_log_probabilities_in_parts(wide, small_programs):
    _, beams = some_step()
    random = np.random.default_rng(2)
    log_probs = random.standard_normal((B, M, wide.max_children(1))).astype(np.float32)
    valid = np.asarray(wide.children(beams.node, 1).valid)
    log_probs[~valid] = np.nan  # What is no child is not read.
    last = np.flatnonzero(valid[1, 0])[-1]
    log_probs[1, 0, last] = INF  # Kills a beam from its last tile.
    arguments = {"num_beams": NUM_BEAMS, "live": None}
    step = triton_gpu.beam_select(log_probs, beams, wide, 1, **arguments)
    expected = reference.beam_select(log_probs, beams, wide, 1, **arguments)
    assert_same(step, expected)
    assert 0 not in step.parent[1]


@pytest.mark.parametrize("num_beams", [1, 64, 100])
def test_ties_survive_merges(wide, small_programs, num_beams):
    beams = some_step()[1]
    beams = Beams(beams.node, jnp.zeros((B, M)))
    logits = jnp.asarray(np.random.default_rng(3).integers(0, 2, (B, M, V)), jnp.bfloat16)
    arguments = {
        "num_beams": num_beams,
        "normalize": "vocab",
        "log_normalizer": jnp.zeros((B, M)),
        "live": None,
    }
    step = triton_gpu.beam_step(logits, beams, wide, 1, **arguments)
    assert_same(step, xla.beam_step(logits, beams, wide, 1, **arguments))


def test_programs_of_a_gpus_size_give_the_same(monkeypatch):
    random = np.random.default_rng(4)
    trie = build_trie(random.integers(0, 20, (500, 3)))
    assert isinstance(trie.table_at(1), RowTable | MaskTable)
    prefixes = random.integers(0, 20, (B, 9, 2))
    logits = jnp.asarray(random.standard_normal((B, 9, 20)), jnp.float32)
    steps = []
    for values in (triton_gpu._INTERPRETED_VALUES, 32):
        monkeypatch.setattr(triton_gpu, "_INTERPRETED_VALUES", values)
        triton_gpu._step.clear_cache()
        for level in range(3):
            beams = Beams(trie.node_of(prefixes[..., :level]), jnp.zeros((B, 9)))
            fixed = {"normalize": "children", "log_normalizer": None, "live": None}
            steps.append(triton_gpu.beam_step(logits, beams, trie, level, num_beams=5, **fixed))
    triton_gpu._step.clear_cache()
    for large, small in zip(steps[:3], steps[3:], strict=True):
        assert_same(small, large, bound=1e-6)


def test_many_beams_of_many():
    trie = build_trie([(first, second) for first in range(512) for second in range(3)])
    logits = jnp.asarray(np.random.default_rng(5).standard_normal((1, 512, 512)), jnp.float32)
    beams = Beams(trie.node_of(np.arange(512)[None, :, None]), jnp.zeros((1, 512)))
    arguments = {"num_beams": 512, "normalize": "vocab", "log_normalizer": None, "live": None}
    step = triton_gpu.beam_step(logits, beams, trie, 1, **arguments)
    expected = reference.beam_step(logits, beams, trie, 1, **arguments)
    assert_same(step, expected, BOUND)


def test_more_beams_than_made_for_are_refused():
    trie = build_trie([(0,)])
    with pytest.raises(UnsupportedError, match="num_beams=513; at most 512"):
        triton_gpu.beam_select(
            jnp.zeros((1, 1, trie.max_children(0))),
            Beams.root(1),
            trie,
            0,
            num_beams=513,
            live=None,
        )


def test_without_triton_it_says_what_to_install_and_is_not_in_the_way(monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels.beam_step.triton_gpu.select", None)
    monkeypatch.delattr("kernels.beam_step.triton_gpu.select")
    arguments = jnp.zeros((1, 1, 2)), Beams.root(1), build_trie([(0,), (1,)]), 0
    with pytest.raises(UnsupportedError, match="pip install triton"):
        beam_step(*arguments, num_beams=1, implementation="triton_gpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_implementation() == "triton_gpu"
    with record_implementations() as ran:
        step = beam_step(*arguments, num_beams=1)
    assert ran == ["xla"]
    assert step.token.tolist() == [[0]]


def test_a_full_row_table_ends_with_its_last_node():
    sids = [(0, 0), (0, 1), (0, 2), (0, 3)] + [(i, j) for i in range(1, 63) for j in range(2)]
    trie = build_trie(sids)
    assert trie.table_at(1).capacities.edges == len(sids) == 128
    beams = Beams(trie.node_of(np.array([[[62]]])), jnp.zeros((1, 1)))
    step = triton_gpu.beam_step(
        jnp.zeros((1, 1, 63)),
        beams,
        trie,
        1,
        num_beams=4,
        normalize="vocab",
        log_normalizer=None,
        live=None,
    )
    assert step.token.tolist() == [[0, 1, 0, 0]]
    assert step.node.tolist() == [[126, 127, DEAD_NODE, DEAD_NODE]]


def test_it_runs_under_jit_with_a_step_behind_it(wide):
    logits, beams = some_step(6)

    @jax.jit
    def two_levels(logits):
        fixed = {"normalize": "vocab", "log_normalizer": None, "live": None}
        first = triton_gpu.beam_step(
            logits[:, :1], Beams.root(B), wide, 0, num_beams=M, **fixed
        ).beams
        return triton_gpu.beam_step(logits, first, wide, 1, num_beams=M, **fixed)

    step = two_levels(jnp.nan_to_num(logits))
    assert (np.asarray(step.node) != DEAD_NODE).all()
    assert (np.diff(step.score) <= 0).all()
    assert beams.node.shape == step.node.shape
