"""The benchmarks run, say what they must, and compare steps that agree."""

import dataclasses
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.beam_step import IMPLEMENTATIONS, Implementation, UnsupportedError, beam_step
from kernels.beam_step.shapes import SHAPES, random_inputs, random_sids
from kernels.bench import beam_step as beam_step_bench
from kernels.bench import decode as decode_bench
from kernels.bench import static, sweep, timing
from kernels.bench import trie as trie_bench
from kernels.trie import build_trie
from tests.bounds import assert_close, log_softmax_roundings


@pytest.fixture
def no_static(monkeypatch):
    monkeypatch.delenv(static.STATIC_PATH, raising=False)


def is_json(row):
    return json.loads(json.dumps(row)) == row


@pytest.mark.usefixtures("no_static")
def test_beam_step_rows_compare_with_the_naive_step():
    rows = list(beam_step_bench.run(["industrial"], repeats=1))
    assert [row["implementation"] for row in rows] == ["xla", beam_step_bench.NAIVE]
    for row in rows:
        assert is_json(row)
        assert row["floor_bytes"] > 16 * 50 * 256 * 4
        assert row["microseconds"] > 0
        assert row["static_ratio"] is None
    assert rows[1]["naive_ratio"] == 1.0


@pytest.mark.skipif(not static.is_named(), reason="needs STATIC: set STATIC_PATH to a checkout")
def test_beam_step_rows_compare_with_static():
    rows = {row["implementation"]: row for row in beam_step_bench.run(["industrial"], repeats=1)}
    assert list(rows) == ["xla", beam_step_bench.NAIVE, "static", "static_30"]
    assert rows["static"]["static_ratio"] == 1.0
    assert rows["xla"]["static_ratio"] > 0


@pytest.mark.usefixtures("no_static")
def test_an_implementation_that_is_not_made_for_a_shape_has_no_row(monkeypatch):
    def beam_step(*args, **kwargs):
        raise UnsupportedError("not for this shape")

    choosy = types.ModuleType("choosy")
    choosy.beam_step = beam_step
    monkeypatch.setitem(sys.modules, "choosy", choosy)
    monkeypatch.setitem(IMPLEMENTATIONS, "choosy", Implementation("choosy", platforms=("cpu",)))
    rows = list(beam_step_bench.run(["industrial_root"], repeats=1))
    assert [row["implementation"] for row in rows] == ["xla", beam_step_bench.NAIVE]


def test_an_unknown_shape_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"\['nowhere'\] are not known; there are industrial_root"):
        next(beam_step_bench.run(["nowhere"]))


@pytest.mark.parametrize("name", ["industrial", "industrial_root", "amazon_narrow"])
def test_the_naive_step_finds_the_same_beams(name):
    shape = SHAPES[name]
    trie = build_trie(random_sids(shape))
    logits, beams = random_inputs(shape, trie)
    naive = beam_step_bench.naive_step(logits, beams, trie, shape.level, shape.num_beams)
    ours = beam_step(logits, beams, trie, shape.level, num_beams=shape.num_beams)
    for field in ("token", "parent", "node"):
        assert np.array_equal(getattr(naive, field), getattr(ours, field))
    assert_close(naive.score, ours.score, log_softmax_roundings(shape.vocab) + 2)


@pytest.mark.usefixtures("no_static")
def test_trie_rows_say_time_and_size():
    build, exclude = trie_bench.run(num_sids=500, vocab=8, levels=3, batch=2, num_excluded=4)
    assert is_json(build)
    assert is_json(exclude)
    assert build["implementation"] == "trie"
    assert build["seconds"] > 0
    assert build["bytes_per_sid"] > 3
    assert build["peak_megabytes"] is None or build["peak_megabytes"] >= 0
    assert exclude["microseconds"] > 0


@pytest.mark.usefixtures("no_static")
def test_the_decode_row_is_exact():
    (row,) = decode_bench.run(num_sids=300, vocab=16, levels=3, batch=2, num_beams=5, repeats=1)
    assert is_json(row)
    assert row["exact"]
    assert row["static_ratio"] is None
    assert row["milliseconds"] > 0


@pytest.mark.skipif(not static.is_named(), reason="needs STATIC: set STATIC_PATH to a checkout")
def test_the_decode_rows_say_whether_static_is_exact():
    rows = list(
        decode_bench.run(num_sids=2_000, vocab=64, levels=3, batch=2, num_beams=5, repeats=1)
    )
    assert [row["implementation"] for row in rows] == ["beam_step", "static", "static_30"]
    assert [row["exact"] for row in rows[:2]] == [True, True]


def test_the_replayed_decode_finds_the_best_sids():
    random = np.random.default_rng(0)
    sids = np.unique(random.integers(0, 6, (60, 3)), axis=0)
    # As many beams as SIDs: nothing is pruned, so each SID's score is a sum over its own path.
    logits = decode_bench.random_logits(6, 3, batch=2, num_beams=len(sids))
    same_rows = tuple(jnp.broadcast_to(x[:, :1], x.shape) for x in logits)
    found = decode_bench.decode_replayed(same_rows, build_trie(sids), num_beams=len(sids))
    log_probs = [np.asarray(jax.nn.log_softmax(x[:, 0])) for x in logits]
    score = sum(p[:, sids[:, level]] for level, p in enumerate(log_probs))
    best = np.argsort(-score, axis=1)
    assert np.array_equal(found.sid, sids[best])
    assert np.array_equal(found.item, best)
    expected = np.take_along_axis(score, best, 1)
    assert_close(found.score, expected, 3 * (log_softmax_roundings(6) + 2))


def test_the_sweep_times_its_points(monkeypatch):
    def named(shapes, repeats, seconds):
        del repeats, seconds
        for shape in shapes:
            assert dataclasses.replace(shape, level=1) == shapes[0], "they share a catalogue"
            yield {"level": shape.level, "num_sids": shape.num_sids, "vocab": shape.vocab}

    for name in ("NUM_SIDS", "VOCAB", "BEAMS"):
        monkeypatch.setattr(sweep, name, (64,))
    monkeypatch.setattr(sweep, "CHILDREN", (2, 8))
    monkeypatch.setattr(sweep, "time_shapes", named)
    assert [(row["sweep"], row["value"], row["level"]) for row in sweep.run(max_sids=1_000)] == [
        *(("num_sids", 64, 1), ("num_sids", 64, 2)),
        *(("vocab", 64, 1), ("vocab", 64, 2)),
        *(("beams", 64, 1), ("beams", 64, 2)),
        *(("children", 2, 1), ("children", 8, 1)),
    ]
    sizes = [row["num_sids"] for row in sweep.run() if row["sweep"] == "children"]
    # Some of the codes drawn come twice, the more so where most are drawn.
    assert sizes[0] == 70 * 2
    assert 70 * 9 > sizes[1] >= 70 * 8
    assert "num_sids" not in {row["sweep"] for row in sweep.run(max_sids=10)}


def test_every_run_of_a_repeated_step_is_its_own():
    traced = []

    def add(own, shared):
        traced.append((own.shape, shared.shape))
        return own + shared

    calls = {"add": timing.Call(add, (jnp.zeros(3),), (jnp.ones(1),))}
    assert timing.median_step_seconds(calls, repeats=2, steps=4)["add"] > 0
    assert traced == [((3,), (1,))] * 4
    timing.median_step_seconds(calls, repeats=2)
    assert len(traced) == 5, "one run a program on CPU"
