"""What the items' text says: rows, neighbours and the baseline that adds them to the count."""

import math
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from minirec.evaluation import choose_weight, item_ranks, metrics_at
from minirec.recommend import ItemTransition, TransitionContent
from minirec.recommend.baselines.transition_content import WEIGHTS
from minirec.recommend.content import content_rows, nearest, neighbours

WORDS = ("steel", "red", "10", "staple", "kit", "ünï", "gun")
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=5), min_size=2, max_size=9)


def cosines(rows):
    """Of all pairs, as the neighbours keep them; nothing of an item with itself."""
    dense = rows.toarray()
    found = (dense @ dense.T).astype(np.float16)
    np.fill_diagonal(found, 0)
    return found


@hypothesis.given(texts)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_words_are_weighed_as_the_formula_says(items):
    titles = [" ".join(words[:-1]).upper() for words in items]
    attributes = [[f"brand={word}" for word in words[-1:]] for words in items]
    rows = content_rows(titles, attributes)
    if not any(titles):
        return
    number = {word: sum(word in words for words in items) for word in WORDS}
    shared = [word for word in WORDS if number[word] > 1]
    if not shared:
        assert rows.nnz == 0
        return
    want = np.array(
        [
            [
                (1 + math.log(words.count(word))) * (1 + math.log((1 + len(items)) / (1 + n)))
                if (n := number[word]) and word in words
                else 0
                for word in sorted(shared)
            ]
            for words in items
        ]
    )
    length = np.linalg.norm(want, axis=1, keepdims=True)
    want = np.divide(want, length, out=want, where=length > 0)
    np.testing.assert_allclose(rows.toarray(), want, rtol=1e-6)


def test_without_titles_attributes_count_by_how_few_items_have_them():
    attributes = [["a=1", "b=2", "all"], ["a=1", "all"], ["b=2", "c=3", "all", "all"], ["all"]]
    rows = content_rows([""] * 4, attributes)
    two, four = math.log(4 / 2), math.log(4 / 1)
    third = two / math.hypot(two, four)
    np.testing.assert_allclose(
        cosines(rows)[0], [0, 1 / math.sqrt(2), third / math.sqrt(2), 0], rtol=1e-3
    )
    assert rows[[3]].nnz == 0


