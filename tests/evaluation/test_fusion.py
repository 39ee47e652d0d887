"""Fusion against a sort in exact fractions, and its weights against trying each one by `fuse`."""

import fractions
import itertools
import json

import numpy as np
import pytest

from minirec.evaluation import choose_weights, item_ranks, metrics_at
from minirec.files import read_json
from minirec.recommend import (
    FusionWeights,
    RankedLists,
    fuse,
    shared_probability,
    sid_shares,
    with_unknown,
)

PARTS = 64  # probabilities are whole parts, so that fractions tell exactly which scores are equal


def random_source(generator, num_users, width, num_items):
    """Lists in any order, with places left open, few distinct probabilities and some that are 0."""
    items = np.argsort(generator.random((num_users, num_items)), axis=1)[:, :width]
    items = np.where(generator.random(items.shape) < 0.2, -1, items).astype(np.int32)
    parts = generator.choice([0, 1, 2, 3, 4, 6], items.shape) * (items >= 0)
    return RankedLists(items, parts / PARTS)


def random_lists(seed, num_users, widths=(4, 7, 1), num_items=12):
    generator = np.random.default_rng(seed)
    lists = {
        name: random_source(generator, num_users, width, num_items)
        for name, width in zip("abcd", widths, strict=False)
    }
    return lists, generator.integers(0, num_items, num_users)


def naive_fuse(lists, weights, k, user):
    """The docstring's sentences for one user, in exact fractions."""
    score, first = {}, {}
    for number, (name, source) in enumerate(lists.items()):
        for place, item in enumerate(source.item[user].tolist()):
            if item >= 0:
                parts = fractions.Fraction(source.probability[user, place])
                score[item] = score.get(item, 0) + weights[name] * parts
                first.setdefault(item, (number, place))
    ranked = sorted(score, key=lambda item: (-score[item], first[item]))[:k]
    open_places = k - len(ranked)
    return ranked + [-1] * open_places, [float(score[item]) for item in ranked] + [0] * open_places


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("tenths", [(3, 6, 1), (1, 1, 8), (0, 5, 5), (10, 0, 0), (4, 2, 4)])
def test_fuse_equals_a_sort_in_exact_fractions(tenths, k):
    lists, _ = random_lists(sum(tenths[:2]), 60)
    exact = {name: fractions.Fraction(part, 10) for name, part in zip(lists, tenths, strict=True)}
    fused = fuse(lists, {name: float(weight) for name, weight in exact.items()}, k)
    assert fused.item.dtype == np.int32
    assert fused.item.shape == fused.probability.shape == (60, k)
    for user in range(60):
        items, scores = naive_fuse(lists, exact, k, user)
        assert fused.item[user].tolist() == items
        np.testing.assert_allclose(fused.probability[user], scores, rtol=0, atol=1e-15)


def test_every_block_of_users_is_fused_alike():
    lists, _ = random_lists(5, 1100)
    weights = {"a": 0.5, "b": 0.2, "c": 0.3}
    fused = fuse(lists, weights, 6)
    for user in (0, 511, 512, 1099):
        alone = {
            name: RankedLists(source.item[[user]], source.probability[[user]])
            for name, source in lists.items()
        }
        assert (fused.item[user] == fuse(alone, weights, 6).item[0]).all()


def test_sums_that_differ_in_their_last_bits_are_a_tie():
    lists = {
        "a": RankedLists(np.array([[7, 8]], np.int32), np.array([[0.3, 0.2]])),
        "b": RankedLists(np.array([[8, -1]], np.int32), np.array([[0.4, 0.0]])),
    }
    weights = {"a": 0.8, "b": 0.2}
    assert 0.8 * 0.3 < 0.8 * 0.2 + 0.2 * 0.4  # both are 0.24
    assert fuse(lists, weights, 2).item.tolist() == [[7, 8]]
    assert fuse({"b": lists["b"], "a": lists["a"]}, weights, 2).item.tolist() == [[8, 7]]
    chosen = choose_weights(lists, np.array([7]), step=0.2, k=1)
    assert (chosen.weights, chosen.metrics["hr@1"]) == ({"a": 0.8, "b": 0.2}, 1)


