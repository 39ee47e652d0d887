"""The whole chain on generated worlds: it learns what is there to learn, and nothing else."""

import dataclasses
import errno
import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

from launch import evaluate, make_sids, metrics, prepare, recommend, train
from launch.wiring import append, baselines, fusion_run, program, reporting, sid, training
from minirec import files
from minirec.evaluation import difference_intervals
from minirec.training import read_metrics, run_folder
from pipelines.prepared import Prepared
from tests.pipelines.edited import replace_array, vouch_for

HR = "hr@10"
# One program for both worlds, which learns in a few hundred steps; as many beams as the longest
# list that is asked for.
WORLD = {
    "model.num_layers": 1,
    "model.mlp_width": 64,
    "model.level_width": 64,
    "model.dropout": 0.0,
    "loader.batch_size": 48,
    "train.num_steps": 300,
    "train.learning_rate": 6e-3,
    "train.warmup_steps": 20,
    "train.eval_every": 0,
    "search.num_beams": 20,
    "loss.item_weight": 0.0,  # The model is what these tests look at, not the item table
    "evaluate.fusion_users": 100,  # or the system.
}
ALL = 300  # More than the smoke run's catalogue has; one search for those who ask for all of it.


def test_a_world_with_signal_is_learnt_far_beyond_both_baselines(run_chain):
    _, report = run_chain("", **WORLD, **{"evaluate.test_users": 1000})
    scores = {name: values.metrics["item"][HR] for name, values in report.evaluations.items()}
    assert scores["model"] > 1.4 * scores["item_transition"] > 1.4 * scores["popularity"]
    assert report.model.invalid == 0


def test_a_world_without_signal_gives_no_model_an_edge(run_chain):
    _, report = run_chain("no_signal", **WORLD, **{"evaluate.test_users": 2000})
    for level in ("item", "sid"):
        model = report.model.ranks[level]
        popularity = report.evaluations["popularity"].ranks[level]
        intervals = difference_intervals(model, popularity, [10, 20], seed=0)
        assert all(low <= 0 for low, _ in intervals.values()), (level, intervals)


def test_every_recommendation_is_an_unseen_item_of_the_catalogue(smoke):
    job, report = smoke
    prepared = Prepared.load(job.prepared)
    assert report.model.invalid == 0
    seen = prepared.histories("test", np.arange(len(prepared.views("test"))))
    predictions = json.loads((job.run / "report" / "predictions.json").read_text())
    sids = json.loads((job.run / "sids.json").read_text())
    catalogue = {"".join(sid) for sid in sids.values()}
    assert len(predictions) == len(prepared.views("test"))
    items = dict(zip(prepared.raw_item_ids, range(prepared.num_items), strict=True))
    item_of = {"".join(sid): items[raw] for raw, sid in sids.items()}  # here no two share one
    for row, history in zip(predictions, seen, strict=True):
        assert not {item_of[sid] for sid in row["predict"]} & set(history.tolist())
        assert row["output"] in catalogue
        assert set(row["predict"]) <= catalogue
        assert len(set(row["predict"])) == len(row["predict"]) == job.config.search.num_beams


def test_metrics_read_from_the_predictions_are_those_of_the_report(smoke):
    job, report = smoke
    result = metrics.run_metrics(job.run / "report" / "predictions.json", job.run / "sids.json")
    of_report = report.model.metrics["sid"]
    assert {name: of_report[name] for name in result.metrics} == result.metrics
    assert result.users == report.num_users
    assert result.invalid == result.unknown_targets == 0


def test_a_run_leaves_its_files(smoke):
    job, _ = smoke
    for name in ("config.json", "metrics.jsonl", "sids.json", "vocab.json"):
        assert (job.run / name).is_file(), name
    report = json.loads((job.run / "report" / "report.json").read_text())
    assert list(report["metrics"]) == [
        *("model", "item_head", "model_head", "system"),
        *("transition_content", "item_transition", "popularity"),
    ]
    fusion = json.loads((job.run / "fusion.json").read_text())["fusion"]
    assert report["fusion"] == fusion
    assert list(fusion["weights"]) == ["model", "item_head", "item_transition"]
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


