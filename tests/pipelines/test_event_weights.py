"""What an event's type counts as a target reaches `target_weight`, and nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from pipelines.batches.eval_batches import eval_batches
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.synthetic import SyntheticLog, columns_of, synthetic_log

MAX_ITEMS = 3
VIEW, CART, PING = range(3)
WEIGHTS = {"view": 1.0, "cart": 2.5, "ping": 0.0}
# Two users; what stands behind the last two events of each is held out.
ITEMS = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
EVENTS = [VIEW, CART, PING, VIEW, CART, PING, VIEW, VIEW, PING, CART, VIEW]
OFFSETS, TRAIN = [0, 7, 11], [[0, 0, 5], [1, 7, 9]]


def log(weights=WEIGHTS, events=EVENTS):
    return SyntheticLog(
        columns_of(np.array(ITEMS, np.int32)) | {"event": np.array(events, np.int32)},
        np.array(OFFSETS),
        np.array(TRAIN),
        num_items=7,
        splits={
            "train": np.array([[0, 0, stop] for stop in (1, 2, 3, 4)] + [[1, 7, 8]]),
            "valid": np.array([[0, 0, 5], [1, 7, 9]]),
        },
        event_weights=weights,
    )


def make(log_, batch_size=1, **config):
    config = BatchConfig(batch_size, MAX_ITEMS, num_threads=0, **config)
    return train_batches(log_, config, seed=0)


def weights_by_items(batches):
    """Returns the weight of each item of every segment of an epoch, by the segment's items."""
    found = {}
    for index in range(batches.num_rows):
        batch = batches.batch_at(index)
        assert batch["target_weight"].dtype == np.float32
        for row, ids in enumerate(batch["segment"]):
            for segment in range(1, ids.max() + 1):
                items = batch["item"][row, ids == segment].tolist()
                found[tuple(items)] = batch["target_weight"][row, ids == segment].tolist()
    return found


@pytest.mark.parametrize("pack", [False, True])
def test_a_windows_target_weighs_what_its_event_does(pack):
    batches = make(log(), pack=pack)
    assert weights_by_items(batches) == {
        (0, 1): [0, 2.5],
        # The views of the pings, item 2 of user 0 and item 1 of user 1, are no examples.
        (0, 1, 2, 3): [0, 0, 0, 1],
        (1, 2, 3, 4): [0, 0, 0, 2.5],
    }
    assert (batches.num_examples, batches.num_targets, batches.left_out) == (3, 3, 2)


@pytest.mark.parametrize("pack", [False, True])
def test_in_histories_an_event_of_weight_0_is_context_only(pack):
    batches = make(log(), examples="histories", stride=3, pack=pack)
    assert weights_by_items(batches) == {
        (0, 1, 2, 3): [0, 2.5, 0, 1],
        (1, 2, 3, 4): [0, 0, 0, 2.5],
        # User 1's only target is a ping.
    }
    assert (batches.num_examples, batches.num_targets, batches.left_out) == (2, 3, 1)


@pytest.mark.parametrize("weights", [{}, dict.fromkeys(WEIGHTS, 1.0), dict.fromkeys(WEIGHTS, 1)])
def test_weights_of_1_change_nothing(weights):
    expected, batches = make(log({}), 4), make(log(weights), 4)
    assert iter(batches).get_state() == iter(expected).get_state()
    assert "event_weights" not in batches.stream
    for index in range(5):
        one, other = expected.batch_at(index), batches.batch_at(index)
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].tobytes() == other[key].tobytes()
            assert one[key].dtype == other[key].dtype


def test_weights_scale_the_mask_and_leave_the_rest_of_the_stream_alone():
    plain = synthetic_log(20, num_items=7)
    events = np.random.default_rng(0).integers(0, 2, len(plain.columns["item"]), np.int32)
    weighted = dataclasses.replace(
        plain,
        columns=plain.columns | {"event": events},
        event_weights={"view": 0.5, "cart": 3.0},
    )
    for config in ({}, {"examples": "histories", "pack": True, "row_items": 10}):
        even = dataclasses.replace(weighted, event_weights={})
        one, other = make(even, 16, **config), make(weighted, 16, **config)
        for index in range(one.batches_per_epoch):
            expected, batch = one.batch_at(index), other.batch_at(index)
            mask = expected.pop("target_weight"), batch.pop("target_weight")
            assert set(np.unique(mask[1])) == {0.0, 0.5, 3.0}
            np.testing.assert_array_equal(mask[0] > 0, mask[1] > 0)
            for key in expected:
                np.testing.assert_array_equal(expected[key], batch[key])


