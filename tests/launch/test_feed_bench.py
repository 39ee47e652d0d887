"""The benchmarks of a feed at a tiny size: both sides do the same, and each row is whole."""

from launch.bench import feed, ranker
from minirec.models import TrunkConfig

TRUNK = TrunkConfig(num_layers=2, width=32, num_heads=2, num_kv_heads=2, head_dim=16, mlp_width=32)


def test_one_pass_and_a_reading_that_is_kept_give_the_same_scores():
    rows = list(ranker.run(((12, 30),), TRUNK))
    assert [row["implementation"] for row in rows] == ["one_pass", "minirec", "minirec_kept"]
    for row in rows[1:]:
        # Sums of some 40 float32 terms in another order, through two layers, of logits below 10.
        assert row["max_difference"] < 1e-5
        assert row["ratio"] > 0


def test_the_pipeline_has_a_row_beside_its_ranker():
    rows = list(feed.run(60, 300, candidates=100, requests=4, concurrent=(2,)))
    assert [row["implementation"] for row in rows] == ["ranker_alone", "minirec"]
    row = rows[1]
    assert row["degraded"] == 0
    assert row["candidates"] == rows[0]["candidates"] > 80
    for name in ("p50_ms", "p99_ms", "of_floor", "sources_p50_ms", "scorers_p99_ms"):
        assert row[name] > 0