def test_recommend_gives_unseen_items_with_title_sid_and_score(smoke):
    job, _ = smoke
    raw = Prepared.load(job.prepared).raw_item_ids
    sids = json.loads((job.run / "sids.json").read_text())
    history = [raw[3], raw[7]]
    one = list(recommend.recommend(job, [history], top=5))
    assert [row["rank"] for row in one] == list(range(5))
    assert all(row["sid"] == "".join(sids[row["item_id"]]) and row["title"] for row in one)
    assert all(np.diff([row["score"] for row in one]) <= 0)
    assert not set(history) & {row["item_id"] for row in one}

    other = recommend.recommend(job, [history], top=5, exclude=[one[0]["item_id"]])
    assert [row["item_id"] for row in other][:4] == [row["item_id"] for row in one[1:]]

    many = list(recommend.recommend(job, [history, [raw[0]], []], top=5))
    assert [row["user"] for row in many] == [0] * 5 + [1] * 5 + [2] * 5
    assert [row["item_id"] for row in many[:5]] == [row["item_id"] for row in one]


def test_more_items_than_beams_can_be_asked_for(smoke):
    job, _ = smoke
    raw = Prepared.load(job.prepared).raw_item_ids
    assert len(raw) < ALL
    rows = list(recommend.recommend(job, [[raw[0]]], top=ALL))
    assert len(rows) == len(raw) - 1, "every item but the seen one, and nothing twice"
    assert len({row["item_id"] for row in rows}) == len(rows)


def test_items_that_the_catalogue_lacks_are_named_or_left_out_and_counted(smoke, capsys):
    job, _ = smoke
    prepared = Prepared.load(job.prepared)
    raw, counts = prepared.raw_item_ids, prepared.manifest["counts"]
    left_out = counts["read"]["items"] - counts["prepared"]["items"]
    assert left_out > 0
    told = (
        r"user 1: the catalogue has no item 'nope'; 3 of the ids given, in 2 lists, are unknown: "
        rf"'nope', '00{raw[0].upper()}' \(there is '{raw[0]}'\); 1 of 2 are known if leading zeros"
        rf".*left out {left_out} of the \d+ items that it read \(config.data.k_core=5\)"
    )
    given = [[raw[3]], ["nope", raw[7], f"00{raw[0].upper()}"], ["nope"]]
    with pytest.raises(ValueError, match=told + ".*; --unknown=skip leaves such ids out"):
        list(recommend.recommend(job, given, top=2))
    rows = list(recommend.recommend(job, given, top=2, exclude=["gone"], skip_unknown=True))
    error = capsys.readouterr().err
    assert "note: 4 of the ids given, in 3 lists, are unknown: 'nope', " in error
    assert [row["user"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert ["note" in row for row in rows] == [False] * 4 + [True] * 2
    assert rows[4]["note"].endswith("none of the 1 items given is known")
    known = recommend.recommend(job, [[raw[3]], [raw[7]], []], top=2)
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in known]
    assert not capsys.readouterr().err


def test_a_user_to_whom_no_item_is_left_has_a_line_that_says_so(smoke):
    job, _ = smoke
    raw = Prepared.load(job.prepared).raw_item_ids
    histories = [raw[:1], raw[1:2], raw[2:3]]
    for rank_by in ("system", "model", "model_head"):
        rows = list(recommend.recommend(job, histories, top=3, exclude=raw[1:], rank_by=rank_by))
        assert rows[0].keys() == {"user", "note"}
        assert rows[0]["note"] == (
            f"no item is left: of {len(raw)} items {len(raw) - 1} are excluded, and 1 are in the "
            "history"
        )
        assert [(row["user"], row["item_id"]) for row in rows[1:]] == [
            (1, raw[0]),
            (2, raw[0]),
        ]


def test_histories_come_as_ids_or_as_a_file(tmp_path):
    assert recommend.read_histories("a, b,c") == [["a", "b", "c"]]
    assert recommend.read_histories(",".join(["B000000000"] * 200)) == [["B000000000"] * 200]
    file = tmp_path / "histories.jsonl"
    file.write_text('["a,1", 2]\n\n[]\n')
    assert recommend.read_histories(str(file)) == [["a,1", "2"], []]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a"]\n{oops\n', "line 2: not JSON"),
        ('["a"]\n\n"b"\n', "line 3: .*a list"),
        ('["a"]\n["b", null]\n', r"line 2: \[1\] is None; expected text or a whole number"),
        ("[" * 100_000, "line 1: not JSON: nested deeper"),
        ("", "no history"),
        (None, "no such file"),
    ],
)
def test_a_damaged_file_of_histories_is_named_by_line(tmp_path, content, message):
    file = tmp_path / "histories.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message):
        recommend.read_histories(str(file))


