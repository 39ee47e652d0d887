"""A fusion that knows when to trust whom: candidates, their features, the gate and its choice."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from minirec.evaluation import choose_system, item_ranks, metrics_at
from minirec.recommend import ItemTransition, RankedLists, System, fuse
from minirec.recommend.baselines.alike import rank_alike
from minirec.recommend.content import content_rows, nearest
from minirec.recommend.gated import Facts, candidates, fit_gate
from minirec.recommend.gated.gate import Gate
from minirec.recommend.gated.hidden import with_hidden_layer
from minirec.recommend.system import GATED, gated

NUM_ITEMS, NUM_USERS = 160, 600


def lists_of(scores, k):
    """The best `k` of random scores as a source's lists, with a share of each as probability."""
    item = np.argsort(-scores, axis=1)[:, :k].astype(np.int32)
    value = np.take_along_axis(scores, item, axis=1)
    return RankedLists(item, value / (1.1 * value.sum(axis=1, keepdims=True)))


@pytest.fixture(scope="module")
def world():
    """Users who take what is like their newest item if that is of a kind, else what follows it."""
    rng = np.random.default_rng(0)
    titles = [f"kind{n % 40} shape{n % 7}" for n in range(NUM_ITEMS)]
    follower = rng.permutation(NUM_ITEMS)
    sequences = np.stack([(start := rng.integers(0, NUM_ITEMS, 900)), follower[start]], axis=1)
    transition = ItemTransition(sequences.ravel(), np.arange(0, 1801, 2), NUM_ITEMS)
    facts = Facts(transition, nearest(content_rows(titles, [[]] * NUM_ITEMS)))
    histories = [rng.integers(0, NUM_ITEMS, rng.integers(1, 7)) for _ in range(NUM_USERS)]
    newest = np.array([history[-1] for history in histories])
    alike = (newest + 40 * rng.integers(1, 4, NUM_USERS)) % NUM_ITEMS
    target = np.where(newest % 7 < 4, alike, follower[newest])
    target = np.where(rng.random(NUM_USERS) < 0.2, rng.integers(0, NUM_ITEMS, NUM_USERS), target)
    noise = rng.random((NUM_USERS, NUM_ITEMS))
    noise[np.arange(NUM_USERS), target] += 0.2
    lists = {
        "model": lists_of(noise, 40),
        "item_transition": transition.rank_followers(histories, 40, exclude_seen=False),
        "content": rank_alike(histories, facts.neighbours, 20, exclude_seen=False),
    }
    return lists, histories, facts, target


@pytest.fixture(scope="module")
def chosen(world):
    return choose_system(*world)


def some(world, users):
    lists, histories, facts, target = world
    few = {
        name: RankedLists(one.item[users], one.probability[users]) for name, one in lists.items()
    }
    return few, [histories[user] for user in users], facts, target[users]


def test_lists_of_what_is_alike_hold_each_items_share(world):
    _, histories, facts, _ = world
    near, dense = facts.neighbours, np.zeros((NUM_ITEMS, NUM_ITEMS))
    place, item, cosine = near.of(np.arange(NUM_ITEMS))
    dense[place, item] = cosine
    allowed = np.arange(NUM_ITEMS) % 5 > 0
    for exclude_seen, allow in ((False, None), (True, allowed)):
        lists = rank_alike(histories, near, 15, exclude_seen=exclude_seen, allowed=allow)
        for history, items, shares in zip(histories, lists.item, lists.probability, strict=True):
            like = dense[history[-1]] + (0.5 * dense[history[-2]] if len(history) > 1 else 0)
            like[history[-2:]] = 0
            want, total = np.round(like, 12), like.sum()
            if exclude_seen:
                want[history] = 0
            if allow is not None:
                want[~allow] = 0
            order = np.lexsort((np.arange(NUM_ITEMS), -want))[:15]
            order = order[want[order] > 0]
            assert items.tolist() == [*order, *[-1] * (15 - len(order))]
            np.testing.assert_allclose(shares[: len(order)], like[order] / total, rtol=1e-9)


