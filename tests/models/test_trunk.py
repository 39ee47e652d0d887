"""The trunk: masks, packing, positions, heads, scan, remat, dropout, dtypes, names."""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from minirec.models import CausalMask, IsolatedCandidatesMask, Trunk, TrunkConfig
from minirec.models.attention import attend
from minirec.models.layers import rope, rope_angles
from tests.bounds import FUNCTION, assert_close, log_softmax_roundings, trunk_roundings

CONFIG = TrunkConfig(
    num_layers=3,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=20,
    qk_norm=True,
    qkv_bias=True,
    dropout=0.25,
)


@pytest.fixture(scope="module")
def trunk():
    trunk = Trunk(CONFIG, rngs=nnx.Rngs(0))
    for seed, (_, param) in enumerate(nnx.to_flat_state(nnx.state(trunk, nnx.Param))):
        if param.get_value().ndim <= 3:  # Scales and biases: away from one and zero.
            param[...] = np.asarray(param[...]) + 0.3 * np.asarray(normal(seed, *param.shape))
    return trunk


# What is computed is under test: compile fast, run slowly.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@fast_jit
def run(trunk, embeddings, positions, mask_rule, segment_ids, dropout_key=None):
    return trunk(embeddings, positions, mask_rule, segment_ids=segment_ids, dropout_key=dropout_key)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def attention_error(query, key, value):
    """Returns the roundings of an attention's results, and the size of what they are taken of.

    Scores, which are sums of products of queries and keys, are off by a share of their size; a
    weight of the softmax by as much as its score; a result by a share of the values.
    """
    width, length = query.shape[-1], key.shape[1]
    scores = 1 + float(jnp.abs(query).max() * jnp.abs(key).max()) * width**0.5
    roundings = width + 1 + log_softmax_roundings(length) + length
    return roundings, scores * float(jnp.abs(value).max())


def with_config(trunk, **changes):
    """The same parameters under a changed config."""
    other = Trunk(dataclasses.replace(trunk.config, **changes), rngs=nnx.Rngs(7))
    nnx.update(other, nnx.state(trunk))
    return other


def test_packed_rows_give_the_hidden_states_of_padded_ones(trunk):
    lengths = [4, 5, 2]
    examples = [normal(seed, n, 16) for seed, n in enumerate(lengths)]
    T = 12
    packed = np.concatenate([*examples, np.full((1, 16), 9.0, np.float32)])[None]
    positions = np.concatenate([*map(np.arange, lengths), [0]])[None]
    segment_ids = np.repeat([1, 2, 3, 0], [*lengths, 1])[None]
    hidden = run(trunk, packed, positions, CausalMask(), segment_ids)[0]

    padded = np.stack([np.pad(x, ((0, T - len(x)), (0, 0)), constant_values=5.0) for x in examples])
    positions = np.broadcast_to(np.arange(T), (3, T))
    segment_ids = (positions < np.array(lengths)[:, None]).astype(np.int32)
    apart = run(trunk, padded, positions, CausalMask(), segment_ids)
    assert np.isfinite(apart).all()
    apart = np.concatenate([apart[i, :n] for i, n in enumerate(lengths)])
    assert_close(hidden[: sum(lengths)], apart, trunk_roundings(CONFIG, T))


def test_a_token_sees_only_itself_and_what_came_before(trunk):
    x = normal(0, 3, 12, 16)
    positions = np.broadcast_to(np.arange(12), (3, 12))
    ones = np.ones((3, 12), np.int32)
    changed = np.array(x)
    changed[:, 7] += 1
    before = run(trunk, x, positions, CausalMask(), ones)
    after = run(trunk, changed, positions, CausalMask(), ones)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (np.abs(before - after)[:, 7:].max(-1) > 1e-4).all()


def test_causal_mask_by_hand():
    mask = CausalMask()(jnp.array([[1, 1, 2, 2, 0, 0]]))[0]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_isolated_candidates_see_the_history_and_themselves():
    rule = IsolatedCandidatesMask(jnp.array([[0, 0, 1, 1, 2, 0]]))
    mask = rule(jnp.array([[1, 1, 1, 1, 1, 0]]))[0]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_a_candidates_hidden_state_does_not_depend_on_the_others(trunk):
    """Each candidate at the position behind the history equals that candidate alone."""
    x = normal(3, 1, 7, 16)
    history, candidates = 4, 3
    positions = np.array([[*range(history), *[history] * candidates]])
    rule = IsolatedCandidatesMask(np.array([[0] * history + [1, 2, 3]]))
    hidden = run(trunk, x, positions, rule, np.ones((1, 7), np.int32))[0, history:]
    rows = np.stack([np.asarray(x)[0, [*range(history), i]] for i in (4, 5, 6)])
    positions = np.broadcast_to(np.arange(5), (3, 5))
    alone = run(trunk, rows, positions, CausalMask(), np.ones((3, 5), np.int32))[:, -1]
    assert_close(hidden, alone, trunk_roundings(CONFIG, 7))


