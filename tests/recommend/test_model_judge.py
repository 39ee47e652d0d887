"""A model that a server asks: the same answers whatever the sizes, nothing compiled late."""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models import TrunkConfig
from minirec.models.feed import FeedModel
from minirec.models.hash_embedding import hash_buckets, ids_of
from minirec.models.ranker import Events, RankerConfig
from minirec.models.two_tower import TwoTowerConfig
from minirec.recommend.feed.live import PastEvents
from minirec.recommend.feed.model_judge import ModelJudge

N, LENGTH = 60, 6
TRUNK = TrunkConfig(num_layers=1, width=16, num_heads=1, num_kv_heads=1, head_dim=16, mlp_width=16)


@pytest.fixture(scope="module")
def parts():
    tables = {"num_actions": 3, "num_identities": 1, "num_buckets": 64, "hash_width": 8}
    model = FeedModel(
        RankerConfig(TRUNK, **tables), TwoTowerConfig(TRUNK, **tables, width=8), rngs=nnx.Rngs(2)
    )
    identities = hash_buckets(ids_of([f"i{item}" for item in range(N)]), 64, 2)[:, None]
    judge = ModelJudge(
        model, identities, actions=("view", "addtocart", "transaction"), max_items=LENGTH,
        most_found=20, kept_readings=2, sizes=(4, 16),
    )  # fmt: skip
    return model, jnp.asarray(identities), judge


PAST = PastEvents.of([3, 9, 3, 40, 7, 7, 8], [0, 1, 0, 0, 2, 0, 0], [0, 60, 61, 500, 501, 900, 990])


def expected(model, identities, past, items, now):
    past = past.newest(LENGTH)
    gap = np.diff(past.time, prepend=past.time[:1])
    events = Events(
        *(jnp.asarray(c, jnp.int32)[None] for c in (past.item, past.action, gap, past.item * 0 + 1))
    )
    reading = model.ranker.read(events, identities, jnp.array([len(past.item)]))
    wait = jnp.array([now - past.time[-1]], jnp.int32)
    logits = model.ranker.score(reading, identities, jnp.asarray(items)[None], wait)
    return jax.nn.sigmoid(logits[0, :, :-1])


def test_probabilities_are_the_models_however_many_candidates_come(parts):
    model, identities, judge = parts
    items = np.random.default_rng(0).permutation(N)
    whole = judge.probabilities(PAST, items, 1000.0)  # In pieces of 16.
    theirs = expected(model, identities, PAST, items, 1000.0)
    np.testing.assert_allclose(whole, theirs, rtol=2e-5, atol=2e-6)
    for number in (0, 1, 3, 4, 5, 17):
        some = judge.probabilities(PAST, items[:number], 1000.0)
        np.testing.assert_allclose(some, whole[:number], rtol=2e-5, atol=2e-6)
    assert judge.probabilities(PastEvents.of(), items[:2], 1000.0).shape == (2, 3)


def test_towers_find_what_is_nearest(parts):
    judge = parts[2]
    item, score = judge.find(PAST, 5, 1000.0)
    assert len(item) == 5
    assert (np.diff(score) <= 0).all()
    vectors = judge.vectors(np.arange(N))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    others, _ = judge.find(PAST.newest(2), 5, 1000.0)
    assert others.tolist() != item.tolist()


def test_nothing_compiles_once_it_is_warm_and_readings_are_kept(parts):
    judge = parts[2]
    judge.warm()
    before, misses = judge.num_traces, judge.misses
    with concurrent.futures.ThreadPoolExecutor(4) as pool:

        def ask(n):
            return judge.probabilities(PAST.newest(1 + n % 3), np.arange(n + 1), 2000.0 + n)

        list(pool.map(ask, range(12)))
    judge.find(PAST, 9, 0.0)
    assert judge.num_traces == before
    hits = judge.hits
    one = judge.probabilities(PAST, np.arange(3), 5000.0)
    two = judge.probabilities(PAST, np.arange(3), 5000.0)
    np.testing.assert_array_equal(one, two)
    assert judge.hits == hits + 1
    assert judge.misses > misses


def test_what_cannot_be_is_named(parts):
    model, identities, _ = parts
    with pytest.raises(ValueError, match="max_items=0"):
        ModelJudge(model, np.asarray(identities), actions=("a",), max_items=0, most_found=1)