def test_candidates_are_the_most_probable_of_all_sources_and_features_what_they_say(world):
    lists, histories, facts, _ = some(world, np.arange(40))
    found = candidates(lists, histories, facts, 12)
    column = {name: number for number, name in enumerate(found.names)}
    rows, counts = facts.transition.transitions.toarray(), facts.transition.popularity.counts
    for user, history in enumerate(histories):
        total = np.zeros(NUM_ITEMS)
        for source in lists.values():
            listed = source.item[user] >= 0
            total[source.item[user][listed]] += source.probability[user][listed]
        best = np.lexsort((np.arange(NUM_ITEMS), -np.round(total, 12)))[:12]
        mine = found.user == user
        assert sorted(found.item[mine]) == sorted(item for item in best if total[item] > 0)
        for item, features in zip(found.item[mine], found.features[mine], strict=True):
            at = lists["model"].item[user] == item
            share = float(lists["model"].probability[user][at].sum())
            past = history[::-1]
            want = {
                "log_model": math.log(share + 1e-5),
                "follows_0": rows[past[0], item],
                "leads_0": rows[item, past[0]],
                "follows_1": rows[past[1], item] if len(past) > 1 else 0,
                "popularity": math.log1p(counts[item]),
                "taken": item in history,
                "taken_recently": 1 / (1 + list(past).index(item)) if item in history else 0,
                "popularity*length": math.log1p(counts[item]) * math.log1p(len(history)),
            }
            for name, value in want.items():
                np.testing.assert_allclose(features[column[name]], value, rtol=1e-6, err_msg=name)


def test_items_and_histories_that_nobody_knows_have_no_features_but_their_sources(world):
    lists, _, facts, _ = some(world, np.arange(3))
    lists["model"].item[0, 0] = NUM_ITEMS + 3
    found = candidates(lists, [np.zeros(0, int)] * 3, facts, 50)
    new = (found.item == NUM_ITEMS + 3) & (found.user == 0)
    features = dict(zip(found.names, found.features[new][0], strict=True))
    assert features["log_model"] > math.log(1e-3)
    assert features["unsold"] == 1
    told = [name for name in found.names if re.match(r"(follows|leads|like|taken)", name)]
    assert not any(features[name] for name in told)


def test_a_users_ranking_depends_on_the_user_alone(world, chosen, monkeypatch):
    gate = with_hidden_layer(chosen.gate, gated(*world[:3]), world[3])
    assert gate.hidden.any()
    chosen = dataclasses.replace(chosen, gate=gate)
    whole = chosen.rank(*world[:3], 30)
    for users in (np.array([7]), np.array([500, 3, 7]), np.arange(100, 300)):
        lists, histories, facts, _ = some(world, users)
        monkeypatch.setattr("minirec.recommend.system._BLOCK", 64)
        part = chosen.rank(lists, histories, facts, 30)
        np.testing.assert_array_equal(part.item, whole.item[users])
        np.testing.assert_array_equal(part.probability, whole.probability[users])


