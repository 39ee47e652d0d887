"""The benchmark of serving: its picture, and its rows of a language model."""

import itertools

from launch.bench import generate, peer, serving, serving_language
from launch.bench.generate_inputs import random_answers
from launch.bench.language_server import PromptsOfSids
from tests.launch.test_generate_bench import SMALL


def rows():
    for name, lone in (("model", 9.0), ("system", 20.0)):
        about = {"benchmark": "serving", "implementation": "http", "rank_by": name}
        yield about | {"implementation": "engine", "users_per_second": 900.0, "lone_ms": 8.0}
        yield about | {"users_per_second": 800.0, "lone_ms": {"p50": lone, "p99": 2 * lone}}
        for load in (0.1, 0.5, 1.0, 3.0):
            refused = {"p50": 1.0, "p99": 8.0} if load > 1 else {}
            answered = {"p50": lone * (1 + load), "p99": lone * (2 + 4 * load)}
            yield about | {"load": load, "answered_ms": answered, "refused_ms": refused}
    yield {"implementation": "language_http", "rank_by": "model", "users_per_second": 3.0}


def test_the_picture_has_a_panel_a_ranking_with_both_percentiles_and_every_load(tmp_path):
    svg, png = serving.draw(list(rows()), tmp_path / "new")
    text = svg.read_text()
    for word in ("rank_by=model", "rank_by=system", "answered, p50", "answered, p99", "refused"):
        assert word in text
    for load in ("0.1", "0.5", "1", "3"):
        assert f"<!-- {load} -->" in text
    assert png.stat().st_size > 10_000


def test_a_language_model_is_served_with_new_same_and_grown_histories(monkeypatch, tmp_path):
    monkeypatch.setattr(peer, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(generate, "_HEAD_BLOCKS", (64,))
    monkeypatch.setattr(serving_language, "_ROUNDS", 1)
    found = list(serving_language.run(SMALL, seconds=1.0, generate_users=4))
    assert [row["histories"] for row in found] == ["new", "same", "grown"]
    for row in found:
        assert row["users_per_second"] > 0
        assert row["ratio"] is row["generate_ratio"] is row["of_generate"] is None
        assert row["of_search"] > 0
    new, same, _ = found
    assert new["of_new"] == 1
    assert new["cache_misses"] > 0
    assert same["cache_hits"] > same["cache_misses"]


def test_a_prompt_of_a_history_that_grew_begins_with_the_one_before():
    answers, _ = random_answers(SMALL)
    prompts = PromptsOfSids(answers[0], answers[:, :-2], 4)
    assert prompts.widths == (32,)
    made = [prompts(answers[:, 0][:size] % 40).tolist() for size in (1, 2, 3)]
    for shorter, longer in itertools.pairwise(made):
        assert longer[: len(shorter)] == shorter
        assert len(longer) == len(shorter) + 3