def test_rotary_scores_depend_on_the_distance_only():
    q, k = normal(0, 1, 8), normal(1, 1, 8)

    def score(query_position, key_position):
        angles = [rope_angles(jnp.array(p), 8, 10_000.0) for p in (query_position, key_position)]
        return float(jnp.sum(rope(q, angles[0]) * rope(k, angles[1])))

    # An angle of 105 is itself rounded: to 105 units of what an angle of 1 is rounded to.
    size = float(jnp.linalg.norm(q) * jnp.linalg.norm(k))
    assert_close(score(5, 2), score(105, 102), 2 * 105 + FUNCTION + 8, scale=size)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-3)
    turned = rope(q, rope_angles(jnp.array(3), 8, 10_000.0))
    # Half-split pairs: element 1 turns with element 5, by 3 · 10000^(-2/8).
    angle = 3 * 10_000 ** (-2 / 8)
    expected = q[0, 1] * np.cos(angle) - q[0, 5] * np.sin(angle)
    assert_close(turned[0, 1], expected, 3 + FUNCTION + 3, scale=jnp.abs(q).max())


def test_grouped_heads_equal_repeated_key_and_value_heads():
    query, key, value = normal(0, 2, 5, 6, 4), normal(1, 2, 5, 2, 4), normal(2, 2, 5, 2, 4)
    mask = CausalMask()(jnp.ones((2, 5), jnp.int32))
    ours = fast_jit(attend)
    grouped = ours(query, key, value, mask)
    repeated = ours(query, jnp.repeat(key, 3, axis=2), jnp.repeat(value, 3, axis=2), mask)
    oracle = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
    for other in (repeated, oracle):
        assert_close(grouped, other, *attention_error(query, key, value))


@pytest.mark.parametrize("kv_heads", [2, 6])
def test_the_written_out_attention_gradient_is_that_of_the_oracle(kv_heads):
    arguments = normal(0, 2, 5, 6, 4), normal(1, 2, 5, kv_heads, 4), normal(2, 2, 5, kv_heads, 4)
    weight = normal(3, 2, 5, 6, 4)
    mask = CausalMask()(jnp.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]]))

    def ours(*qkv):
        return jnp.sum(attend(*qkv, mask) * weight)

    def oracle(*qkv):
        return jnp.sum(jax.nn.dot_product_attention(*qkv, mask=mask[:, None]) * weight)

    for gradient, expected in zip(
        fast_jit(jax.grad(ours, (0, 1, 2)))(*arguments),
        fast_jit(jax.grad(oracle, (0, 1, 2)))(*arguments),
        strict=True,
    ):
        roundings, scale = attention_error(*arguments)
        # Back through the product with the weights, the softmax and the scores; rows of 5 add up.
        assert_close(gradient, expected, 3 * roundings, scale=5 * scale * jnp.abs(weight).max())


@fast_jit
def loss_and_gradients(trunk, x):
    def loss(trunk):
        hidden = trunk(
            x,
            np.broadcast_to(np.arange(12), (3, 12)),
            CausalMask(),
            segment_ids=jnp.ones((3, 12), jnp.int32),
            dropout_key=jax.random.key(3),
        )
        return jnp.sum(jnp.sin(3 * hidden))

    value, gradients = nnx.value_and_grad(loss)(trunk)
    return value, jax.tree.leaves(gradients)


@pytest.mark.parametrize("change", [{"remat": True}, {"scan_unroll": 3}])
def test_remat_and_unrolling_change_neither_result_nor_gradients(trunk, change):
    x = normal(0, 3, 12, 16)
    expected_loss, expected = loss_and_gradients(trunk, x)
    loss, gradients = loss_and_gradients(with_config(trunk, **change), x)
    # All that is added up lies between -1 and 1, its slope between -3 and 3.
    roundings = trunk_roundings(CONFIG, 12) + FUNCTION + 1 + x.size
    assert_close(loss, expected_loss, roundings, scale=3 * x.size)
    assert len(gradients) == len(expected) == 16 - 1
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a, b, 3 * trunk_roundings(CONFIG, 12) + 3 * 12)
        assert np.abs(b).max() > 0


def test_scanned_layers_equal_a_loop_over_the_layers(trunk):
    x = normal(0, 3, 12, 16)
    positions = np.broadcast_to(np.arange(12), (3, 12))
    ones = np.ones((3, 12), np.int32)
    graphdef, stacked = nnx.split(trunk.blocks)
    mask = CausalMask()(ones)
    angles = rope_angles(positions, CONFIG.head_dim, CONFIG.rope_theta)

    @fast_jit
    def loop(stacked):
        hidden = x
        for index in range(CONFIG.num_layers):
            block = nnx.merge(graphdef, jax.tree.map(lambda a, i=index: a[i], stacked))
            hidden, _ = block(hidden, angles, lambda q, k, v: attend(q, k, v, mask))
        return hidden

    hidden = run(trunk, x, positions, CausalMask(), ones)
    assert_close(hidden, trunk.norm(loop(stacked)), trunk_roundings(CONFIG, 12))


