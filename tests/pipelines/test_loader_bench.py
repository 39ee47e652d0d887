"""The loader's benchmark compares equal work, and says what it cannot compare."""

import pathlib

import pytest

from launch.bench.loader import run
from launch.bench.loader_peers import Elements, has_torch, torch_speed
from launch.bench.peer import PYTHON as TORCH_PYTHON
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.synthetic import synthetic_log

SMALL = {"num_users": 50, "seconds": 0.02, "batch_size": 16}


def test_without_torch_its_row_is_left_out_with_a_note(capsys):
    rows = list(run(**SMALL, torch_python=pathlib.Path("no/python")))
    assert {row["case"] for row in rows} >= {"windows", "histories_packed"}
    assert {row["implementation"] for row in rows} == {"minirec", "grain_per_element"}
    assert all(row["examples_per_second"] > 0 for row in rows)
    assert (
        "no row of torch: no/python (make oracles) or MINIREC_PEERS is missing"
        in capsys.readouterr().err
    )
    ours = {row["case"]: row for row in rows if row["implementation"] == "minirec"}
    assert ours["windows"]["ratio"] > 0
    assert all(row["torch_ratio"] is None for row in ours.values())
    # Four arrays of four bytes and one of eight, 16 rows of eleven events, are written; of the
    # events, which are fewer, the 16 bytes of the log's three columns are read.
    written = (4 * 4 + 8) * 16 * 11
    assert written < ours["windows"]["floor_bytes"] < written * (1 + 16 / 24)
    assert all(row["of_floor"] > 0 for row in ours.values())


@pytest.fixture
def elements():
    log = synthetic_log(20)
    return log, Elements(log, max_items=4, width=5)


def test_the_peers_examples_are_the_loaders(elements):
    log, elements = elements
    batch = train_batches(log, BatchConfig(32, 4, num_threads=0), seed=0).batch_at(0)
    elements.check(batch, batch["rows"])
    batch["time"][31, 2] += 1
    with pytest.raises(RuntimeError, match=f"time of view {batch['rows'][31]} differs"):
        elements.check(batch, batch["rows"])


@pytest.mark.skipif(not has_torch(TORCH_PYTHON), reason="needs .venv-oracles: make oracles")
def test_torch_makes_the_same_examples(elements):
    speed = torch_speed(TORCH_PYTHON, elements[1], 16, num_workers=1, turns=2, seconds=0.02)
    assert speed.batches_per_second > 0
    assert speed.core_share is None


def test_a_torch_that_fails_says_why(elements, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"torch_loader\.py .* failed: no torch here"):
        torch_speed(python, elements[1], 16, num_workers=0, turns=1, seconds=0.02)
