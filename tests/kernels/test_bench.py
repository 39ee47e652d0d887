"""The benchmarks run, say what they must, and compare steps that agree."""

import json

import numpy as np
import pytest

from kernels.beam_step import beam_step
from kernels.beam_step.shapes import SHAPES, random_inputs, random_sids
from kernels.bench import beam_step as beam_step_bench
from kernels.bench import trie as trie_bench
from kernels.trie import build_trie


def test_beam_step_rows_compare_with_the_naive_step():
    rows = list(beam_step_bench.run(["industrial"], repeats=1))
    assert [row["implementation"] for row in rows] == ["xla", beam_step_bench.NAIVE]
    for row in rows:
        assert json.loads(json.dumps(row)) == row
        assert row["floor_bytes"] > 16 * 50 * 256 * 4
        assert row["microseconds"] > 0
    assert rows[1]["naive_ratio"] == 1.0


def test_an_unknown_shape_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"\['nowhere'\] are not known; there are industrial_root"):
        next(beam_step_bench.run(["nowhere"]))


@pytest.mark.parametrize("name", ["industrial", "industrial_root"])
def test_the_naive_step_finds_the_same_beams(name):
    shape = SHAPES[name]
    trie = build_trie(random_sids(shape))
    logits, beams = random_inputs(shape, trie)
    naive = beam_step_bench.naive_step(logits, beams, trie, shape.level, shape.num_beams)
    ours = beam_step(logits, beams, trie, shape.level, num_beams=shape.num_beams)
    for field in ("token", "parent", "node"):
        assert np.array_equal(getattr(naive, field), getattr(ours, field))
    np.testing.assert_allclose(naive.score, ours.score, atol=1e-5)


def test_trie_rows_say_time_and_size():
    build, exclude = trie_bench.run(num_sids=500, vocab=8, levels=3, batch=2, num_excluded=4)
    assert json.loads(json.dumps([build, exclude])) == [build, exclude]
    assert build["seconds"] > 0
    assert build["bytes_per_sid"] > 4 * 3
    assert exclude["microseconds"] > 0