def changed(job, **fields):
    config = job.config.copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    return dataclasses.replace(job, config=config)


def overwriting(job):
    return dataclasses.replace(job, overwrite=True)


def test_a_run_is_not_evaluated_with_other_settings_data_or_sids(smoke, tmp_path):
    job, _ = smoke
    with pytest.raises(ValueError, match=r"config\.json.*model\.rope_theta"):
        evaluate.run_evaluation(changed(job, **{"model.rope_theta": 5.0}))
    with pytest.raises(ValueError, match="max_items"):
        evaluate.run_evaluation(changed(job, **{"loader.max_items": 3}))
    with pytest.raises(ValueError, match=r"config\.json.*loss\.item_weight is 1\.0 .*, 0\.0"):
        evaluate.run_evaluation(changed(job, **{"loss.item_weight": 0.0}))

    workdir = tmp_path / "copy"
    shutil.copytree(job.workdir, workdir)
    copy = program.Job(job.config, workdir, workdir / "runs" / job.run.name)
    written = (copy.run / "sids.json").read_bytes()
    sids = json.loads(written)
    first, second = list(sids)[:2]
    sids[first], sids[second] = sids[second], sids[first]
    (copy.run / "sids.json").write_text(json.dumps(sids))
    with pytest.raises(ValueError, match=r"sids\.json: has been damaged or replaced"):
        evaluate.run_evaluation(copy)
    (copy.run / "sids.json").write_bytes(written)

    data = changed(copy, **{"data.source.seed": 1})
    prepare.main(dataclasses.replace(data, overwrite=True))
    with pytest.raises(ValueError, match=r"config\.data\.source\.seed is 1 there, 0 now"):
        evaluate.run_evaluation(copy)
    with pytest.raises(ValueError, match="other records"):
        evaluate.run_evaluation(data)
    with pytest.raises(ValueError, match="other records"):
        train.run_training(dataclasses.replace(data, run=workdir / "runs" / "new"))
    assert not (workdir / "runs" / "new").exists()


def test_new_sids_do_not_touch_a_run(smoke, tmp_path):
    job, report = smoke
    workdir = tmp_path / "copy"
    shutil.copytree(job.workdir, workdir)
    copy = program.Job(job.config, workdir, workdir / "runs" / job.run.name)
    make_sids.make(overwriting(changed(copy, **{"sids.codebook_sizes": (8, 8)})))
    with pytest.raises(ValueError, match=r"config\.sids\.codebook_sizes is \[8, 8\] there"):
        train.run_training(copy)
    assert evaluate.run_evaluation(copy).model.metrics == report.model.metrics


def test_a_valid_report_stands_beside_the_test_report(smoke):
    job, _ = smoke
    before = (job.run / "report" / "report.json").read_bytes()
    evaluate.run_evaluation(job, "valid")
    assert (job.run / "report" / "report.json").read_bytes() == before
    valid = json.loads((job.run / "report_valid" / "report.json").read_text())
    assert valid["split"] == "valid"
    counts = {"valid": job.config.evaluate.valid_users, "fusion": job.config.evaluate.fusion_users}
    assert 0 < counts["valid"] <= counts["fusion"] < valid["users"]
    assert valid["chosen_on"] == {
        "model": counts["valid"],
        "item_head": counts["valid"],
        "model_head": counts["valid"],
        "transition_content": counts["fusion"],
        "system": counts["fusion"],
    }
    page = (job.run / "report_valid" / "index.html").read_text()
    assert f"{counts['fusion']} fitted weights (transition_content, system)" in page
    assert json.loads(before)["chosen_on"] == {}


