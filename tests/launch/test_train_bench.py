"""The benchmark of a training step: what it counts as its floor, and what its rows hold."""

import jax
import numpy as np
import pytest

import configs.amazon_beauty
from launch.bench import __main__ as bench
from launch.bench import evaluate, evaluate_floor, training
from launch.bench.evaluate_floor import ATTENTION
from launch.bench.training_floor import Places, item_products, mean_products, token_products
from minirec.models import ItemDecoderConfig, SidDecoderConfig, TrunkConfig
from minirec.training import ItemTask, SidPrefixes, SidTask
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.synthetic import SyntheticLog, columns_of

TRUNK = TrunkConfig(num_layers=2, width=3, num_heads=5, num_kv_heads=1, head_dim=2, mlp_width=7)


def small(config):
    config.loader.batch_size = 8
    config.loader.max_items = 4
    config.model.num_layers = 1
    config.model.width = 16
    config.model.num_heads = config.model.num_kv_heads = 2
    config.model.head_dim = 8
    config.model.mlp_width = 24
    config.model.level_width = 8
    config.model.dtype = "float32"


@pytest.fixture
def quick_compilation():
    """The backend hardly optimises: the figures mean nothing here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("quick_compilation")
def test_rows_tell_times_targets_floor_and_memory(monkeypatch):
    monkeypatch.setattr(evaluate, "_MAX_EVENTS", 9)
    monkeypatch.setattr(evaluate_floor, "_ROWS", (512,))
    tokens, items = training.run(
        num_users=40,
        num_items=4000,
        num_levels=2,
        codebook_size=8,
        num_negatives=20,
        rounds=3,
        num_batches=2,
        item_losses=["drawn"],
        change=small,
    )
    assert (tokens["implementation"], tokens["item_loss"]) == (training.TOKENS, "none")
    assert (items["implementation"], items["item_loss"]) == (training.ITEMS, "20 drawn")
    for row in (tokens, items):
        assert 0 < row["best_step_ms"] <= row["step_ms"]
        assert 0 < row["floor_ms"] < row["step_ms"]
        assert row["of_floor"] == pytest.approx(row["floor_ms"] / row["step_ms"], abs=0.002)
        assert row["compile_seconds"] > 0
        assert row["items_a_row"] == 5
    assert tokens["ratio"] == 1
    ratio = items["targets_per_second"] / tokens["targets_per_second"]
    assert items["ratio"] == pytest.approx(ratio, abs=0.01)
    assert 0 < items["target_share"] == tokens["target_share"] < 1
    # The item table, its gradient and AdamW's two moments of it are 1 MB.
    assert 0.0005 < items["peak_gb"] < 0.1


def test_the_variants_see_the_same_examples_and_score_what_their_loss_is_over():
    config = configs.amazon_beauty.get_config()
    small(config)
    catalogue = training.make_catalogue(40, 60, 2, 8)
    tokens = training.Variant(config, catalogue, training.TOKENS, {}, 2)
    products = {}
    for loss in ({"num_negatives": 0}, {"num_negatives": 23}, {"item_weight": 0.0}):
        variant = training.Variant(config, catalogue, training.ITEMS, loss, 2)
        assert variant.has_examples_of(tokens)
        products[variant.item_loss] = variant.products
    assert [(16, 60) in x for x in products.values()] == [True, False, False]
    assert [(16, 23) in x for x in products.values()] == [False, True, False]
    assert list(products) == ["all", "23 drawn", "none"]
    config.seed = 1
    other = training.Variant(config, catalogue, training.TOKENS, {}, 2)
    assert not other.has_examples_of(tokens)


def test_as_many_negatives_as_items_and_unknown_losses_are_refused():
    with pytest.raises(ValueError, match=r"num_negatives=60: must lie in \[1, 59\]"):
        next(training.run(num_items=60, num_negatives=60))
    with pytest.raises(ValueError, match="'some' is none of"):
        next(training.run(item_losses=["some"]))


def test_training_is_a_benchmark():
    assert bench.BENCHMARKS["training"] is training.run


@pytest.fixture
def item_tokens():
    return np.array([[2, 5], [3, 6], [2, 7], [4, 5]], np.int32)


@pytest.fixture
def log():
    """Users of 3 and of 2 training items: a row of 6 places holds both and one of padding."""
    sequences = np.array([[0, 0, 3], [1, 5, 7]])
    items = np.array([0, 1, 2, 3, 3, 1, 0, 3, 3], np.int32)
    return SyntheticLog(columns_of(items), np.array([0, 5, 9]), sequences, 4, {})


def one_row(log):
    config = BatchConfig(1, 5, examples="histories", pack=True, row_items=6)
    return train_batches(log, config, seed=0).batch_at(0)


def test_a_log_counts_its_training_interactions(log):
    assert log.train_count.tolist() == [2, 2, 1, 0]


def test_a_position_an_item_is_counted_where_it_is_needed(log, item_tokens):
    task = ItemTask(lambda _: {}, SidPrefixes.of(item_tokens))
    places = Places.of_items(task.inputs(one_row(log)))
    # Examples of 3 and 2 places; the first item of each is no target.
    assert sorted(places.read) == [1, 1, 2, 2, 3]
    assert sorted(places.asked) == [2, 2, 3]
    config = ItemDecoderConfig(TRUNK, 8, 4, num_levels=2, level_width=13)
    products = item_products(config, places, num_codes=[3, 23], num_scored=4)
    whole = 5 + 3  # The last layer is worked through for targets alone.
    # A weight's own shape holds the forward product and its gradient, the turned one the input's.
    assert products[3, 10] == 2 * 3 * 10 * (2 * whole + whole)  # queries, and turned: output
    assert products[10, 3] == 2 * 3 * 10 * (2 * whole + whole)
    assert products[3, 2] == 2 * 2 * 3 * 2 * (2 * 2 * 5)  # keys and values, two layers of all
    assert products[2, 3] == products[3, 2] / 2
    assert products[3, 7] == 2 * 3 * 7 * (2 * 2 * whole + whole)  # gate and up, and turned: down
    assert products[7, 3] == 2 * 3 * 7 * (2 * whole + 2 * whole)
    gate_and_up, down = 2 * 3, 3
    assert products[3, 13] == 2 * 3 * 13 * (2 * gate_and_up + 2 * down)  # turned: both levels' down
    assert products[6, 13] == 2 * 6 * 13 * 2 * gate_and_up
    assert products[13, 6] == products[6, 13] / 2
    assert products[13, 3] == 2 * 3 * 13 * (2 * 2 * down + gate_and_up)
    assert products[3, 23] == 2 * products[23, 3] == 2 * 3 * 23 * 2 * 3
    assert products[3, 4] == 2 * products[4, 3] == 2 * 3 * 4 * 2 * 3
    pairs = (1 + 1 + 2 + 2 + 3) + (2 + 2 + 3)
    assert products[ATTENTION] == 3 * 2 * 2 * 10 * pairs
    # Twice as much of one step and nothing of another is as much a step.
    assert mean_products([products, {}])[3, 23] == products[3, 23] / 2

    only_items = item_products(config, places, num_codes=[], num_scored=4)
    assert {(6, 13), (3, 23)}.isdisjoint(only_items)
    assert (3, 4) not in item_products(config, places, num_codes=[3, 23], num_scored=0)


def test_a_position_a_token_is_counted_where_it_is_needed(log, item_tokens):
    inputs = SidTask(lambda _: {}, item_tokens).inputs(one_row(log))
    places = Places.of_tokens(inputs, 2)
    assert sorted(places.read) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 6]
    assert sorted(places.asked) == [3, 3, 4, 4, 5, 6]
    products = token_products(SidDecoderConfig(TRUNK, 8), places)
    assert products[3, 8] == 2 * products[8, 3] == 2 * 3 * 8 * 2 * 6
    assert products[3, 2] == 2 * 2 * 3 * 2 * (2 * 2 * 10)
    assert products[3, 10] == 2 * 3 * 10 * 3 * (10 + 6)
    assert products[ATTENTION] == 3 * 2 * 2 * 10 * (31 + 25)
