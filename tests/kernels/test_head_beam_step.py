"""One suite that every implementation of the fused head runs; judged by the unfused reference.

Integers are compared with `==`: the candidates' scores are either exact, or a test sees to it that
they lie apart by more than scores may differ. Scores are compared to 1e-5, an absolute bound, where
their normalisers, some 10, are themselves known to 1e-6.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.beam_step import (
    NORMALIZE,
    Beams,
    UnsupportedError,
    beam_step,
    record_implementations,
)
from kernels.beam_step import api as beam_step_api
from kernels.bench import head_beam_step as head_beam_step_bench
from kernels.head_beam_step import IMPLEMENTATIONS, head_beam_step
from kernels.head_beam_step.shapes import SHAPES, random_inputs, random_sids
from kernels.trie import DEAD_NODE, build_trie
from tests.kernels.narrow import in_32_bits

INF, NAN = np.float32(np.inf), np.float32(np.nan)
BOUND = 1e-5
B, M, D, NUM_BEAMS = 2, 7, 24, 6


IN_BOTH_WAYS = pytest.mark.parametrize("normalize", NORMALIZE)


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def implementation(request):
    return request.param


@pytest.fixture(autouse=True)
def second_half_by_xla(monkeypatch):
    """Hides the beam step's own kernel, which a CPU does not run here but would trace each time."""
    others = {k: v for k, v in beam_step_api.IMPLEMENTATIONS.items() if k != "pallas_tpu"}
    monkeypatch.setattr(beam_step_api, "IMPLEMENTATIONS", others)


@functools.cache
def catalogue(name):
    """Returns a trie and `V`."""
    random = np.random.default_rng(0)
    if name == "rows":  # Few children a node, tokens anywhere among several blocks.
        sids = random.integers(0, 4_700, (300, 3))
        sids[:, 0] = random.choice([5, 4_095, 4_096, 4_699], 300)
        return build_trie(sids), 4_701
    if name == "masks":  # Nodes of many children: a span of tokens inside the vocabulary.
        sids = 4_000 + random.integers(0, 300, (20_000, 2))
        return build_trie(sids), 4_701
    if name == "small":  # The vocabulary is not larger than the span.
        return build_trie(random.integers(0, 40, (500, 3))), 40
    raise AssertionError(name)


# One program instead of some 25 operations.
@jax.jit
def children_of(trie, node):
    return trie.children(node, 1)


@functools.cache
def beams_at(name, level):
    """Returns beams of depth `level`, best first, the last of them dead."""
    trie, vocab = catalogue(name)
    beams = Beams.root(B, M)
    for above in range(level):
        random = np.random.default_rng(above)
        logits = random.normal(size=(B, M, vocab)).astype(np.float32)
        beams = beam_step(logits, beams, trie, above, num_beams=M, implementation="xla").beams
    node, score = np.array(beams.node), np.array(beams.score)
    if level > 0:
        node[:, -1], score[:, -1] = DEAD_NODE, -INF
    return Beams(node, score)


def without_beams(beams, *dead):
    """Returns the beams with some of them dead."""
    score = beams.score.copy()
    score[:, list(dead)] = -INF
    return Beams(beams.node, score)


