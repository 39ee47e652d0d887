"""The benchmark of generation: its rows, its floor, and that its searches agree."""

import numpy as np
import pytest

from launch.bench import generate, generate_inputs, peer
from launch.bench.generate import Search
from launch.bench.generate_inputs import Setting
from minirec.models import TrunkConfig

SMALL = Setting(
    text_vocab=300,
    newline=7,
    end=299,
    num_sids=40,
    num_items=44,
    codes=(4, 6, 6),
    prompt_tokens=(9, 12),
    num_beams=5,
    trunk=TrunkConfig(
        num_layers=2,
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_width=24,
        qkv_bias=True,
    ),
)


def test_rows_tell_speed_memory_and_floor_and_both_heads_agree(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peer, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(generate, "_HEAD_BLOCKS", (64,))
    searches = {"fused": Search("vocab", "fused", 2), "plain": Search("vocab", "plain", 3)}
    fused, plain = generate.run(4, 2, rounds=1, setting=SMALL, searches=searches)
    assert "make oracles" in capsys.readouterr().err
    assert (fused["implementation"], plain["implementation"]) == ("fused", "plain")
    for row in (fused, plain):
        assert row["ratio"] is None
        assert row["users_per_second"] == pytest.approx(1 / row["seconds"], rel=0.1)
        assert row["peak_gb"] > 0.05
        assert 0 < row["floor_seconds"] <= row["products_seconds"]
        assert 0 <= row["of_floor"] <= row["of_products"] <= 1
        # The head: one row a user at the root, 4 nodes below it, then five beams a level.
        operations = 2 * row["vocab"] * 16 * (1 + 4 + 3 * 5)
        assert row["gigaflop"] == pytest.approx(operations / 1e9, rel=1e-3)
    assert "same_lists" not in fused
    assert plain["beside"] == "fused"
    assert plain["same_lists"] + plain["near_ties"] == plain["compared"] == 4


def test_answers_are_the_catalogue_and_prompts_vary_in_length():
    answers, vocab_size = generate_inputs.random_answers(SMALL)
    assert answers.shape == (44, 5)
    assert len(np.unique(answers, axis=0)) == 40
    assert (answers[:, 3:] == [7, 299]).all()
    codes = answers[:, :3]
    assert np.unique(codes).tolist() == list(range(300, vocab_size))
    # A level has tokens of its own.
    assert all(codes[:, level].max() < codes[:, level + 1].min() for level in range(2))
    tokens, lengths = generate_inputs.random_prompts(SMALL, answers, 50)
    assert tokens.shape == (50, 12)
    assert (lengths.min(), lengths.max()) == (9, 12)
    assert tokens.max() < vocab_size


def test_searches_that_score_differently_are_an_error():
    found = {
        name: {"tokens": np.zeros((1, 2, 5), np.int32), "scores": np.array([[-1.0, second]])}
        for name, second in (("a", -2.0), ("b", -2.1))
    }
    searches = dict.fromkeys("ab", Search("children", "plain", 1))
    with pytest.raises(RuntimeError, match="b and a score differently"):
        generate._compared(found, "b", searches)