def test_a_flipped_bit_in_a_file_that_a_run_reads_back_is_refused_by_its_name(smoke, tmp_path):
    job, _ = smoke
    workdir = tmp_path / "copy"
    shutil.copytree(job.workdir, workdir)
    copy = program.Job(job.config, workdir, workdir / "runs" / job.run.name)
    rng = np.random.default_rng(5)

    def read(name):
        if name.startswith("report/"):
            metrics.run_metrics(copy.run / name, copy.run / "sids.json")
        elif name == "fusion.json":
            fusion_run.kept_system(copy)
        elif name == "baselines.json":
            baselines.kept(copy, prepared)
        elif name == "metrics.jsonl":
            read_metrics(copy.run)
        else:
            sid.EXPERIMENT.load(copy)

    prepared = Prepared.load(copy.prepared)
    names = ["config.json", "sids.json", "sids_report.json", "vocab.json", "fusion.json"]
    for name in [*names, "baselines.json", "metrics.jsonl", "report/predictions.json"]:
        path = copy.run / name
        data = path.read_bytes()
        for place in {0, len(data) - 2, *rng.integers(0, len(data), 3).tolist()}:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=re.escape(str(path))):
                read(name)
        path.write_bytes(data)


def test_without_validation_users_there_is_no_system_and_the_search_recommends(smoke, tmp_path):
    job, report = smoke
    workdir = tmp_path / "copy"
    shutil.copytree(job.workdir, workdir)
    copy = program.Job(job.config, workdir, workdir / "runs" / job.run.name)
    (copy.run / "fusion.json").unlink()
    replace_array(copy.prepared, "splits/valid.npy", np.zeros((0, 3), np.int64))
    again = evaluate.run_evaluation(copy)
    assert list(again.evaluations) == [
        *("model", "item_head", "model_head"),
        *("transition_content", "item_transition", "popularity"),
    ]
    assert again.model.metrics == report.model.metrics
    history = [[Prepared.load(copy.prepared).raw_item_ids[3]]]
    ranked = [
        [row["item_id"] for row in recommend.recommend(copy, history, top=5, rank_by=rank_by)]
        for rank_by in ("system", "model")
    ]
    assert ranked[0] == ranked[1]


def test_the_systems_weights_are_the_same_whoever_asks_first_and_belong_to_their_run(
    smoke, tmp_path, monkeypatch, capsys
):
    job, _ = smoke
    workdir = tmp_path / "copy"
    shutil.copytree(job.workdir, workdir)
    copy = program.Job(job.config, workdir, workdir / "runs" / job.run.name)
    chosen = json.loads((copy.run / "fusion.json").read_text())
    (copy.run / "fusion.json").unlink()
    history = [[Prepared.load(copy.prepared).raw_item_ids[3]]]

    def refuse(path, value):
        raise OSError(errno.EROFS, "Read-only file system", path)

    with monkeypatch.context() as read_only:
        read_only.setattr(files, "write_sealed", refuse)
        unwritten = list(recommend.recommend(copy, history, top=5))
    told = f"note: {copy.run / 'fusion.json'} cannot be written (Read-only file system): "
    assert told in capsys.readouterr().err
    assert not (copy.run / "fusion.json").exists()
    assert list(recommend.recommend(copy, history, top=5)) == unwritten
    assert json.loads((copy.run / "fusion.json").read_text()) == chosen
    record = run_folder.read_config(copy.run)
    files.write_sealed(copy.run / "config.json", record | {"seed": 7})
    assert fusion_run.kept_system(copy) is None


def test_without_validation_users_training_says_so_or_does_without_and_old_weights_go(
    smoke, tmp_path
):
    job, _ = smoke
    workdir = tmp_path / "copy"
    shutil.copytree(job.workdir, workdir)
    copy = program.Job(job.config, workdir, workdir / "runs" / job.run.name)
    new = dataclasses.replace(copy, run=workdir / "runs" / "new")
    replace_array(copy.prepared, "splits/valid.npy", np.zeros((0, 3), np.int64))
    with pytest.raises(ValueError, match=r"splits/valid\.npy: .*config\.train\.eval_every=0"):
        train.run_training(new)
    assert not new.run.exists()
    assert (copy.run / "fusion.json").exists()
    without = changed(copy, **{"train.eval_every": 0, "train.num_steps": 4})
    assert train.run_training(overwriting(without)).step == 4
    assert not (copy.run / "fusion.json").exists()