def test_a_source_of_its_own_keeps_its_order_and_fills_with_what_has_no_probability():
    lists = {"a": RankedLists(np.array([[5, 2, 9, -1]]), np.array([[0.5, 0.25, 0, 0]], np.float32))}
    fused = fuse(lists, {"a": 1}, 5)
    assert fused.item.tolist() == [[5, 2, 9, -1, -1]]
    assert fused.probability.tolist() == [[0.5, 0.25, 0, 0, 0]]


def test_nobody_and_empty_lists_are_served():
    nothing = RankedLists(np.zeros((2, 0), np.int32), np.zeros((2, 0)))
    assert fuse({"a": nothing}, {"a": 1.0}, 3).item.tolist() == [[-1] * 3] * 2
    nobody = RankedLists(np.zeros((0, 4), np.int32), np.zeros((0, 4)))
    assert fuse({"a": nobody}, {"a": 1.0}, 3).item.shape == (0, 3)


def by_fuse(lists, weights, target, k):
    return metrics_at(item_ranks(fuse(lists, weights, k).item, target), (k,))


@pytest.mark.parametrize(
    ("seed", "num_users", "widths", "steps", "k"),
    [
        (0, 150, (4, 7, 1), 10, 3),
        (1, 40, (3, 3, 3), 20, 10),
        (2, 30, (5, 2), 20, 2),
        (3, 9, (2, 4, 3, 6), 5, 4),
        (4, 3, (3, 3, 3), 4, 1),
        (5, 20, (6,), 4, 5),
    ],
)
def test_chosen_weights_are_the_best_that_fuse_and_the_metrics_find(
    seed, num_users, widths, steps, k
):
    lists, target = random_lists(seed, num_users, widths)
    tried = []
    for shares in itertools.product(range(steps + 1), repeat=len(lists)):
        if sum(shares) == steps:
            weights = {name: share / steps for name, share in zip(lists, shares, strict=True)}
            ndcg = by_fuse(lists, weights, target, k)[f"ndcg@{k}"]
            distance = sum(share**2 for share in shares)
            tried.append((round(ndcg, 12), -distance, shares, weights))
    chosen = choose_weights(lists, target, step=1 / steps, k=k)
    assert chosen.weights == max(tried)[-1]
    assert chosen.metrics == by_fuse(lists, chosen.weights, target, k)
    for name, source in lists.items():
        assert chosen.sources[name] == by_fuse({name: source}, {name: 1.0}, target, k)
    assert (chosen.num_users, chosen.step, chosen.k) == (num_users, 1 / steps, k)


def test_sources_that_say_the_same_get_the_most_equal_weights():
    lists, target = random_lists(6, 50, (5,))
    lists = dict.fromkeys("abc", lists["a"])
    assert choose_weights(lists, target, step=0.25).weights == {"a": 0.5, "b": 0.25, "c": 0.25}


def test_users_whose_target_no_source_lists_count_as_missed():
    lists = {"a": RankedLists(np.array([[1], [2]], np.int32), np.array([[0.5], [0.5]]))}
    chosen = choose_weights(lists, np.array([1, 7]))
    assert chosen.metrics == chosen.sources["a"] == {"hr@10": 0.5, "ndcg@10": 0.5}
    nobody_found = choose_weights(lists, np.array([7, 7]))
    assert nobody_found.metrics == {"hr@10": 0.0, "ndcg@10": 0.0}


def ranked(item, probability):
    return RankedLists(np.array(item), np.array(probability))


