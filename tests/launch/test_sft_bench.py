"""The benchmark of fine-tuning: its rows, without the peer."""

import math

from launch.bench import peer, sft_training
from minirec.models import TrunkConfig

SMALL = sft_training.Setting(
    trunk=TrunkConfig(
        num_layers=1,
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_width=24,
        qkv_bias=True,
    ),
    vocab_size=300,
    examples_a_step=4,
    warmup=1,
    steps=2,
    rows=2,
)


def test_rows_tell_speed_memory_and_losses(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peer, "PYTHON", tmp_path / "python")
    variants = {"packed": {"pack": True, "dtype": "float32"}}
    monkeypatch.setattr(sft_training, "VARIANTS", variants)
    (row,) = sft_training.run(SMALL)
    assert "left out transformers: `make oracles`" in capsys.readouterr().err
    assert (row["implementation"], row["ratio"]) == ("packed", None)
    assert row["tokens_per_second"] > 0
    assert row["peak_gb"] > 0.05
    # Random tokens and weights: nothing is better than a guess.
    assert abs(row["first_loss"] - math.log(300)) < 0.2
