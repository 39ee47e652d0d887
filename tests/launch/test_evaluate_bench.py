"""The benchmark of evaluate: what it counts as its floor, and that both searches agree."""

import numpy as np
import pytest

from launch.bench import evaluate
from launch.bench.evaluate_floor import ATTENTION, floor_seconds, matrix_products
from minirec.models import TrunkConfig


def small(config):
    config.loader.max_items = 4
    config.evaluate.batch_size = 8
    config.evaluate.resamples = 10
    config.search.num_beams = 6
    config.model.num_layers = 2
    config.model.width = 16
    config.model.num_heads = config.model.num_kv_heads = 2
    config.model.head_dim = 8
    config.model.mlp_width = 24


def test_rows_tell_time_floor_and_memory_and_the_searches_agree(monkeypatch):
    monkeypatch.setattr(evaluate, "_MAX_EVENTS", 9)
    naive, ours = evaluate.run(20, 60, 3, 8, naive_users=8, change=small)
    assert naive["implementation"] == evaluate.NAIVE
    assert naive["measured_users"] == ours["same_lists"] == 8
    assert ours["implementation"] == "minirec"
    assert ours["users"] == naive["users"] == 20
    assert 0 < ours["search_seconds"] <= ours["seconds"]
    assert 0 <= ours["of_floor"] < 1
    assert ours["ratio"] == pytest.approx(naive["seconds"] / ours["seconds"], rel=0.2, abs=10)
    assert ours["programs"] == 1
    assert ours["peak_gb"] > 0.05


def test_the_floor_counts_what_one_user_cannot_do_without():
    trunk = TrunkConfig(num_layers=2, width=3, num_heads=5, num_kv_heads=1, head_dim=2, mlp_width=7)
    products = matrix_products(trunk, 11, np.array([4]), beams=[1, 6])
    # <bos> is not counted: of the first layer three prompt tokens and the six beams, without their
    # queries, keys and values; of the second the keys and values of all, and the rest for the last
    # token and the beams.
    queries, keys, whole = 1 + 6, 3 + 6, 3 + 6 + 1 + 6
    assert products[3, 10] == 2 * 3 * 10 * queries
    assert products[3, 2] == 2 * 3 * 2 * 2 * keys
    assert products[10, 3] == 2 * 10 * 3 * whole
    assert products[3, 7] == 2 * 3 * 7 * 2 * whole
    assert products[7, 3] == 2 * 7 * 3 * whole
    assert products[3, 11] == 2 * 3 * 11 * (1 + 6)
    pairs = (1 + 2 + 3 + 4) + 4 + 2 * 6 * (4 + 1)
    assert products[ATTENTION] == 2 * 2 * 10 * pairs
    rates = dict.fromkeys(products, 2.0) | {(3, 7): 4.0}
    del rates[ATTENTION]
    expected = (sum(products.values()) - products[ATTENTION] - products[3, 7]) / 2
    assert floor_seconds(products, rates) == expected + (products[ATTENTION] + products[3, 7]) / 4


def test_histories_are_as_long_as_in_amazon_beauty():
    log = evaluate.beauty_like_log(22_000, 12_000)
    views = log.views("test")
    length = views[:, 2] - views[:, 1]
    assert 7 < length.mean() < 8.5
    assert np.median(length) == 5
    assert 4 == length.min() < length.max() == 50