def test_a_gate_is_chosen_where_it_ranks_users_better_that_it_was_not_fitted_on(world, chosen):
    system = chosen
    assert system.gate is not None
    held_out = {name: metrics["ndcg@10"] for name, metrics in system.held_out.items()}
    assert list(held_out)[:3] == ["0.001", "0.01", "0.1"]
    assert list(held_out)[3].endswith("hidden layer")
    assert held_out[system.kind] == max(held_out.values())
    assert max(held_out.values()) > 1.1 * system.pool.metrics["ndcg@10"]
    # Fitted on half of them it is as good on the others as it is said to be.
    half = np.arange(NUM_USERS // 2)
    fitted = choose_system(*some(world, half))
    others, rest, facts, wanted = some(world, half + NUM_USERS // 2)
    ranks = item_ranks(fitted.rank(others, rest, facts, 10).item, wanted)
    own = fitted.held_out[fitted.kind]["ndcg@10"]
    assert metrics_at(ranks, (10,))["ndcg@10"] > 0.85 * own


def test_a_pool_is_kept_where_a_gate_finds_nothing_more_or_has_too_few_users(world):
    lists, histories, facts, target = world
    assert choose_system(lists, histories, None, target).gate is None
    assert choose_system(*some(world, np.arange(150))).gate is None
    rng = np.random.default_rng(1)
    silent = {"model": lists_of(rng.random((NUM_USERS, NUM_ITEMS)), 150)}
    silent["model"].probability[:] = 1 / 200  # The order alone could tell, and it is by chance.
    chance = rng.integers(0, NUM_ITEMS, NUM_USERS)
    nowhere = Facts(ItemTransition(np.zeros(0, int), np.zeros(1, int), NUM_ITEMS), facts.neighbours)
    pool = choose_system(silent, [np.zeros(0, int)] * NUM_USERS, nowhere, chance)
    want = fuse(silent, {"model": 1.0}, 10)
    ranked = pool.rank(silent, histories, nowhere, 10)
    if pool.gate is None:
        np.testing.assert_array_equal(ranked.item, want.item)
    else:  # By chance; but then it said so of users that it had not seen.
        best = max(metrics["ndcg@10"] for metrics in pool.held_out.values())
        assert best > pool.pool.metrics["ndcg@10"]


def test_behind_the_gates_candidates_come_the_pools(world):
    lists, histories, facts, target = some(world, np.arange(250))
    wide = {**lists, "model": lists_of(np.random.default_rng(3).random((250, NUM_ITEMS)), 150)}
    system = choose_system(wide, histories, None, target)
    system = dataclasses.replace(
        system, gate=fit_gate(candidates(wide, histories, facts, GATED), target, 0.01)
    )
    long, short = (system.rank(wide, histories, facts, k) for k in (140, GATED))
    np.testing.assert_array_equal(long.item[:, :GATED], short.item)
    np.testing.assert_array_equal(long.probability[:, :GATED], short.probability)
    pool = fuse({n: s for n, s in wide.items() if n != "content"}, system.pool.weights, 140)
    for mine, first, rest in zip(long.item, short.item, pool.item, strict=True):
        behind = [item for item in rest if item >= 0 and item not in first][: 140 - GATED]
        assert mine[GATED : GATED + len(behind)].tolist() == behind
        assert len(set(mine[mine >= 0])) == (mine >= 0).sum()
    np.testing.assert_allclose(short.probability.sum(axis=1), 1, rtol=1e-9)


def test_a_gate_learns_the_weights_that_made_the_choices():
    rng = np.random.default_rng(0)
    num_users, each = 4000, 6
    features = rng.normal(size=(num_users * each, 3)).astype(np.float32)
    features[:, 2] = 1.0  # The same for all: it can tell nothing.
    score = features @ np.array([1.5, -0.7, 0.0]) + rng.gumbel(size=num_users * each)
    user, item = np.repeat(np.arange(num_users), each), np.tile(np.arange(each), num_users)
    target = score.reshape(num_users, each).argmax(axis=1)
    found = dataclasses.replace(
        candidates({"model": lists_of(np.ones((1, 2)), 2)}, [[]], _NO_FACTS, 2),
        user=user, item=item, features=features, names=("a", "b", "c"),
        num_users=num_users, per_user=each,
    )  # fmt: skip
    gate = fit_gate(found, target, 0.0)
    # The estimate's standard error is about 1 / sqrt(users * variance a user) = 0.03.
    np.testing.assert_allclose(gate.weight / gate.scale, [1.5, -0.7, 0.0], atol=0.15)
    # Of what never varied a hidden layer learns nothing, and must not guess.
    deep = with_hidden_layer(gate, found, target)
    assert deep.hidden[:2].all()
    assert not deep.hidden[2].any()


_NO_FACTS = Facts(
    ItemTransition(np.zeros(0, int), np.zeros(1, int), 2),
    nearest(content_rows(["", ""], [[], []])),
)


def test_the_file_brings_back_the_same_ranking_and_wrong_ones_are_refused_by_name(world, chosen):
    system = chosen
    value = json.loads(json.dumps(system.to_json()))
    again = System.from_json(value, where="f")
    np.testing.assert_array_equal(again.rank(*world[:3], 20).item, system.rank(*world[:3], 20).item)
    pool = System.from_json(dataclasses.replace(system, gate=None).to_json(), where="f")
    assert pool.gate is None
    for change, message in (
        ({"weight": [0.0]}, r"f: gate: weight has 1 numbers for \d+ features"),
        ({"scale": [0.0] * len(system.gate.names)}, r"f: gate: scale: 0.0; must be above 0"),
        ({"mean": "x"}, r"f: gate: mean"),
        ({"bias": [0.0]}, r"f: gate: hidden, bias and out are of different sizes"),
    ):
        broken = json.loads(json.dumps(value))
        broken["gate"]["gate"] |= change
        with pytest.raises(ValueError, match=message):
            System.from_json(broken, where="f")
    with pytest.raises(ValueError, match="f: gate"):
        System.from_json({**value, "gate": []}, where="f")
    other = Gate(("x",), *[np.ones(1)] * 3, np.ones((1, 0)), np.ones(0), np.ones(0))
    with pytest.raises(ValueError, match="the gate knows"):
        dataclasses.replace(system, gate=other).rank(*world[:3], 5)
    with pytest.raises(ValueError, match="facts"):
        system.rank(world[0], world[1], None, 5)