def test_evaluation_does_not_know_of_weights():
    for one, other in zip(
        *(
            eval_batches(data, "valid", batch_size=2, max_items=MAX_ITEMS)
            for data in (log({}), log())
        ),
        strict=True,
    ):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize(
    ("field", "was", "now"),
    [
        ("event_weights", log({}), log()),
        ("event_weights", log(), log({})),
        ("event_weights", log(), log(WEIGHTS | {"cart": 3.0})),
        ("events", log(), log(events=[*EVENTS[:-1], CART])),
    ],
)
def test_a_position_under_other_weights_is_an_error_with_both(field, was, now):
    saved, other = iter(make(was)).get_state(), make(now)
    values = [repr(stream.get(field)) for stream in (saved["stream"], other.stream)]
    with pytest.raises(ValueError, match=f"{field} was {values[0]} .* is {values[1]} now"):
        iter(other).set_state(json.loads(json.dumps(saved)))


def test_a_type_without_a_weight_and_a_log_without_a_target_are_errors():
    with pytest.raises(ValueError, match=r"event 2 is of type 2: must lie in \[0, 2\).*view, cart"):
        make(log({"view": 1.0, "cart": 2.0}))
    with pytest.raises(ValueError, match=r"5 without a history or a target .*view=0.0, cart=1.0"):
        make(log({"view": 0.0, "cart": 1.0}, events=[VIEW] * 11))


@pytest.fixture
def prepared(tmp_path):
    """A log of a csv file whose carts count three times, prepared."""
    lines = ["user,item,time,event"]
    for user in range(4):
        for place in range(5):
            event = "cart" if place == 2 else "view"
            lines.append(f"u{user},i{(user + place) % 6},{place},{event}")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    source = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    source |= {"event": "event", "events": {"cart": 3.0, "view": 1.0}}
    prepare({"source": source, "split": "leave_one_out"}, tmp_path / "prepared")
    return tmp_path / "prepared"


def test_weights_of_an_own_log_go_from_its_config_to_the_batches(prepared):
    data = Prepared.load(prepared)
    assert list(data.event_weights.items()) == [("cart", 3.0), ("view", 1.0)]
    batches = train_batches(data, BatchConfig(8, 5, num_threads=0), seed=0)
    views = data.views("train")
    is_cart = data.columns["event"][views[:, 2]] == 0
    assert is_cart.tolist() == [False, True] * 4
    batch = batches.batch_at(0)
    weights = np.where(is_cart[batch["rows"]], 3.0, 1.0)
    np.testing.assert_array_equal(batch["target_weight"].max(axis=1), weights)
    np.testing.assert_array_equal(batch["target_weight"].sum(axis=1), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_weights": [1.0]}, "there must be as many weights as types"),
        ({"event_types": ["view", "view"]}, "no type twice"),
        ({"event_weights": [1.0, -2.0]}, "gives 'view' the weight -2.0; it must be a finite"),
        ({"event_weights": ["3", 1.0]}, "gives 'cart' the weight '3'"),
        ({"event_weights": [float("nan"), 1.0]}, "gives 'cart' the weight nan"),
    ],
)
def test_a_damaged_manifest_is_named(prepared, change, message):
    data = Prepared.load(prepared)
    damaged = dataclasses.replace(data, manifest=data.manifest | change)
    with pytest.raises(ValueError, match=message) as error:
        _ = damaged.event_weights
    assert "manifest.json: event_" in str(error.value)


def test_a_manifest_without_weights_gives_1_each(prepared):
    data = Prepared.load(prepared)
    kept = {name: value for name, value in data.manifest.items() if name != "event_weights"}
    plain = dataclasses.replace(data, manifest=kept)
    assert plain.event_weights == {"cart": 1.0, "view": 1.0}