def test_a_length_in_epochs_has_bounds_and_comes_out_of_its_warm_up(smoke):
    job, _ = smoke

    def planned(num_rows, **fields):
        fields = {"num_epochs": 10, "warmup_steps": 100, **fields}
        config = changed(job, **{f"train.{name}": value for name, value in fields.items()})
        _, stage, _ = training.train_settings(config, num_rows)
        return stage["num_steps"], stage["optimizer"].warmup_steps

    batch_size = job.config.loader.batch_size
    assert planned(100 * batch_size) == (1000, 100)
    assert planned(50) == (400, 100)
    assert planned(50, min_steps=40) == (40, 10)
    assert planned(5000 * batch_size) == (8000, 100)
    assert planned(5000 * batch_size, max_steps=0) == (50_000, 100)
    assert planned(50, num_epochs=0, num_steps=20) == (20, 100)
    with pytest.raises(ValueError, match=r"min_steps=400, config\.train\.max_steps=300"):
        planned(50, max_steps=300)


def test_a_catalogue_without_words_is_refused_where_words_alone_make_sids(smoke, tmp_path, capsys):
    job, _ = smoke
    copy = program.Job(job.config, tmp_path / "W", tmp_path / "W" / "runs" / "x")
    shutil.copytree(job.prepared, copy.prepared)
    items = copy.prepared / "items.parquet"
    table = pl.read_parquet(items)
    nothing = table.with_columns(pl.lit("").alias("text"), attributes=pl.lit([]).cast(pl.List(str)))
    nothing.cast(table.schema).write_parquet(items)
    vouch_for(copy.prepared, "items.parquet")
    with pytest.raises(ValueError, match=r"sids\.vectors='text': none of the \d+ items in .*parq"):
        make_sids.make(copy)
    assert not (copy.sids / "sids.json").exists()
    make_sids.make(changed(copy, **{"sids.vectors": "both"}))
    assert "note: nothing tells" not in capsys.readouterr().err
    some = pl.concat([table[:200], nothing.cast(table.schema)[200:]])
    some.write_parquet(items)
    vouch_for(copy.prepared, "items.parquet")
    make_sids.make(overwriting(copy))
    report = json.loads((copy.sids / "sids_report.json").read_text())
    assert report["items_without_vector"] == len(table) - 200
    note = f"note: nothing tells {len(table) - 200} of {len(table)} items apart"
    assert note in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"config\.sids\.text_weight=1\.0: .* 'text'"):
        make_sids.make(
            overwriting(changed(copy, **{"sids.vectors": "both", "sids.text_weight": 1.0}))
        )


def test_a_report_tells_the_health_that_preparing_counted(smoke):
    job, report = smoke
    health = json.loads((job.prepared / "manifest.json").read_text())["health"]
    # The generated world repeats nothing, and no two of its times are equal.
    views = health["targets"]["test"]["views"]
    assert health["targets"]["test"] == {"views": views, "tied": 0, "in_history": 0}
    folder = job.run / reporting.REPORTS["test"]
    assert json.loads((folder / "report.json").read_text())["health"] == health
    assert ">The log</h2>" in (folder / "index.html").read_text()
    assert report.notes == []


def test_steps_out_of_order_say_what_comes_first(tmp_path, smoke):
    job, _ = smoke
    empty = program.Job(job.config, tmp_path, tmp_path / "runs" / "x")
    with pytest.raises(ValueError, match="prepare"):
        make_sids.make(empty)
    prepare.main(empty)
    with pytest.raises(ValueError, match="make_sids"):
        train.run_training(empty)
    with pytest.raises(ValueError, match="train"):
        evaluate.run_evaluation(empty)


def test_too_few_beams_to_select_by_are_refused_before_training(smoke):
    job, _ = smoke
    with pytest.raises(ValueError, match="num_beams=5"):
        train.run_training(changed(job, **{"search.num_beams": 5}))


