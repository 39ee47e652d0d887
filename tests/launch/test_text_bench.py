"""The benchmarks of a language model of one's own: their rows, without the peers."""

import importlib
import math
import pathlib

import pytest

from launch.bench import generate_text, peer, text_training


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No peers, and our own programs in this process: another one would load JAX again."""

    def measured(command):
        module = command[-2]
        return importlib.import_module(module).measure(pathlib.Path(command[-1]))

    monkeypatch.setattr(peer, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(peer, "measured", measured)


def test_training_rows_tell_speed_and_share_of_the_floor(capsys):
    setting = text_training.Setting(
        depth=1, width=32, vocab_size=300, rows=2, row_tokens=16, warmup=1, steps=2
    )
    (row,) = text_training.run((setting,), ("float32",))
    assert "left out transformers: `make oracles`" in capsys.readouterr().err
    assert (row["implementation"], row["ratio"]) == ("minirec", None)
    assert 0 < row["tokens_per_second"] <= row["best_tokens_per_second"]
    assert row["floor_seconds"] > 0
    assert 0 <= row["of_floor"] < 1
    # Random tokens and weights: nothing is better than a guess.
    assert abs(row["first_loss"] - math.log(300)) < 0.2


def test_generation_rows_tell_speed_by_mode_and_batch(capsys):
    setting = generate_text.Setting(
        depth=1,
        width=32,
        vocab_size=300,
        prompt_tokens=(3, 9),
        new_tokens=4,
        batches=(1, 2),
        rounds=1,
    )
    rows = list(generate_text.run(setting))
    assert "left out transformers: `make oracles`" in capsys.readouterr().err
    assert [(row["batch"], row["mode"]) for row in rows] == [
        (batch, mode) for batch in (1, 2) for mode in ("greedy", "drawn")
    ]
    assert all(row["tokens_per_second"] > 0 and row["ratio"] is None for row in rows)
