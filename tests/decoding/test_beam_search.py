"""Beam search against brute force over the catalogue, and its compiled form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.trie import DEAD_NODE, build_trie
from minirec.decoding import BeamSearcher, Buckets, beam_search, finish, prefill, step
from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig

VOCAB = 14
LEVELS = 3
TRUNK = TrunkConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_width=24,
    qk_norm=True,
    qkv_bias=True,
)
LENGTHS = np.array([5, 2, 7], np.int32)
# What is computed is under test: compile fast, run slowly.
FAST_COMPILATION = {"xla_backend_optimization_level": 0}


def make_model(seed=0):
    config = SidDecoderConfig(TRUNK, VOCAB, tie_embeddings=False)
    model = SidDecoder(config, rngs=nnx.Rngs(seed))
    # A sharper head than at the start of training, so that scores lie apart.
    model.head[...] = model.head[...] * 40
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def catalogue():
    """SIDs of 30 items, some of them shared by two or three items, rows in random order."""
    rng = np.random.default_rng(0)
    distinct = np.unique(rng.integers(2, [6, 10, 14], (24, LEVELS)), axis=0)
    sids = np.concatenate([distinct, distinct[rng.integers(0, len(distinct), 30 - len(distinct))]])
    assert len(np.unique(sids, axis=0)) < len(sids)
    return rng.permutation(sids)


@pytest.fixture(scope="module")
def trie(catalogue):
    return build_trie(catalogue)


@pytest.fixture(scope="module")
def prompts():
    tokens = np.random.default_rng(1).integers(1, VOCAB, (len(LENGTHS), 7)).astype(np.int32)
    return tokens, LENGTHS


@pytest.fixture(scope="module")
def catalogue_logits(model, catalogue, prompts):
    """Float64 logits [B, N, L, V] before every token of every item, by full forward passes."""
    tokens, lengths = prompts
    width = tokens.shape[1] + LEVELS
    rows, positions = [], np.arange(width)
    for prompt, length in zip(tokens, lengths, strict=True):
        for sid in catalogue:
            row = np.concatenate([prompt[:length], sid])
            rows.append(np.pad(row, (0, width - len(row))))
    rows = np.stack(rows)
    ends = np.repeat(lengths, len(catalogue))

    @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
    def forward(model, rows, ends):
        where = jnp.broadcast_to(positions, rows.shape)
        segments = (where < ends[:, None] + LEVELS).astype(jnp.int32)
        return model.logits(model(rows, where, segments))

    logits = np.asarray(forward(model, rows, ends), np.float64)
    take = ends[:, None] - 1 + np.arange(LEVELS)
    logits = np.take_along_axis(logits, take[:, :, None], axis=1)
    return logits.reshape(len(lengths), len(catalogue), LEVELS, VOCAB)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sid_score(logits_lv, sid, catalogue, normalize):
    """Log-probability of one SID, given the logits before each of its tokens."""
    score = 0.0
    for level, token in enumerate(sid):
        row = logits_lv[level]
        if normalize == "children":
            siblings = catalogue[(catalogue[:, :level] == sid[:level]).all(1), level]
            mask = np.full(VOCAB, -np.inf)
            mask[siblings] = 0
            row = row + mask
        score += log_softmax(row)[token]
    return score


def brute_force(logits, catalogue, normalize, wanted):
    """Items and scores of one user, best first; among items of a SID in catalogue order."""
    scores = [sid_score(logits[n], sid, catalogue, normalize) for n, sid in enumerate(catalogue)]
    order = sorted(
        (n for n in range(len(catalogue)) if wanted[n]),
        key=lambda n: (-round(scores[n], 9), tuple(catalogue[n]), n),
    )
    return order, [scores[n] for n in order]


@functools.cache
def compiled(num_beams, normalize="vocab"):
    """The search, jitted."""

    def search(graphdef, state, *arguments, **filters):
        model = nnx.merge(graphdef, state)
        return beam_search(model, *arguments, num_beams=num_beams, normalize=normalize, **filters)

    jitted = jax.jit(search, static_argnums=0, compiler_options=FAST_COMPILATION)
    return lambda model, *arguments, **filters: jitted(*nnx.split(model), *arguments, **filters)


def check_against_brute_force(result, logits, catalogue, normalize, wanted):
    for user in range(len(LENGTHS)):
        items, scores = brute_force(logits[user], catalogue, normalize, wanted[user])
        found = int((result.item[user] >= 0).sum())
        assert found == len(items)
        assert result.item[user, :found].tolist() == items
        np.testing.assert_allclose(result.item_score[user, :found], scores, atol=1e-5)
        assert (result.item[user, found:] == -1).all()
        assert np.isneginf(result.item_score[user, found:]).all()


@pytest.mark.parametrize("normalize", ["vocab", "children"])
def test_an_exhaustive_search_ranks_the_catalogue_as_brute_force_does(
    model, prompts, trie, catalogue, catalogue_logits, normalize
):
    result = compiled(40, normalize)(model, *prompts, trie)
    wanted = np.ones((3, len(catalogue)), bool)
    check_against_brute_force(result, catalogue_logits, catalogue, normalize, wanted)
    num_sids = len(np.unique(catalogue, axis=0))
    assert (np.asarray(result.dead).sum(1) == 40 - num_sids).all()
    assert (np.asarray(result.sid)[np.asarray(result.dead)] == 0).all()


def test_beams_carry_the_sid_of_their_leaf_and_sorted_scores(model, prompts, trie, catalogue):
    result = compiled(40)(model, *prompts, trie)
    alive = ~np.asarray(result.dead)
    items = np.asarray(trie.items(result.leaf))
    for user, beam in np.argwhere(alive):
        owners = items[user, beam]
        owners = owners[owners >= 0]
        assert owners.size
        assert (catalogue[owners] == np.asarray(result.sid)[user, beam]).all()
    scores = np.where(alive, result.score, -1e30)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.isneginf(np.asarray(result.score)[~alive]).all()
    assert (np.asarray(result.leaf)[~alive] == DEAD_NODE).all()


@pytest.mark.parametrize("filters", ["excluded", "both", "allowed_by_user"])
def test_filters_are_exact(model, prompts, trie, catalogue, catalogue_logits, filters):
    rng = np.random.default_rng(2)
    wanted = np.ones((3, len(catalogue)), bool)
    excluded = allowed = None
    if filters in ("excluded", "both"):
        excluded = np.full((3, 30), -1, np.int32)
        for user, count in enumerate([27, 0, 11]):
            chosen = rng.permutation(len(catalogue))[:count]
            excluded[user, :count] = chosen
            wanted[user, chosen] = False
    if filters == "both":
        allowed = rng.random(len(catalogue)) < 0.5
        wanted &= allowed
    if filters == "allowed_by_user":
        allowed = rng.random((3, len(catalogue))) < 0.5
        wanted &= allowed
    result = compiled(40)(model, *prompts, trie, excluded=excluded, allowed=allowed)
    check_against_brute_force(result, catalogue_logits, catalogue, "vocab", wanted)
    # Every beam that lives ends at an item that was asked for.
    for user, beam in np.argwhere(~np.asarray(result.dead)):
        owners = np.asarray(trie.items(result.leaf[user, beam]))
        assert wanted[user, owners[owners >= 0]].any()


def test_excluding_everything_leaves_only_dead_beams(model, prompts, trie, catalogue):
    excluded = np.tile(np.arange(len(catalogue), dtype=np.int32), (3, 1))
    result = compiled(40)(model, *prompts, trie, excluded=excluded)
    assert np.asarray(result.dead).all()
    assert (np.asarray(result.item) == -1).all()


@pytest.mark.parametrize("normalize", ["vocab", "children"])
def test_a_narrow_beam_equals_a_plain_beam_search(
    model, prompts, trie, catalogue, catalogue_logits, normalize
):
    num_beams = 4
    result = compiled(num_beams, normalize)(model, *prompts, trie)
    for user in range(3):
        beams = [((), 0.0)]
        for level in range(LEVELS):
            grown = {}
            for prefix, _ in beams:
                for n in np.flatnonzero((catalogue[:, :level] == prefix).all(1)):
                    sid = tuple(catalogue[n, : level + 1].tolist())
                    grown[sid] = sid_score(catalogue_logits[user, n], sid, catalogue, normalize)
            beams = sorted(grown.items(), key=lambda entry: -entry[1])[:num_beams]
        assert np.asarray(result.sid)[user].tolist() == [list(sid) for sid, _ in beams]
        np.testing.assert_allclose(result.score[user], [score for _, score in beams], atol=1e-5)
        expanded = [
            n for sid, _ in beams for n in np.flatnonzero((catalogue == sid).all(1)).tolist()
        ]
        assert result.item[user].tolist() == expanded[:num_beams]


def test_the_parts_of_the_search_are_the_search(model, prompts, trie):
    graphdef, state = nnx.split(model)

    def by_parts(state, tokens, lengths, trie):
        model = nnx.merge(graphdef, state)
        decoding = prefill(model, tokens, lengths, num_beams=4, num_levels=LEVELS)
        for level in range(LEVELS):
            decoding = step(model, decoding, trie, level, num_beams=4)
        return finish(decoding, trie)

    def whole(state, tokens, lengths, trie):
        return beam_search(nnx.merge(graphdef, state), tokens, lengths, trie, num_beams=4)

    arguments = (state, *prompts, trie)
    assert str(jax.make_jaxpr(by_parts)(*arguments)) == str(jax.make_jaxpr(whole)(*arguments))


def test_a_part_out_of_order_is_an_error(model, prompts, trie):
    begin = functools.partial(prefill, num_beams=4, num_levels=LEVELS)
    state = nnx.eval_shape(begin, model, *prompts)
    with pytest.raises(ValueError, match="0 of the trie's 3 levels"):
        finish(state, trie)
    with pytest.raises(ValueError, match="level=1, but the state has taken 0"):
        step(model, state, trie, 1, num_beams=4)


def test_no_key_or_value_of_the_history_is_copied_a_beam(model, trie):
    """Not one intermediate of the program has the prompt's width beside the beams and heads."""
    B, S, M = 2, 23, 9
    graphdef, state = nnx.split(model)

    def search(state, tokens, lengths, trie):
        return beam_search(nnx.merge(graphdef, state), tokens, lengths, trie, num_beams=M)

    jaxpr = jax.make_jaxpr(search)(
        state, jnp.zeros((B, S), jnp.int32), jnp.full((B,), S, jnp.int32), trie
    )
    shapes = set()

    def collect(jaxpr):
        for equation in jaxpr.eqns:
            shapes.update(getattr(v.aval, "shape", ()) for v in equation.outvars)
            for value in equation.params.values():
                for part in value if isinstance(value, tuple | list) else [value]:
                    inner = getattr(part, "jaxpr", part)
                    if hasattr(inner, "eqns"):
                        collect(inner)

    collect(jaxpr.jaxpr)
    heads = (TRUNK.num_heads, TRUNK.num_kv_heads)
    per_beam = [s for s in shapes if S in s and M in s]
    assert per_beam, "the attention scores of the beams over the prompt should be there"
    for shape in per_beam:
        # Scores only: [B, kv_heads, M, group, S] in some order, without a head's width.
        assert np.prod(shape) <= B * M * S * heads[0], shape
    assert (TRUNK.num_layers, B, S, heads[1], TRUNK.head_dim) in shapes