def test_dropout_follows_its_key_alone(trunk):
    x = normal(0, 3, 12, 16)
    positions = np.broadcast_to(np.arange(12), (3, 12))
    ones = np.ones((3, 12), np.int32)
    first, again, other = (
        run(trunk, x, positions, CausalMask(), ones, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    plain = run(trunk, x, positions, CausalMask(), ones)
    assert (plain != first).any()
    without = with_config(trunk, dropout=0.0)
    np.testing.assert_array_equal(plain, run(without, x, positions, CausalMask(), ones))


def test_bfloat16_computes_near_float32_on_float32_parameters(trunk):
    x = normal(0, 3, 12, 16)
    positions = np.broadcast_to(np.arange(12), (3, 12))
    ones = np.ones((3, 12), np.int32)
    half = with_config(trunk, dtype="bfloat16")
    hidden = run(half, x, positions, CausalMask(), ones)
    assert hidden.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half)))
    exact = run(trunk, x, positions, CausalMask(), ones)
    # 8 bits a rounding, some ten roundings a layer on the residual stream.
    error = np.abs(hidden.astype(jnp.float32) - exact)
    assert error.max() < 30 * 2**-8 * float(jnp.abs(exact).max())
    assert error.mean() < 4 * 2**-8


def test_every_axis_of_every_parameter_has_a_name_and_no_mesh_is_needed(trunk):
    expected = {
        "layers": CONFIG.num_layers,
        "embed": CONFIG.width,
        "heads": CONFIG.num_heads,
        "kv_heads": CONFIG.num_kv_heads,
        "head_dim": CONFIG.head_dim,
        "mlp": CONFIG.mlp_width,
    }
    params = nnx.to_flat_state(nnx.state(trunk, nnx.Param))
    for path, param in params:
        sizes = tuple(expected[name] for name in param.out_sharding)
        assert sizes == param.get_value().shape, path
    rules = (("mlp", "model"), ("heads", "model"), ("embed", None), ("layers", None))
    with flax.core.spmd.logical_axis_rules(rules):
        specs = nnx.get_partition_spec(nnx.state(trunk, nnx.Param))
    spec = specs["blocks"]["mlp"]["gate"].get_value()
    assert tuple(spec) == (None, None, "model")


def test_an_optimizer_step_moves_every_parameter_and_keeps_the_names():
    trunk = Trunk(CONFIG, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(trunk, optax.sgd(1e-2, momentum=0.9), wrt=nnx.Param)
    before = jax.tree.map(np.asarray, nnx.state(trunk))

    @nnx.jit
    def train_step(trunk, optimizer):
        def loss(trunk):
            hidden = trunk(
                normal(0, 1, 4, 16),
                jnp.arange(4)[None],
                CausalMask(),
                segment_ids=jnp.ones((1, 4), jnp.int32),
            )
            return jnp.sum(jnp.sin(3 * hidden))

        optimizer.update(trunk, nnx.grad(loss)(trunk))

    train_step(trunk, optimizer)
    assert int(optimizer.step[...]) == 1
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(nnx.state(trunk)), strict=True):
        assert (a != b).any()
    assert trunk.blocks.mlp.gate.out_sharding == ("layers", "embed", "mlp")


def test_initial_hidden_states_and_residual_stream_have_unit_scale():
    config = TrunkConfig(num_layers=6, width=64, num_heads=4, num_kv_heads=4, head_dim=16)
    trunk = Trunk(config, rngs=nnx.Rngs(0))
    graphdef, stacked = nnx.split(trunk.blocks)
    x = normal(0, 2, 16, 64)
    mask = CausalMask()(jnp.ones((2, 16), jnp.int32))
    angles = rope_angles(jnp.broadcast_to(jnp.arange(16), (2, 16)), 16, 10_000.0)

    @fast_jit
    def residual(x):
        def layer(x, state):
            return nnx.merge(graphdef, state)(x, angles, lambda *a: attend(*a, mask))[0], None

        return jax.lax.scan(layer, x, stacked)[0]

    assert 0.9 < float(jnp.std(residual(x))) < 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
        ({"dropout": 1.0}, r"dropout=1.0 must lie in \[0, 1\)"),
        ({"dtype": "float16"}, "dtype='float16' must be one of"),
        ({"num_layers": 0}, "num_layers=0: must be a whole number of at least 1"),
        ({"mlp_width": 2.5}, r"mlp_width=2\.5: must be a whole number"),
    ],
)
def test_impossible_configs_are_errors_that_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_embeddings_of_another_width_are_an_error(trunk):
    with pytest.raises(ValueError, match="width 8, the trunk has 16"):
        trunk(
            jnp.zeros((1, 2, 8)),
            jnp.zeros((1, 2), jnp.int32),
            CausalMask(),
            segment_ids=jnp.ones((1, 2), jnp.int32),
        )