def factors(vocab, dtype="float32", seed=0):
    """Returns hidden states and a head whose logits have a standard deviation of 2."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(B, M, D)).astype(np.float32)
    head = (2 / np.sqrt(D) * random.normal(size=(vocab, D))).astype(np.float32)
    return hidden.astype(jnp.dtype(dtype)), head.astype(jnp.dtype(dtype))


@functools.cache
def compiled(implementation, level, normalize, num_beams):
    """Returns the jitted step, and asserts which implementation it is."""

    @jax.jit
    def step(hidden, head, beams, trie, live):
        hidden, head, beams = in_32_bits((hidden, head, beams))
        with record_implementations() as ran:
            result = head_beam_step(
                hidden,
                head,
                beams,
                trie,
                level,
                num_beams=num_beams,
                normalize=normalize,
                live=live,
                implementation=implementation,
            )
        assert ran == [implementation]
        return result

    return step


@functools.partial(jax.jit, static_argnames=("level", "normalize", "num_beams"))
def unfused(hidden, head, beams, trie, live, *, level, normalize, num_beams):
    logits = jnp.einsum(
        "bmd,vd->bmv",
        hidden.astype(jnp.float32),
        head.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return beam_step(
        logits,
        beams,
        trie,
        level,
        num_beams=num_beams,
        normalize=normalize,
        live=live,
        implementation="reference",
    )


def assert_equals_unfused(
    implementation, hidden, head, beams, trie, level, *, normalize="vocab", live=None
):
    step = compiled(implementation, level, normalize, NUM_BEAMS)
    got = jax.device_get(step(hidden, head, beams, trie, live))
    # One more than asked for: the last one must not be mistaken for the best left out.
    settings = {"level": level, "normalize": normalize, "num_beams": NUM_BEAMS + 1}
    expected = jax.device_get(unfused(hidden, head, beams, trie, live, **settings))
    scores = np.asarray(expected.score)
    with np.errstate(invalid="ignore"):
        gaps = scores[:, :-1] - scores[:, 1:]
    assert np.all((gaps > 2 * BOUND) | ~np.isfinite(gaps)), "not well separated: another seed"
    expected = jax.tree.map(lambda array: array[:, :NUM_BEAMS], expected)
    for field in ("token", "parent", "node"):
        assert np.array_equal(getattr(got, field), getattr(expected, field)), field
    finite = np.isfinite(scores[:, :NUM_BEAMS])
    assert np.array_equal(finite, np.isfinite(got.score))
    difference = np.asarray(got.score)[finite] - scores[:, :NUM_BEAMS][finite]
    assert np.all(np.abs(difference) <= BOUND)
    return got


# Every level of every kind; both dtypes and both normalisers at roots and below. Level 1 is that
# of the other tests, which share its programs.
CASES = [
    ("rows", 0, "vocab", "bfloat16"),
    ("rows", 1, "vocab", "float32"),
    ("rows", 1, "children", "float32"),
    ("rows", 2, "children", "bfloat16"),
    ("masks", 0, "children", "float32"),
    ("masks", 1, "vocab", "float32"),
    ("masks", 1, "children", "float32"),
    ("masks", 1, "vocab", "bfloat16"),
    ("small", 0, "vocab", "float32"),
    ("small", 1, "children", "bfloat16"),
]


@pytest.mark.parametrize(("name", "level", "normalize", "dtype"), CASES)
def test_it_equals_the_step_on_the_whole_product(implementation, name, level, normalize, dtype):
    trie, vocab = catalogue(name)
    hidden, head = factors(vocab, dtype)
    step = assert_equals_unfused(
        implementation, hidden, head, beams_at(name, level), trie, level, normalize=normalize
    )
    assert np.isfinite(step.score[:, 0]).all()


@functools.cache
def some_live(name, share):
    trie, _ = catalogue(name)
    allowed = np.random.default_rng(1).random(trie.item_leaf.size) < share
    return trie.live_excluding(np.arange(2 * B, dtype=np.int32).reshape(B, 2), allowed)


# The head ends before the vocabulary does: among the children, and in one case before all of them.
@IN_BOTH_WAYS
@pytest.mark.parametrize(("name", "vocab"), [("rows", 4_100), ("masks", 4_200), ("masks", 3_900)])
def test_a_filter_and_the_heads_end_remove_candidates_and_keep_the_normaliser(
    implementation, name, vocab, normalize
):
    trie, _ = catalogue(name)
    hidden, head = factors(vocab)
    for share in (0.5, 1.1):  # Half of the items, and all but the excluded ones.
        step = assert_equals_unfused(
            implementation,
            hidden,
            head,
            beams_at(name, 1),
            trie,
            1,
            normalize=normalize,
            live=some_live(name, share),
        )
        assert np.all(np.asarray(step.token) < vocab)
        assert np.any(np.asarray(step.node) != DEAD_NODE) == (vocab > 4_000)


@pytest.mark.parametrize("name", ["rows", "masks"])
def test_ties_go_to_the_lower_parent_then_the_lower_token(implementation, name):
    trie, vocab = catalogue(name)
    beams = beams_at(name, 1)
    zeros = np.zeros((B, M), np.float32)
    beams = Beams(np.broadcast_to(beams.node[:, :1], beams.node.shape), zeros)
    step = compiled(implementation, 1, "vocab", NUM_BEAMS)
    got = jax.device_get(step(np.zeros((B, M, D)), np.ones((vocab, D)), beams, trie, None))
    children = jax.device_get(children_of(trie, beams.node[:, 0]))
    for user in range(B):
        tokens = children.token[user][children.valid[user]]
        parent, place = np.divmod(np.arange(NUM_BEAMS), tokens.size)
        assert got.parent[user].tolist() == parent.tolist()
        assert got.token[user].tolist() == tokens[place].tolist()
    np.testing.assert_allclose(got.score, -np.log(vocab), atol=BOUND)


@pytest.mark.parametrize("name", ["rows", "masks"])
@IN_BOTH_WAYS
def test_a_broken_beam_dies_and_touches_no_other(implementation, name, normalize):
    trie, vocab = catalogue(name)
    hidden, head = factors(vocab)
    step = compiled(implementation, 1, normalize, NUM_BEAMS)
    expected = step(hidden, head, without_beams(beams_at(name, 1), 1, 3), trie, None)
    broken = hidden.copy()
    broken[:, 1, 0], broken[:, 3] = NAN, INF
    got = step(broken, head, beams_at(name, 1), trie, None)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, expected))


@pytest.mark.parametrize("name", ["rows", "masks"])
@pytest.mark.parametrize("place", [0, 4_095, 4_096, -1])
def test_infinity_anywhere_in_the_row_is_seen(implementation, name, place):
    # The last column is a logit of its own for beam 1, beyond float32, and nothing for the others.
    trie, vocab = catalogue(name)
    hidden, head = factors(vocab)
    hidden[:, :, -1], hidden[:, 1, -1], head[:, -1] = 0.0, 1e30, 0.0
    beams = beams_at(name, 1)
    beams = Beams(beams.node, np.where(np.arange(M) == 1, np.float32(9.0), beams.score))
    step = compiled(implementation, 1, "vocab", NUM_BEAMS)
    assert np.all(step(hidden, head, beams, trie, None).parent[:, 0] == 1)
    expected = step(hidden, head, without_beams(beams, 1), trie, None)
    broken = head.copy()
    broken[place, -1] = 1e30
    got = step(hidden, broken, beams, trie, None)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, expected))


@pytest.mark.parametrize("name", ["rows", "masks"])
def test_minus_infinity_is_a_dead_candidate_not_a_dead_beam(implementation, name):
    trie, vocab = catalogue(name)
    hidden, head = factors(vocab)
    hidden = np.abs(hidden)
    beams = beams_at(name, 1)
    child = jax.device_get(children_of(trie, beams.node[:, 0]))
    for user in range(B):
        head[child.token[user, np.argmax(child.valid[user])]] = -INF
    assert_equals_unfused(implementation, hidden, head, beams, trie, 1)
    nothing = compiled(implementation, 1, "vocab", NUM_BEAMS)(
        hidden, np.full_like(head, -INF), beams, trie, None
    )
    assert np.all(np.asarray(nothing.node) == DEAD_NODE)


@pytest.mark.parametrize("name", ["rows", "masks"])
def test_among_the_children_only_their_rows_are_read(implementation, name):
    trie, vocab = catalogue(name)
    hidden, head = factors(vocab)
    beams = beams_at(name, 1)
    child = jax.device_get(children_of(trie, beams.node))
    read = np.unique(child.token[child.valid])
    step = compiled(implementation, 1, "children", NUM_BEAMS)
    expected = step(hidden, head, beams, trie, None)
    spoilt = np.full_like(head, NAN)
    spoilt[read] = head[read]
    got = step(hidden, spoilt, beams, trie, None)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, expected))


@pytest.mark.parametrize("name", ["rows", "masks"])
def test_the_logits_are_never_stored(name):
    trie, _ = catalogue(name)
    vocab = 200_000
    hidden = jax.ShapeDtypeStruct((B, M, D), jnp.float32)
    head = jax.ShapeDtypeStruct((vocab, D), jnp.float32)
    temporary = {
        implementation: compiled(implementation, 1, "vocab", NUM_BEAMS)
        .lower(hidden, head, beams_at(name, 1), trie, None)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for implementation in ("reference", "xla")
    }
    logits = 4 * B * M * vocab
    assert temporary["reference"] >= logits
    assert temporary["xla"] < logits / 8


def test_rows_too_long_for_the_kernel_are_unsupported():
    trie, vocab = catalogue("small")
    hidden, head = jnp.zeros((B, M, 40_000)), jnp.zeros((vocab, 40_000))
    step = compiled("pallas_tpu", 1, "vocab", NUM_BEAMS)
    with pytest.raises(UnsupportedError, match="D=40000"):
        step(hidden, head, beams_at("small", 1), trie, None)


def test_a_language_models_head_equals_the_whole_product():
    shape = dataclasses.replace(SHAPES["language_model_64"], batch=1, beams=8)
    trie = build_trie(random_sids(shape))
    hidden, head, beams = random_inputs(shape, trie)
    step = assert_equals_unfused("xla", hidden, head, beams, trie, shape.level)
    assert np.all(np.asarray(step.token) >= shape.vocab - shape.codes)


def test_the_benchmark_compares_with_the_unfused_step():
    shape = dataclasses.replace(SHAPES["language_model_64"], vocab=9_000, width=8)
    rows = list(head_beam_step_bench.time_shape(shape, repeats=1))
    assert [row["implementation"] for row in rows] == ["xla", head_beam_step_bench.UNFUSED]
    for row in rows:
        assert json.loads(json.dumps(row)) == row
        assert row["microseconds"] > 0
        assert row["floor_bytes"] == 9_000 * 8 * 4
    assert rows[1]["unfused_ratio"] == 1.0
    with pytest.raises(ValueError, match=r"\['nowhere'\] are not known"):
        next(head_beam_step_bench.run(["nowhere"]))


GOOD = {"level": 1, "num_beams": 2}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": jnp.zeros((B, D))}, r"hidden: shape \(2, 24\); it must be \[B, M, D\]"),
        ({"hidden": jnp.zeros((B, M, D), jnp.int32)}, "hidden: .*int32"),
        ({"head": jnp.zeros((40, D + 1))}, r"head: float32 \(40, 25\); it must be float32 \[V, 24"),
        ({"head": jnp.zeros((40, D), jnp.bfloat16)}, "head: bfloat16 .* must be float32"),
        ({"head": np.zeros((40, D))}, "head: .*float64"),
        ({"hidden": jnp.zeros((B, M + 1, D))}, r"beams.node: shape \(2, 7\)"),
        ({"level": 3}, "level: 3; the trie's levels are 0 to 2"),
        ({"num_beams": 0}, "num_beams: 0"),
        ({"normalize": "softmax"}, "normalize: 'softmax'"),
        ({"live": 3}, "live: a int"),
        ({"implementation": "cuda"}, "implementation: 'cuda' is not known; there are "),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(changed, message):
    trie, vocab = catalogue("small")
    hidden, head = factors(vocab)
    good = {"hidden": hidden, "head": head, "beams": beams_at("small", 1), "trie": trie} | GOOD
    with pytest.raises(ValueError, match=message):
        head_beam_step(**(good | changed))


def test_a_head_narrower_than_the_codebook_is_an_error():
    trie = build_trie([(0, 1), (1, 0)], codebook_sizes=(3, 9))
    with pytest.raises(ValueError, match="head: V=8, but the codebook of level 1 has 9 codes"):
        head_beam_step(jnp.zeros((1, 1, 4)), jnp.zeros((8, 4)), Beams.root(1), trie, 1, num_beams=2)
