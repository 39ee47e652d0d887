"""The whole chain on generated worlds: it learns what is there to learn, and nothing else."""

import json
import re

import numpy as np
import pytest

from launch import program, recommend, train
from minirec.evaluation import difference_intervals
from pipelines.prepared import Prepared

HR = "hr@10"


def test_a_world_with_signal_is_learnt_far_beyond_both_baselines(run_chain):
    steps = {"train.num_steps": 600, "train.eval_every": 0, "evaluate.test_users": 1000}
    _, report = run_chain("", **steps)
    scores = {name: values.metrics["item"][HR] for name, values in report.evaluations.items()}
    assert scores["model"] > 1.5 * scores["item_transition"] > 1.5 * scores["popularity"]
    assert report.model.invalid == 0


def test_a_world_without_signal_gives_no_model_an_edge(run_chain):
    steps = {"train.num_steps": 200, "train.eval_every": 0, "evaluate.test_users": 2000}
    _, report = run_chain("no_signal", **steps)
    for level in ("item", "sid"):
        model = report.model.ranks[level]
        popularity = report.evaluations["popularity"].ranks[level]
        intervals = difference_intervals(model, popularity, [10, 20], seed=0)
        assert all(low <= 0 for low, _ in intervals.values()), (level, intervals)


def test_every_recommendation_is_an_unseen_item_of_the_catalogue(smoke):
    job, report = smoke
    prepared = Prepared.load(job.prepared)
    assert report.model.invalid == 0
    predictions = json.loads((job.run / "report" / "predictions.json").read_text())
    sids = json.loads((job.run / "sids.json").read_text())
    catalogue = {"".join(sid) for sid in sids.values()}
    assert len(predictions) == len(prepared.views("test"))
    for row in predictions:
        assert row["output"] in catalogue
        assert set(row["predict"]) <= catalogue
        assert len(set(row["predict"])) == len(row["predict"]) == job.config.search.num_beams


def test_a_run_leaves_its_files(smoke):
    job, _ = smoke
    for name in ("config.json", "metrics.jsonl", "sids.json", "vocab.json"):
        assert (job.run / name).is_file(), name
    report = json.loads((job.run / "report" / "report.json").read_text())
    assert set(report["metrics"]) == {"model", "popularity", "item_transition"}
    assert re.search(r"<html", (job.run / "report" / "index.html").read_text())


def test_a_finished_run_is_not_trained_again(smoke):
    job, _ = smoke
    before = (job.run / "metrics.jsonl").read_bytes()
    assert train.run_training(job).reason == "finished"
    assert (job.run / "metrics.jsonl").read_bytes() == before


def test_a_run_of_other_settings_is_refused_by_field_and_untouched(smoke):
    job, _ = smoke
    config = job.config.copy_and_resolve_references()
    config.train.learning_rate = 0.5
    before = {path: path.read_bytes() for path in job.run.glob("*.json*")}
    with pytest.raises(ValueError, match="learning_rate"):
        train.run_training(program.Job(config, job.workdir, job.run))
    assert {path: path.read_bytes() for path in job.run.glob("*.json*")} == before


def recommendations(capsys, job, monkeypatch, **flags):
    for name, value in flags.items():
        holder = {"history": "_HISTORY", "top": "_TOP", "exclude": "_EXCLUDE"}[name]
        monkeypatch.setattr(recommend, holder, type("Flag", (), {"value": value}))
    capsys.readouterr()
    recommend.main(job)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_recommend_gives_items_with_title_sid_and_score(smoke, capsys, monkeypatch, tmp_path):
    job, _ = smoke
    raw = Prepared.load(job.prepared).raw_item_ids
    sids = json.loads((job.run / "sids.json").read_text())
    ask = {"top": 5, "exclude": []}
    one = recommendations(capsys, job, monkeypatch, history=f"{raw[3]},{raw[7]}", **ask)
    assert [row["rank"] for row in one] == list(range(5))
    assert all(row["sid"] == "".join(sids[row["item_id"]]) and row["title"] for row in one)
    assert all(np.diff([row["score"] for row in one]) <= 0)
    assert not {raw[3], raw[7]} & {row["item_id"] for row in one}

    gone = one[0]["item_id"]
    ask["exclude"] = [gone]
    other = recommendations(capsys, job, monkeypatch, history=f"{raw[3]},{raw[7]}", **ask)
    assert [row["item_id"] for row in other[:4]] == [row["item_id"] for row in one[1:]]

    file = tmp_path / "histories.jsonl"
    file.write_text(f'["{raw[3]}", "{raw[7]}"]\n["{raw[0]}"]\n[]\n')
    ask["exclude"] = []
    many = recommendations(capsys, job, monkeypatch, history=str(file), **ask)
    assert [row["user"] for row in many] == [0] * 5 + [1] * 5 + [2] * 5
    items = [row["item_id"] for row in many[:5]]
    assert items == [row["item_id"] for row in one]


@pytest.mark.parametrize(
    ("text", "message"),
    [("nope", "no item 'nope'"), ("", "no item"), ("file", "line 2")],
)
def test_recommend_names_what_is_wrong_with_a_history(
    smoke, capsys, monkeypatch, tmp_path, text, message
):
    job, _ = smoke
    raw = Prepared.load(job.prepared).raw_item_ids
    if text == "file":
        text = str(tmp_path / "histories.jsonl")
        (tmp_path / "histories.jsonl").write_text(f'["{raw[0]}"]\n{{oops\n')
    if not text:
        text = f"{raw[0]},missing"
    with pytest.raises(ValueError, match=message):
        recommendations(capsys, job, monkeypatch, history=text, top=5, exclude=[])