def test_an_accumulation_that_does_not_divide_the_batch_is_refused_before_the_run_is_claimed(smoke):
    job, _ = smoke
    new = dataclasses.replace(job, run=job.workdir / "runs" / "odd")
    with pytest.raises(ValueError, match=r"accumulate=3: must divide.*batch_size=16"):
        train.run_training(changed(new, **{"train.accumulate": 3}))
    assert not new.run.exists()


def test_windows_in_rows_of_their_own_are_trained_on_too(smoke):
    job, _ = smoke
    new = dataclasses.replace(job, run=job.workdir / "runs" / "windows")
    fields = {"loader.examples": "windows", "loader.pack": False, "train.num_steps": 10}
    result = train.run_training(changed(new, **fields, **{"train.eval_every": 0}))
    assert result.step == 10
    losses = [row["loss"] for row in read_metrics(new.run) if row["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_missing_item_vectors_are_named_by_field_and_file(smoke, tmp_path):
    job, _ = smoke
    missing = str(tmp_path / "none.npy")
    with pytest.raises(ValueError, match=r"config\.sids\.vectors: .*none\.npy: no such file"):
        make_sids.make(overwriting(changed(job, **{"sids.vectors": missing})))


def test_new_items_are_recommended_by_a_trained_run_and_no_old_figure_changes(smoke, tmp_path):
    job, report = smoke
    copy = program.Job(job.config, tmp_path / "W", tmp_path / "W" / "runs" / job.run.name)
    shutil.copytree(job.workdir, copy.workdir)
    prepared = Prepared.load(copy.prepared)
    twin = prepared.items.row(3, named=True)
    lines = [
        {"raw_item_id": "new", "title": "A new one", "text": twin["text"]},
        {"raw_item_id": "other", "text": prepared.items["text"][9], "attributes": []},
    ]
    lines = [line | {"colour": "Red", "price": None} for line in lines]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {path: path.read_bytes() for path in (copy.sids / "sids.json", copy.run / "sids.json")}
    added = append.append_items(copy, prepared, path, None)
    assert added.raw_item_ids == ("new", "other")
    assert {path: path.read_bytes() for path in before} == before
    rows = list(recommend.recommend(copy, [[prepared.raw_item_ids[0]]], top=ALL))
    found = {row["item_id"]: row for row in rows}
    assert {"new", "other"} <= set(found)
    assert prepared.num_items + 2 < ALL
    assert (found["new"]["title"], found["other"]["title"]) == ("A new one", "other")
    assert len(found) == prepared.num_items + 1, "every item but the seen one"
    # Only the search can know the new ones: the system takes its word whole.
    alone = recommend.recommend(copy, [[prepared.raw_item_ids[0]]], top=ALL, rank_by="model")
    of_model = {row["item_id"]: row["score"] for row in alone}
    for name in ("new", "other"):
        assert found[name]["score"] == pytest.approx(of_model[name], abs=1e-5)
    # Among what the search finds the table ranks those that it knows, and takes its word, too.
    alone = recommend.recommend(copy, [[prepared.raw_item_ids[0]]], top=ALL, rank_by="model_head")
    by_table = {row["item_id"]: row["score"] for row in alone}
    assert by_table.keys() == of_model.keys()
    for name in ("new", "other"):
        assert by_table[name] == pytest.approx(of_model[name], abs=1e-5)
    assert sum(np.exp(score) for score in by_table.values()) == pytest.approx(1, abs=1e-4)
    seen = {row["item_id"] for row in recommend.recommend(copy, [["new"]], top=ALL)}
    assert "new" not in seen
    # The same command again, as after a kill before its end, changes nothing.
    kept = (copy.sids / "appended.json").read_bytes()
    assert append.append_items(copy, prepared, path, None).raw_item_ids == ("new", "other")
    assert (copy.sids / "appended.json").read_bytes() == kept
    path.write_text(
        "".join(
            json.dumps(line | {"raw_item_id": name}) + "\n"
            for line, name in zip(lines, ("new", "third"), strict=True)
        )
    )
    with pytest.raises(ValueError, match="item 'new' has a SID already"):
        append.append_items(copy, prepared, path, None)
    again = evaluate.run_evaluation(copy)
    assert again.model.metrics == report.model.metrics