def test_of_terms_that_equally_many_items_have_the_first_is_searched_by_in_every_process():
    both, first, second = ["a=1", "b=2"], ["a=1"], ["b=2"]
    rows = content_rows([""] * 9, [both, *[first] * 3, *[second] * 3, [], []])
    assert nearest(rows, max_work=16).of(np.array([0]))[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("attributes", [[["x"]], [["x"], ["y"]], [[], []]])
def test_what_no_two_items_share_says_nothing(attributes):
    for titles in ([""] * len(attributes), ["some", "word"][: len(attributes)]):
        rows = content_rows(titles, attributes)
        assert rows.nnz == 0
        assert nearest(rows).offsets.tolist() == [0] * (len(titles) + 1)


@hypothesis.given(texts, st.integers(1, 9), st.sampled_from([1.0, 20.0, 1e9]))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_neighbours_are_those_of_all_pairs(items, kept, block):
    rows = content_rows([" ".join(words) for words in items], [[]] * len(items))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BLOCK_WORK", block)
        found = nearest(rows, kept=kept)
    want = cosines(rows)
    for item, row in enumerate(want):
        nearest_first = np.lexsort((np.arange(len(row)), -row))
        order = sorted(j for j in nearest_first[:kept] if row[j] > 0)
        place, other, cosine = found.of(np.array([item]))
        assert other.tolist() == order
        np.testing.assert_array_equal(cosine, row[order])
        assert not place.any()
    everyone = np.arange(len(items))[::-1]
    place, other, _ = found.of(everyone)
    of = np.diff(found.offsets)[::-1]
    assert place.tolist() == np.repeat(np.arange(len(items)), of).tolist()
    assert len(other) == of.sum()


def test_the_most_common_words_are_left_out_where_a_search_would_take_too_long():
    titles = [f"all half{n % 2} few{n // 3} few{n // 3}b" for n in range(12)]
    rows = content_rows(titles, [[]] * 12)
    # Words of 3 items take 9 multiplications each, those of 6 and of 12 take 36 and 144.
    found = nearest(rows, max_work=8 * 9 + 2 * 36)
    assert found.left_out == 1
    _, other, _ = found.of(np.array([0]))
    assert other.tolist() == [1, 2, 4, 6, 8, 10]
    found = nearest(rows, max_work=8 * 9)
    assert found.left_out == 3
    assert found.of(np.array([0]))[1].tolist() == [1, 2]


def test_neighbours_are_read_back_and_only_where_they_are_of_the_same(tmp_path):
    found = nearest(content_rows(["a1 b1", "b1 c1", "c1 a1"], [[]] * 3))
    folder = tmp_path / "content"
    found.save(folder, {"prepared": "x"})
    loaded = neighbours.Neighbours.load(folder, {"prepared": "x"}, remedy="remove it")
    for name in ("offsets", "item", "cosine"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(found, name))
    assert neighbours.Neighbours.load(folder, {"prepared": "y"}, remedy="remove it") is None
    (folder / "item.npy").write_bytes((folder / "item.npy").read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=re.escape(f"{folder / 'item.npy'}: has been damaged")):
        neighbours.Neighbours.load(folder, {"prepared": "x"}, remedy="remove it")


NUM_ITEMS = 30


def a_baseline(seed):
    rng = np.random.default_rng(seed)
    sequences = rng.integers(0, NUM_ITEMS - 2, 80)
    transition = ItemTransition(sequences, np.arange(0, 81, 8), NUM_ITEMS)
    titles = [" ".join(rng.choice(WORDS, 2)) for _ in range(NUM_ITEMS)]
    rows = content_rows(titles, [[]] * NUM_ITEMS)
    histories = [rng.integers(0, NUM_ITEMS, length) for length in rng.integers(0, 14, 40)]
    return TransitionContent(transition, nearest(rows), 0.2), cosines(rows), histories


def naive_scores(baseline, cosine, history, weight):
    score = np.zeros(NUM_ITEMS)
    for age, item in enumerate(history[::-1][:10]):
        score += 0.5**age * baseline.transition.transitions[[item]].toarray()[0]
    like = np.zeros(NUM_ITEMS)
    for age, item in enumerate(history[::-1][:2]):
        like += 0.5**age * cosine[item].astype(np.float64)
    like[history[-2:]] = 0
    return np.round(score + weight * like, 12)


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("k", [3, NUM_ITEMS])
def test_the_baseline_ranks_as_the_formula_says(k, exclude_seen):
    baseline, cosine, histories = a_baseline(0)
    lists = baseline.recommend(histories, k, exclude_seen=exclude_seen)
    place = baseline.transition.popularity.place
    for history, got in zip(histories, lists, strict=True):
        score = naive_scores(baseline, cosine, history, baseline.weight)
        order = np.lexsort((place, -score))
        want = [item for item in order if not (exclude_seen and item in history)][:k]
        assert got.tolist() == want + [-1] * (k - len(want))


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_ranks_are_places_in_the_whole_list_under_every_weight(exclude_seen):
    baseline, _, histories = a_baseline(1)
    target = np.random.default_rng(2).integers(0, NUM_ITEMS, len(histories))
    weights = [0.01, 0.2, 3.0]
    ranks = baseline.ranks(histories, target, weights, exclude_seen=exclude_seen)
    for weight, got in zip(weights, ranks, strict=True):
        other = TransitionContent(baseline.transition, baseline.neighbours, weight)
        lists = other.recommend(histories, NUM_ITEMS, exclude_seen=exclude_seen)
        want = item_ranks(lists, target)
        assert got.tolist() == np.where(want < 0, NUM_ITEMS, want).tolist()
    best, ndcg = choose_weight(baseline, weights, histories, target, exclude_seen=exclude_seen)
    values = [metrics_at(np.where(row == NUM_ITEMS, -1, row), [10])["ndcg@10"] for row in ranks]
    assert list(ndcg) == ["0.01", "0.2", "3"]
    np.testing.assert_allclose(list(ndcg.values()), values, atol=1e-11)
    assert best == weights[int(np.argmax(np.round(values, 12)))]


@pytest.mark.parametrize(
    ("name", "want"), [("amazon_industrial", (0.1575, 0.1077)), ("amazon_beauty", (0.0848, 0.0544))]
)
def test_the_real_sets_reach_their_figures(name, want, real_data, tmp_path):
    from configs import amazon_beauty, amazon_industrial
    from pipelines.prepare.prepare import prepare
    from pipelines.prepared import Prepared

    config = {"amazon_beauty": amazon_beauty, "amazon_industrial": amazon_industrial}[name]
    config = config.get_config()
    config.data.source.folder = str(real_data / name)
    prepare(config.data, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    items = prepared.items
    rows = content_rows(items["title"].to_list(), items["attributes"].to_list())
    transition = ItemTransition(*prepared.training_items(), prepared.num_items)
    baseline = TransitionContent(transition, nearest(rows), 0.0)

    def of(split, weights, max_users=None):
        rows = np.arange(len(prepared.views(split)))[:max_users]
        target, histories = prepared.targets(split)[rows], prepared.histories(split, rows)
        seen = config.search.exclude_seen
        ranks = baseline.ranks(histories, target, weights, exclude_seen=seen)
        return [metrics_at(row, [10]) for row in ranks]

    found = [metrics["ndcg@10"] for metrics in of("valid", WEIGHTS, 2000)]
    best = WEIGHTS[int(np.argmax(found))]
    (metrics,) = of("test", [best])
    np.testing.assert_allclose([metrics["hr@10"], metrics["ndcg@10"]], want, atol=1e-3)
