"""Beam search against brute force over the catalogue, and its compiled form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.beam_step import Beams
from kernels.trie import DEAD_NODE, build_trie
from minirec.decoding import DecodeState, beam_search, finish, prefill, step
from tests.bounds import assert_close
from tests.decoding.small import (
    LENGTHS,
    LEVELS,
    LOGITS,
    TO_SCORE,
    TRUNK,
    VOCAB,
    make_model,
)

# What is computed is under test: compile fast, run slowly.
FAST_COMPILATION = {"xla_backend_optimization_level": 0}


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
        assert_close(result.item_score[user, :found], scores, TO_SCORE, scale=LEVELS * LOGITS)
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
    items = np.asarray(trie.items(result.leaf))
    for user, beam in np.argwhere(~np.asarray(result.dead)):
        owners = items[user, beam]
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
        assert_close(
            result.score[user], [score for _, score in beams], TO_SCORE, scale=LEVELS * LOGITS
        )
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
    with pytest.raises(ValueError, match="num_beams=5, but the state was made for 4 beams"):
        step(model, state, trie, 0, num_beams=5)


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


def test_a_catalogue_of_one_level(model, prompts):
    trie = build_trie(np.array([[3], [4], [6], [3]]))
    result = compiled(4)(model, *prompts, trie)
    assert (np.sort(result.item, axis=1) == np.arange(4)).all()
    assert (np.asarray(result.dead).sum(1) == 1).all()


def found_leaves(leaf):
    """The state of a search of one level that ended in these leaves, scores falling."""
    leaf = jnp.asarray(leaf, jnp.int32)
    score = jnp.where(leaf == DEAD_NODE, -jnp.inf, -jnp.arange(leaf.shape[1], dtype=jnp.float32))
    return DecodeState(
        lengths=jnp.ones(len(leaf), jnp.int32),
        prefix=None,
        suffix=None,
        hidden=None,
        beams=Beams(leaf, score),
        sid=leaf[:, :, None],
    )


@pytest.mark.parametrize("exclusions", [None, 0, 6, 40])
@pytest.mark.parametrize("filtered", [False, True])
def test_crowded_leaves_give_the_best_items_and_are_not_read_to_the_end(exclusions, filtered):
    rng = np.random.default_rng(5)
    sizes = [1, 300, 5, 40, 2]
    items = rng.permutation(1000)[: sum(sizes)]
    sids = np.repeat(np.arange(len(sizes)), sizes)[:, None]
    trie = build_trie(sids, items)
    of_leaf = np.split(items, np.cumsum(sizes)[:-1])
    state = found_leaves([[1, 3, 0], [4, 0, DEAD_NODE], [2, 1, 4]])
    excluded = allowed = None
    wanted = np.ones((3, 1000), bool)
    if exclusions is not None:
        # The first of the leaves, which would be returned, and some of anywhere.
        excluded = np.full((3, exclusions), -1)
        for user, leaves in enumerate([[1, 3], [4], [2, 1]]):
            first = np.concatenate([of_leaf[leaf][:20] for leaf in leaves])[: max(exclusions, 1)]
            excluded[user, : len(first)] = first[:exclusions]
            wanted[user, first[:exclusions]] = False
    if filtered:
        allowed = rng.random(1000) < 0.05
        wanted &= allowed
    result = finish(state, trie, excluded=excluded, allowed=allowed)  # NumPy's, and not jitted.
    for user, leaves in enumerate(np.asarray(state.beams.node)):
        ranked = [
            (int(item), -float(place))
            for place, leaf in enumerate(leaves)
            for item in (of_leaf[leaf] if leaf != DEAD_NODE else ())
            if wanted[user, item]
        ][:3]
        ranked += [(-1, -np.inf)] * (3 - len(ranked))
        assert result.item[user].tolist() == [item for item, _ in ranked]
        assert result.item_score[user].tolist() == [score for _, score in ranked]
    if not filtered:
        jaxpr = str(jax.make_jaxpr(finish)(state, trie, excluded=excluded))
        width = min(trie.max_items_per_leaf, 3 + (exclusions or 0))
        assert f"i32[3,3,{width}]" in jaxpr
        assert f"i32[3,3,{trie.max_items_per_leaf}]" not in jaxpr


def test_numpy_arguments_need_no_jit(model, prompts, trie, catalogue):
    excluded = np.array([[1, 2, -1], [2**32 + 3, -1, 2**40], [5, 6, 7]])
    allowed = np.arange(len(catalogue)) != 4
    within = np.where(excluded < len(catalogue), excluded, -1).astype(np.int32)
    expected = compiled(4)(model, *prompts, trie, excluded=within, allowed=allowed)
    result = beam_search(model, *prompts, trie, num_beams=4, excluded=excluded, allowed=allowed)
    assert result.item.tolist() == expected.item.tolist()
    assert_close(result.item_score, expected.item_score, TO_SCORE, scale=LEVELS * LOGITS)
    with pytest.raises(ValueError, match=r"excluded: .*float64; it must be integers"):
        beam_search(model, *prompts, trie, num_beams=4, excluded=excluded + 0.5)


def test_a_bfloat16_search_finds_sids_of_the_catalogue_only(prompts, trie, catalogue):
    model = make_model(dtype="bfloat16")
    assert nnx.eval_shape(lambda model: model.prefill(*prompts)[0], model).dtype == jnp.bfloat16
    result = compiled(40)(model, *prompts, trie)
    num_sids = len(np.unique(catalogue, axis=0))
    owners = {tuple(sid) for sid in catalogue.tolist()}
    for user in range(len(LENGTHS)):
        alive = ~np.asarray(result.dead[user])
        found = [tuple(sid) for sid in np.asarray(result.sid)[user, alive].tolist()]
        assert set(found) == owners
        assert len(found) == num_sids
        assert np.isfinite(np.asarray(result.score)[user, alive]).all()
        assert sorted(result.item[user, : len(catalogue)].tolist()) == list(range(len(catalogue)))


def test_a_state_of_another_catalogue_is_refused_or_dead(model, prompts, trie, catalogue):
    swapped = catalogue.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert (swapped != catalogue).any()
    other = build_trie(swapped, capacities=trie.capacities)
    graphdef, parameters = nnx.split(model)

    def search(parameters, before, after):
        model = nnx.merge(graphdef, parameters)
        state = prefill(model, *prompts, num_beams=4, num_levels=LEVELS)
        state = step(model, state, before, 0, num_beams=4)
        for level in range(1, LEVELS):
            state = step(model, state, after, level, num_beams=4)
        return finish(state, after), finish(state, before)

    search = jax.jit(search, compiler_options=FAST_COMPILATION)
    for result in search(parameters, trie, other):
        assert result.dead.all()
        assert (result.item == -1).all()
    assert not search(parameters, trie, trie)[0].dead.all()
    state = found_leaves([[1, 3, 0]])
    state = dataclasses.replace(state, digest=trie.digest[None])
    one_level = build_trie([(0,), (1,), (2,), (3,)])
    with pytest.raises(ValueError, match="state: made with the trie of another catalogue"):
        finish(state, one_level)


def test_a_search_finds_the_same_where_jax_counts_in_64_bits(model, prompts, trie):
    # Of the shapes of the test above of NumPy's arguments, which shares the narrow program.
    excluded = np.array([[1, 2, -1], [5, -1, -1], [6, 7, 8]])
    filters = {"excluded": excluded, "allowed": np.arange(30) != 4}
    narrow = compiled(4)(model, *prompts, trie, **filters)
    with jax.enable_x64(True):
        wide = compiled(4)(model, *prompts, trie, **filters)
    for one, other in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
