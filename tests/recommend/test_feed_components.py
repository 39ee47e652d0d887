"""A feed's filters and scorers, each against a loop that does the same."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from minirec.recommend.candidates import Candidates
from minirec.recommend.feed import filters
from minirec.recommend.feed.scorers import (
    BrandDiversity,
    ColdStart,
    DppRerank,
    Freshness,
    OutOfNetwork,
    WeightedScorer,
    by_score,
    dpp_chosen,
)
from minirec.recommend.pipeline import FeedQuery

QUERY = FeedQuery("ann", 1000.0)
SEEDS = st.integers(0, 10**6)


def drawn(seed, number=20):
    rng = np.random.default_rng(seed)
    return rng, Candidates.of(
        rng.permutation(50)[:number],
        score=np.round(rng.random(number), 1),  # Some tie.
        brand=rng.integers(-1, 4, number),
        category=rng.integers(0, 3, number),
        age_s=np.where(rng.random(number) < 0.1, np.nan, rng.random(number) * 100),
        price=np.where(rng.random(number) < 0.1, np.nan, rng.integers(0, 9, number)),
        in_stock=rng.random(number) < 0.7,
        group=rng.integers(-1, 5, number),
        title=np.array([f"Red Shoe {n}" if n % 3 else "blue-hat" for n in range(number)], object),
        seller=np.array([["ann", "bob"][n % 2] for n in range(number)], object),
        regions=np.array([{"eu"} if n % 4 else {"us", "eu"} for n in range(number)], object),
    )


@hypothesis.given(SEEDS)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_filters_keep_what_loops_keep(seed):
    rng, some = drawn(seed)
    double = Candidates.together([some, some.take(np.arange(5))])
    n = range(len(some))
    item = some.item.tolist()
    seen, served = rng.permutation(50)[:8], rng.permutation(50)[:8]
    bought = {int(one): float(rng.integers(0, 1000)) for one in rng.permutation(50)[:20]}
    bloom = frozenset(range(0, 50, 7))
    query = QUERY.with_values(
        {
            "seen_items": seen, "seen_bloom": bloom, "served_items": served,
            "bought_items": bought, "blocked_brand": [2, 3], "muted_words": ["SHOE", "lace"],
            "price_from": 2, "price_to": 6, "region": "us",
        }
    )  # fmt: skip
    interval = {0: 300.0, 1: math.inf}
    cases = [
        (filters.OutOfStock(), [bool(some["in_stock"][i]) for i in n]),
        (filters.Age(50), [not some["age_s"][i] > 50 for i in n]),
        (filters.OwnListings(), [some["seller"][i] != "ann" for i in n]),
        (filters.PreviouslySeen(), [item[i] not in seen and item[i] not in bloom for i in n]),
        (filters.PreviouslyServed(), [item[i] not in served for i in n]),
        (
            filters.AlreadyBought(interval, 500.0),
            [
                item[i] not in bought
                or 1000.0 - bought[item[i]] >= interval.get(int(some["category"][i]), 500.0)
                for i in n
            ],
        ),
        (filters.Blocked("brand"), [some["brand"][i] not in (2, 3) for i in n]),
        (filters.Keywords(), ["shoe" not in some["title"][i].lower().split() for i in n]),
        (filters.PriceRange(), [2 <= some["price"][i] <= 6 for i in n]),
        (filters.Region(), ["us" in some["regions"][i] for i in n]),
        (
            filters.OneOfAGroup(),
            [some["group"][i] < 0 or some["group"][i] not in some["group"][:i].tolist() for i in n],
        ),
        (
            filters.ItemDataMissing(("price", "brand", "title")),
            [not math.isnan(some["price"][i]) and some["brand"][i] != -1 for i in n],
        ),
    ]
    for one, expected in cases:
        assert one.keep(query, some).tolist() == expected, one.name
    kept = filters.Duplicates().keep(query, double)
    assert kept.tolist() == [i < len(some) for i in range(len(double))]
    for one in (filters.PreviouslySeen(), filters.PreviouslyServed(), filters.AlreadyBought({}),
                filters.Blocked("brand"), filters.Keywords(), filters.PriceRange(),
                filters.Region()):  # fmt: skip
        assert one.keep(QUERY, some).all(), one.name  # Nobody said that it shall not be shown.
    assert not filters.ItemDataMissing(("colour",)).keep(QUERY, some).any()
    unknown = Candidates.together(
        [
            Candidates.of([1], in_stock=np.array([1]), visible=np.array([True]),
                          price=np.array([3]), title=np.array(["Hat"]), category=np.array([0.0])),
            Candidates.of([2]),
        ]
    )  # fmt: skip
    for one in (filters.OutOfStock(), filters.Visibility(), filters.ItemDataMissing(("title",))):
        assert one.keep(query, unknown).tolist() == [True, False]
    cheap = QUERY.with_values({"price_to": 100, "bought_items": {2: 999.0}})
    assert filters.PriceRange().keep(cheap, unknown).tolist() == [True, False]
    assert filters.AlreadyBought({}).keep(cheap, unknown).tolist() == [True, False]


def test_words_are_muted_whole():
    some = Candidates.of([1, 2], title=np.array(["A table", "able hands"], object))
    query = QUERY.with_values({"muted_words": ["Able"]})
    assert filters.Keywords().keep(query, some).tolist() == [True, False]


@hypothesis.given(SEEDS, st.sampled_from([(3.0, -2.0, 1.0), (1.0, 2.0, 0.0), (0.0, 0.0, 0.0),
                                          (-1.0, -4.0, 0.5)]))  # fmt: skip
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_weighted_sums_follow_the_published_rule(seed, weights):
    rng, some = drawn(seed)
    names = ("view", "hide", "buy")
    columns = {f"p_{name}": rng.random(len(some)) for name in names}
    columns["p_hide"][::4] = np.nan
    for name in names:
        columns[f"p_{name}"][3] = np.nan  # Nobody has judged this one.
    some = some.with_columns(columns)
    got = WeightedScorer(dict(zip(names, weights, strict=True)), 0.01).score(QUERY, some)["score"]
    negative = sum(-weight for weight in weights if weight < 0)
    whole = sum(weight for weight in weights if weight > 0) + negative
    for place in range(len(some)):
        given = {name: columns[f"p_{name}"][place] for name in names}
        told = [name for name in names if not math.isnan(given[name])]
        if not told:
            assert math.isnan(got[place])
            continue
        c = sum(weights[names.index(name)] * given[name] for name in told)
        if whole == 0:
            expected = max(c, 0.0)
        elif c < 0:
            expected = (c + negative) / whole * 0.01
        else:
            expected = c + 0.01
        assert got[place] == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="'view' has nan"):
        WeightedScorer({"view": math.nan})


def in_order(some):
    return sorted(range(len(some)), key=lambda i: (-some["score"][i], some.item[i]))


@hypothesis.given(SEEDS)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_factors_are_those_of_loops(seed):
    _, some = drawn(seed)
    assert by_score(some["score"], some.item).tolist() == in_order(some)
    met = {}
    got = BrandDiversity(0.5, 0.25).score(QUERY, some)["score"]
    for place in in_order(some):
        brand = int(some["brand"][place])
        k = met.get(brand, 0)
        met[brand] = k + 1
        factor = 1.0 if brand < 0 else 0.75 * 0.5**k + 0.25
        assert got[place] == some["score"][place] * factor
    known = some.with_columns({"in_network": some["in_stock"]})
    for query, factor in ((QUERY, 0.75), (QUERY.with_values({"is_new_user": True}), 0.9)):
        got = OutOfNetwork().score(query, known)["score"]
        assert got.tolist() == [
            score * (1.0 if inside else factor)
            for score, inside in zip(some["score"], some["in_stock"], strict=True)
        ]
    got = Freshness(20.0, 0.4).score(QUERY, some)["score"]
    for place in range(len(some)):
        age = some["age_s"][place]
        factor = 1.0 if math.isnan(age) else 0.4 + 0.6 * 0.5 ** (age / 20.0)
        assert got[place] == pytest.approx(some["score"][place] * factor, abs=1e-12)


def log_det(score, vectors, places, alpha):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.exp(alpha * score / np.abs(score).max())
    kernel = quality[:, None] * quality * (unit @ unit.T)
    return np.linalg.slogdet(kernel[np.ix_(places, places)])[1]


@hypothesis.given(SEEDS, st.sampled_from([0.0, 0.65, 0.95]))
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_the_process_chooses_what_adds_most_to_the_determinant(seed, theta):
    rng = np.random.default_rng(seed)
    score, vectors, alpha = rng.random(9), rng.normal(size=(9, 6)), theta / (2 * (1 - theta))
    chosen = dpp_chosen(score, vectors, 4, alpha).tolist()
    for number in range(4):
        gains = {
            other: log_det(score, vectors, [*chosen[:number], other], alpha)
            for other in range(9)
            if other not in chosen[:number]
        }
        assert gains[chosen[number]] >= max(gains.values()) - 1e-9
    assert len(set(chosen)) == 4
    # Vectors of a plane have no volume beyond two.
    assert len(dpp_chosen(score, vectors[:, :2], 4, alpha)) == 2


def test_what_is_chosen_keeps_its_order_and_stands_before_the_others():
    rng = np.random.default_rng(3)
    number = 30
    some = Candidates.of(np.arange(number), score=rng.random(number) * 3 - 1,
                         vector=rng.normal(size=(number, 8)))  # fmt: skip
    some["score"][4] = np.nan
    positive = some.with_columns({"score": some["score"] + 2})
    assert np.nanmin(DppRerank(5, most=12).score(QUERY, positive)["score"]) > 0
    found = DppRerank(5, most=12).score(QUERY, some)
    chosen = np.flatnonzero(found["dpp"])
    assert len(chosen) == 5
    first = by_score(some["score"], some.item)[:12]
    assert set(chosen) <= set(first.tolist())
    assert found["score"][chosen].tolist() == some["score"][chosen].tolist()
    others = [place for place in range(number) if place not in chosen and place != 4]
    assert np.nanmax(found["score"][others]) < found["score"][chosen].min()
    before = [place for place in by_score(some["score"], some.item) if place in others]
    after = [place for place in by_score(found["score"], some.item) if place in others]
    assert before == after
    assert math.isnan(found["score"][4])
    assert not DppRerank(5).enable(QUERY.with_values({"diversify": False}))


def test_new_items_are_lifted_to_a_place_up_to_the_cap_and_by_the_draw():
    number = 40
    some = Candidates.of(
        np.arange(number), score=np.linspace(1, 0, number), is_new=np.arange(number) % 9 == 8,
        likes=np.zeros(number), views=np.zeros(number),
    )  # fmt: skip
    lifted_by = set()
    for seed, cap in itertools.product(range(30), (0, 1, 2)):
        query = QUERY.with_values({"seed": seed})
        found = ColdStart(place=15, cap=cap).score(query, some)
        lifted = np.flatnonzero(found["lifted"]).tolist()
        assert len(lifted) == cap
        order = by_score(found["score"], some.item).tolist()
        assert set(order[15 : 15 + cap]) == set(lifted)
        others = [place for place in order if place not in lifted]
        assert others == sorted(others)
        again = ColdStart(place=15, cap=cap).score(query, some)["score"]
        assert again.tolist() == found["score"].tolist()
        lifted_by |= set(lifted)
    # Those that are new and stand behind the place; the worst is never the better of two draws.
    assert lifted_by == {17, 26}
    tied = some.with_columns({"score": np.full(number, 0.5), "is_new": some.item == 30})
    order = by_score(ColdStart(place=15).score(QUERY, tied)["score"], tied.item).tolist()
    assert order == [*range(15), 30, *range(15, 30), *range(31, number)]
    # One that thousands have seen and nobody liked is hardly ever drawn before the others.
    known = some.with_columns({"views": np.where(some.item == 17, 1e6, 0.0)})
    drawn_first = [
        ColdStart(place=15, cap=1).score(QUERY.with_values({"seed": seed}), known)["lifted"][17]
        for seed in range(30)
    ]
    assert sum(drawn_first) < 10