GOOD = ranked([[1, 2]], [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ranked([1, 2], [0.5, 0.5]), r"count: item is int64 \[2\]"),
        (ranked([[1.0]], [[0.5]]), r"count: item is float64 \[1, 1\]"),
        (ranked([[1, 2]], [[0.5]]), r"count: probability is float64 \[1, 1\].*shape, \[1, 2\]"),
        (ranked([[1]], [[1]]), "count: probability is int64"),
        (ranked([[1], [2]], [[0.5], [0.5]]), "count: 2 users, but model has 1"),
        (ranked([[1, -2]], [[0.5, 0.0]]), "count: user 0, place 1: item -2.*expected an item id"),
        (ranked([[1, 3]], [[0.5, -0.25]]), r"count: user 0, place 1: .*-0.25; expected a prob"),
        (ranked([[1, 3]], [[0.5, np.nan]]), "count: user 0, place 1: item 3, probability nan"),
        (ranked([[3, 1]], [[1.5, 0.1]]), "count: user 0, place 0: item 3, probability 1.5"),
        (ranked([[1, -1]], [[0.5, 0.25]]), "count: user 0, place 1: item -1, .*0.25; there is no"),
        (ranked([[1, 2]], [[0.75, 0.5]]), "count: user 0: probabilities sum to 1.25"),
        (ranked([[4, 1, 4]], [[0.2, 0.2, 0.2]]), "count: user 0: item 4 stands in the list twice"),
    ],
)
def test_lists_that_are_none_are_named(source, message):
    lists = {"model": GOOD, "count": source}
    with pytest.raises(ValueError, match=message):
        fuse(lists, {"model": 0.5, "count": 0.5}, 2)
    with pytest.raises(ValueError, match=message):
        choose_weights(lists, np.array([1]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"model": 1.0}, "none for source 'count'"),
        ({"model": 0.5, "count": 0.5, "beam": 0.0}, "'beam' is not a source"),
        ({"model": 1.5, "count": -0.5}, "count has -0.5; expected a finite number >= 0"),
        ({"model": float("nan"), "count": 1.0}, "model has nan"),
        ({"model": "1", "count": 0.0}, "model has '1'"),
        ({"model": 0.5, "count": 0.25}, "sum to 0.75; they must sum to 1"),
    ],
)
def test_weights_that_are_none_are_named(weights, message):
    with pytest.raises(ValueError, match=f"^weights: .*{message}"):
        fuse({"model": GOOD, "count": GOOD}, weights, 2)


def test_other_impossible_input_is_named():
    with pytest.raises(ValueError, match="lists: no sources"):
        fuse({}, {}, 2)
    with pytest.raises(ValueError, match="k: 0"):
        fuse({"a": GOOD}, {"a": 1.0}, 0)
    with pytest.raises(ValueError, match="k: 0"):
        choose_weights({"a": GOOD}, np.array([1]), k=0)
    with pytest.raises(ValueError, match=r"target: int64 \[2\]; expected integers \[1\]"):
        choose_weights({"a": GOOD}, np.array([1, 2]))
    with pytest.raises(ValueError, match=r"target: float64 \[1\]"):
        choose_weights({"a": GOOD}, np.array([1.0]))
    with pytest.raises(ValueError, match="target: -1 of user 0"):
        choose_weights({"a": GOOD}, np.array([-1]))
    nobody = ranked(np.zeros((0, 2), int), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="target: no users"):
        choose_weights({"a": nobody}, np.array([], int))
    for step in (0.3, 0.0, -0.5, 2.0, float("nan")):
        with pytest.raises(ValueError, match=f"step: {step}; must divide 1"):
            choose_weights({"a": GOOD}, np.array([1]), step=step)
    with pytest.raises(ValueError, match=r"step: 0.001 makes 501,501 weightings of 3 sources"):
        choose_weights(dict.fromkeys("abc", GOOD), np.array([1]), step=0.001)


def from_file(path):
    return FusionWeights.from_json(read_json(path), where=str(path))