class TestBeamSearcher:
    def test_one_compilation_serves_a_bucket_and_padding_changes_nothing(
        self, model, prompts, trie
    ):
        tokens, lengths = prompts
        excluded = np.array([[1, 2, -1], [-1, -1, -1], [5, 6, 7]], np.int32)
        searcher = BeamSearcher(
            num_beams=6,
            batch_buckets=Buckets(sizes=(4, 8)),
            length_buckets=Buckets(sizes=(8, 16)),
        )
        first = searcher(model, tokens, lengths, trie, excluded=excluded)
        two = searcher(model, tokens[:2], lengths[:2], trie, excluded=excluded[:2])
        garbage = np.full((3, 1), 9, np.int32)
        wider = searcher(
            model,
            np.concatenate([tokens, garbage], axis=1),
            lengths,
            trie,
            excluded=np.pad(excluded, ((0, 0), (0, 4)), constant_values=-1),
        )
        assert searcher.num_traces == 1
        assert first.item.shape == (3, 6)
        for field in dataclasses.fields(first):
            expected = getattr(first, field.name)
            np.testing.assert_array_equal(getattr(two, field.name), expected[:2])
            np.testing.assert_array_equal(getattr(wider, field.name), expected)
        # Another bucket is another program with the same answer.
        longer = np.pad(tokens, ((0, 0), (0, 5)), constant_values=9)
        other = searcher(model, longer, lengths, trie, excluded=excluded)
        assert searcher.num_traces == 2
        np.testing.assert_array_equal(other.item, first.item)
        np.testing.assert_allclose(other.item_score, first.item_score, atol=1e-5)

    def test_new_weights_trie_and_filters_reuse_the_program(self, model, prompts, trie, catalogue):
        tokens, lengths = prompts
        searcher = BeamSearcher(num_beams=6)
        allowed = np.ones(len(catalogue), bool)
        before = searcher(model, tokens, lengths, trie, allowed=allowed)
        other_weights = searcher(make_model(1), tokens, lengths, trie, allowed=allowed)
        swapped = build_trie(catalogue[:-2, ::1][::-1], capacities=trie.capacities)
        other_trie = searcher(model, tokens, lengths, swapped, allowed=allowed)
        allowed[before.item[0, 0]] = False
        filtered = searcher(model, tokens, lengths, trie, allowed=allowed[:-1])
        assert searcher.num_traces == 1
        assert (other_weights.item != before.item).any()
        assert (other_trie.item != before.item).any()
        assert before.item[0, 0] not in filtered.item
        assert len(catalogue) - 1 not in filtered.item
        # The same module with its weights changed in place.
        changed = make_model()
        changed.head[...] = -changed.head[...]
        assert (searcher(changed, tokens, lengths, trie, allowed=allowed).item != before.item).any()
        assert searcher.num_traces == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lengths": np.array([5, 0, 7])}, r"lengths\[1\]=0"),
            ({"lengths": np.array([5, 2, 8])}, r"lengths\[2\]=8"),
            ({"lengths": np.array([5, 2])}, "must be"),
            ({"excluded": np.zeros((2, 4), np.int32)}, "excluded"),
            ({"allowed": np.ones((2, 4), bool)}, "allowed"),
        ],
    )
    def test_arguments_that_do_not_fit_are_named(self, model, prompts, trie, change, message):
        arguments = {"tokens": prompts[0], "lengths": prompts[1], **change}
        with pytest.raises(ValueError, match=message):
            BeamSearcher(num_beams=2)(model, trie=trie, **arguments)

    def test_a_batch_past_the_largest_bucket_is_an_error(self, model, prompts, trie):
        searcher = BeamSearcher(num_beams=2, batch_buckets=Buckets(sizes=(1, 2)))
        with pytest.raises(ValueError, match="the batch is 3, the largest bucket 2"):
            searcher(model, *prompts, trie)


@pytest.mark.parametrize("size", [1, 3, 8, 9, 17, 100, 1000])
def test_default_buckets_add_at_most_a_quarter(size):
    bucket = Buckets().round_up(size, "size")
    assert size <= bucket <= max(size + 1, 1.25 * size)
    assert Buckets().round_up(bucket, "size") == bucket


def test_a_catalogue_of_one_level(model, prompts):
    trie = build_trie(np.array([[3], [4], [6], [3]]))
    result = compiled(4)(model, *prompts, trie)
    assert (np.sort(result.item, axis=1) == np.arange(4)).all()
    assert (np.asarray(result.dead).sum(1) == 1).all()