def test_weights_come_back_from_their_file(tmp_path):
    lists, target = random_lists(7, 80)
    chosen = choose_weights(lists, target, step=0.1)
    (tmp_path / "fusion.json").write_text(json.dumps(chosen.to_json()))
    loaded = from_file(tmp_path / "fusion.json")
    assert loaded == chosen
    assert list(loaded.weights) == list(lists)
    fused = fuse(lists, loaded.weights, 10)
    assert metrics_at(item_ranks(fused.item, target), (10,)) == chosen.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": 0.5, "b": 0.4}}, "weights: .* sum to 0.9"),
        ({"weights": {"a": 2, "b": -1}}, "weights: b has -1"),
        ({"weights": []}, r"weights is \[\]; expected an object"),
        ({"weights": {}}, r"weights: \{\} sum to 0"),
        ({"metrics": {"hr@10": 0.5}}, r"metrics: .*expected \['hr@10', 'ndcg@10'\]"),
        (
            {"metrics": {"hr@10": 1.5, "ndcg@10": 0}},
            r"metrics\.hr@10 is 1\.5; expected a number in \[0, 1\]",
        ),
        ({"metrics": {"hr@10": "x", "ndcg@10": 0}}, r"metrics\.hr@10 is 'x'"),
        ({"sources": {"a": {"hr@10": 0, "ndcg@10": 0}}}, "sources: .*metrics of each of a, b"),
        ({"sources": {"a": {"hr@10": 0, "ndcg@10": 0}, "b": 3}}, r"sources\.b is 3"),
        ({"num_users": 0}, "num_users is 0; expected a whole number from 1 on"),
        ({"num_users": 2.5}, r"num_users is 2\.5"),
        ({"k": True}, "k is True"),
        ({"step": 0.3}, "step: 0.3; must divide 1"),
        ({"step": None}, "step is None; expected a finite number"),
        ({"wieghts": 1}, "unknown field 'wieghts'"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(tmp_path, change, message):
    metrics = {"hr@10": 0.5, "ndcg@10": 0.25}
    good = FusionWeights({"a": 0.5, "b": 0.5}, metrics, {"a": metrics, "b": metrics}, 9, 0.05, 10)
    path = tmp_path / "fusion.json"
    path.write_text(json.dumps(good.to_json()))
    assert from_file(path) == good
    path.write_text(json.dumps({**good.to_json(), **change}))
    with pytest.raises(ValueError, match=f"fusion.json: {message}"):
        from_file(path)


def test_a_field_that_is_missing_and_a_file_of_something_else_are_named(tmp_path):
    path = tmp_path / "fusion.json"
    path.write_text('{"weights": {"a": 1}}')
    with pytest.raises(ValueError, match=r"fusion.json: metrics is missing"):
        from_file(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"fusion.json: holds \[1, 2\]; expected an object"):
        from_file(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"fusion.json: not a JSON file"):
        from_file(path)


def test_items_that_share_a_sid_share_its_probability_as_their_interactions():
    sids = np.array([[1, 2], [1, 3], [1, 2], [4, 2], [1, 2]])
    lists = RankedLists(np.array([[0, 2, 1, -1], [4, 3, -1, -1]], np.int32), np.full((2, 4), 0.5))
    shared = shared_probability(lists, sid_shares(sids, np.array([3, 9, 0, 2, 0])))
    np.testing.assert_array_equal(shared.item, lists.item)
    # Items 0, 2 and 4 share one: 4, 1 and 1 of 6.
    expected = [[0.5 * 4 / 6, 0.5 / 6, 0.5, 0], [0.5 / 6, 0.5, 0, 0]]
    np.testing.assert_allclose(shared.probability, expected)


def test_items_that_a_source_cannot_know_are_as_probable_as_who_knows_them_says():
    search = RankedLists(np.array([[5, 1, 4, -1], [0, 1, 2, -1]], np.int32), np.zeros((2, 4)))
    search.probability[:, :3] = [0.3, 0.4, 0.1], [0.5, 0.2, 0.1]
    count = RankedLists(np.array([[1, 0], [2, -1]], np.int32), np.array([[0.75, 0.25], [0.5, 0]]))
    knowing = with_unknown(count, search, 4)
    fused = fuse({"search": search, "count": knowing}, {"search": 0.1, "count": 0.9}, 4)
    assert fused.item.tolist() == [[1, 5, 0, 4], [2, 0, 1, -1]]
    of_one = 0.1 * 0.4 + 0.9 * 0.75 * 0.6
    np.testing.assert_allclose(fused.probability[0], [of_one, 0.3, 0.9 * 0.25 * 0.6, 0.1])
    # Whose lists hold nothing new is left as it is.
    np.testing.assert_allclose(fused.probability[1], [0.1 * 0.1 + 0.9 * 0.5, 0.05, 0.02, 0])
