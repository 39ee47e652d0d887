"""A language model from nothing to metrics by one command, and what it refuses."""

import dataclasses
import fnmatch
import json
import shutil

import numpy as np
import pytest
from flax import nnx

from launch import evaluate, recommend, sft, train
from launch.sweep import __main__ as sweep
from launch.sweep import sweep_run
from launch.sweep.grid import read_grid
from launch.wiring import (
    catalogue,
    fusion_run,
    language,
    language_catalogue,
    language_model,
    program,
)
from minirec import files
from minirec.models.hf import load_checkpoint
from minirec.models.vocabulary import merged
from minirec.recommend import baselines_for
from minirec.training import load_best, read_metrics, run_folder
from pipelines.prepared import Prepared
from pipelines.text.tokenizer import TextTokenizer
from tests.damages import OTHER_JSON, damaged, damages, refused
from tests.launch.fields import refused_fields
from tests.launch.run_readers import of_metrics, of_report, outcome
from tests.once import made_once

SMALL = {
    "data.source.num_users": 60,
    "data.source.num_items": 200,
    "sids.codebook_sizes": (12, 12),
    "sids.dim": 8,
    "model.scratch.num_layers": 1,
    "model.scratch.width": 32,
    "model.scratch.tie_embeddings": False,
    "sft.trainable": "lora",
    "sft.lora.rank": 2,
    "sft.compare_new_rows": 2,
    "train.num_steps": 4,
    "train.eval_every": 2,
    "train.checkpoint_every": 2,
    "train.log_every": 1,
    "search.num_beams": 10,
    "evaluate.valid_users": 32,
    "evaluate.test_users": 32,
    "evaluate.resamples": 10,
}


def make_job(workdir, **changes):
    config = program.load_config_module("sid_sft").get_config("smoke")
    config.update_from_flattened_dict(SMALL | changes)
    return program.Job(config, workdir, workdir / "runs" / config.name)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The job of a run from an empty folder to its report."""
    made, _ = made_once(tmp_path_factory, "sft", lambda folder: sft.main(make_job(folder)))
    return make_job(shutil.copytree(made, tmp_path_factory.mktemp("sft") / "W"))


def test_it_is_swept_and_the_same_config_and_seed_give_the_same_summary_and_predictions(
    done, tmp_path
):
    job = make_job(tmp_path)
    settings = read_grid(f"sft.compare_new_rows={SMALL['sft.compare_new_rows']}", job.config)
    swept = sweep.run_sweep(job, settings, split="test", execute=sweep_run.execute)
    assert (swept.num_finished, swept.num_failed) == (1, 0)
    assert swept.rows[0].estimates["system"]["ndcg@10"].value >= 0
    (again,) = (tmp_path / "sweeps" / job.run.name / "runs").iterdir()
    for name in ("run_summary.json", "report/predictions.json", "new_rows.json"):
        assert (again / name).read_bytes() == (done.run / name).read_bytes(), name


def test_answers_are_items_and_the_report_and_the_summary_agree(done):
    summary = json.loads((done.run / "run_summary.json").read_text())
    report = json.loads((done.run / "report" / "report.json").read_text())
    test = summary["evaluation"]["test"]
    assert (test["invalid"], test["users"]) == (0, 32)
    assert test["metrics"] == report["metrics"]
    assert set(test["metrics"]) == {
        "model",
        "system",
        *baselines_for(has_order=True, repeats=False),
    }
    assert set(test["metrics"]["model"]) == {"item", "sid"}
    assert summary["training"]["end"]["reason"] == "finished"
    assert len(summary["training"]["losses"]) == 4
    catalogue = {"".join(sid) for sid in json.loads((done.run / "sids.json").read_text()).values()}
    predictions = json.loads((done.run / "report" / "predictions.json").read_text())
    assert len(predictions) == 32
    for row in predictions:
        assert row["output"] in catalogue
        assert set(row["predict"]) <= catalogue
        assert len(set(row["predict"])) == len(row["predict"]) == 10
    assert "wandb" not in summary["config"]


def test_the_report_shows_the_first_losses_from_each_start(done):
    losses = json.loads((done.run / "report" / "report.json").read_text())["first_losses"]
    assert set(losses) == {"mean", "random", "codebooks", "ridge"}
    assert len({tuple(line) for line in losses.values()}) == 4
    # The config starts from the codebooks, and the run's first steps are these very steps.
    run = [line["loss"] for line in read_metrics(done.run) if line["kind"] == "train"]
    np.testing.assert_allclose(losses["codebooks"], run[:2], rtol=1e-6)
    page = (done.run / "report" / "index.html").read_text()
    assert f"{losses['mean'][1]:.4f}" in page


def test_the_best_model_is_saved_whole_with_its_tokenizer(done):
    folder = done.run / language.MODEL
    tokenizer = TextTokenizer.load(folder)
    saved = load_checkpoint(folder)
    assert saved.config.vocab_size == tokenizer.size
    prepared = Prepared.load(done.prepared)
    base = language_catalogue.base_folder(done, prepared)
    catalogue = language_catalogue.load_catalogue(done, prepared, done.sids, base)
    best = load_best(done.run, language_model.make_model(done, base, catalogue))
    expected = dict(nnx.to_flat_state(nnx.state(merged(best))))
    found = dict(nnx.to_flat_state(nnx.state(saved)))
    assert expected.keys() == found.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value[...], expected[path][...], err_msg=str(path))
    start = language_model.make_model(done, base, catalogue)
    assert not np.array_equal(start.trunk.blocks.mlp.up[...], saved.trunk.blocks.mlp.up[...])
    # With adapters the old tokens' rows stay.
    first = int(catalogue.sid_token_ids[0])
    np.testing.assert_array_equal(start.embedding[...], saved.embedding[:first])


def test_a_flipped_bit_in_what_fine_tuning_left_is_refused_by_its_name(done, tmp_path):
    job = dataclasses.replace(
        done, workdir=tmp_path / "W", run=tmp_path / "W" / "runs" / done.run.name
    )
    shutil.copytree(done.workdir, job.workdir)
    for path in sorted((job.run / language.MODEL).iterdir()):
        data = path.read_bytes()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(files.DamagedError, match=f"{path}: "):
            evaluate.run_evaluation(job)
        path.write_bytes(data)
    path = job.run / "new_rows.json"
    path.write_text(path.read_text().replace("5", "6", 1))
    with pytest.raises(files.DamagedError, match=f"{path}: .*remove it"):
        train.run_training(job)
    # What is made from nothing is made again.
    prepared = Prepared.load(job.prepared)
    weights = job.workdir / "scratch" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    language_catalogue.base_folder(job, prepared)
    assert weights.read_bytes() == whole


READERS = {
    "model/*": lambda job, path: files.check_folder(path.parent, remedy="see above"),
    "sids*.json": lambda job, path: catalogue.checked_sids(job.run, catalogue.SIDS),
    "config.json": lambda job, path: run_folder.read_config(job.run),
    "new_rows.json": lambda job, path: language_model.read_new_rows(job),
    "fusion.json": lambda job, path: fusion_run.kept_system(job),
    "baselines.json": None,  # As that of launch.train is, and damaged with it.
    "metrics.jsonl": of_metrics,
    "report/checksums.json": None,  # report.json is looked at by its digest.
    "report/*.json": of_report,
    "checkpoints/*": None,  # As those of launch.train are, and damaged with them.
    "run_summary.json": None,  # For people, as index.html is.
    "report/index.html": None,
    "tensorboard/*": None,
    ".lock": None,
}


def test_damage_to_any_file_of_a_run_is_refused_by_its_name(done, tmp_path):
    job = dataclasses.replace(done, run=shutil.copytree(done.run, tmp_path / done.run.name))
    escaped, count = [], 0
    for path in sorted(path for path in job.run.rglob("*") if path.is_file()):
        name = path.relative_to(job.run).as_posix()
        pattern = next(known for known in READERS if fnmatch.fnmatch(name, known))
        reader, data = READERS[pattern], path.read_bytes()
        if reader is None:
            continue
        right, _ = outcome(reader, job, path)
        for what, content in damages(name, data):
            with damaged(path, content):
                found, message = outcome(reader, job, path)
            count += 1
            if not refused(message, path) and (message is not None or found != right):
                escaped.append(f"{name}: {what}: {message or 'read as something else'}")
    assert not escaped, "\n".join(escaped)
    assert count > 100


TOLD_BY = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", TOLD_BY)
def test_other_content_of_a_model_under_right_digests_is_refused_by_name(done, tmp_path, name):
    folder = shutil.copytree(done.run / language.MODEL, tmp_path / "model")
    prepared, path = Prepared.load(done.prepared), folder / name
    data = path.read_bytes()
    value = json.loads(data) if name.startswith("tokenizer") else {}
    fewer = [{field: value[field] for field in value if field != gone} for gone in value]
    count = 0
    for content in (b"", data[:-1], *OTHER_JSON, *(json.dumps(one).encode() for one in fewer)):
        path.write_bytes(content)
        (folder / files.CHECKSUMS).unlink()
        files.write_checksums(folder)
        try:
            if name.startswith("tokenizer"):
                language_catalogue.load_catalogue(done, prepared, done.run, folder)
            else:
                language_model.load_model(done.config, folder)
        except ValueError as error:
            count += str(folder) in str(error)
        else:  # What is left out has a default.
            assert content.startswith(b"{")
            count += 1
    assert count == 2 + len(OTHER_JSON) + len(fewer)


def test_a_finished_run_is_evaluated_again_without_training(done):
    before = (done.run / "metrics.jsonl").read_bytes()
    summary = (done.run / "run_summary.json").read_bytes()
    sft.main(done, "eval")
    assert (done.run / "metrics.jsonl").read_bytes() == before
    assert (done.run / "run_summary.json").read_bytes() == summary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.checkpoint": ""}, "config.model.checkpoint is empty"),
        ({"model.checkpoint": "no/such"}, "no/such/config.json is missing"),
        ({"sft.trainable": "heads"}, "config.sft.trainable='heads'"),
        (
            {"sft.trainable": "all", "model.param_dtype": "bfloat16"},
            "config.model.param_dtype='bfloat16'",
        ),
        ({"evaluate.prompt": "sid_to_title"}, "config.evaluate.prompt='sid_to_title'"),
        ({"sft.new_rows": "zeros"}, "new_rows='zeros'"),
        ({"sft.lora.rank": 0}, "rank=0"),
        ({"train.learning_rate": 0.5}, "learning_rate"),
        ({"search.num_beams": 5}, "config.search.num_beams=5"),
    ],
)
def test_what_cannot_be_trained_is_named_and_the_run_stays(done, changes, message):
    before = {path: path.read_bytes() for path in done.run.glob("*.json*")}
    with pytest.raises(ValueError, match=message):
        train.run_training(make_job(done.workdir, **changes))
    assert {path: path.read_bytes() for path in done.run.glob("*.json*")} == before


def test_codebooks_are_asked_for_only_where_there_are_some(done, tmp_path):
    job = make_job(done.workdir)
    (tmp_path / "sids").symlink_to(done.sids)
    elsewhere = program.Job(job.config, tmp_path, tmp_path / "runs" / "x")
    assert language_model.starts(elsewhere) == ("mean", "random", "codebooks", "ridge")
    (tmp_path / "sids").unlink()
    (tmp_path / "sids").mkdir()
    for name in (catalogue.SIDS, catalogue.SIDS_REPORT):
        (tmp_path / "sids" / name).write_bytes((done.sids / name).read_bytes())
    assert language_model.starts(elsewhere) == ("mean", "random", "ridge")
    (tmp_path / "prepared").symlink_to(done.prepared)
    with pytest.raises(ValueError, match="new_rows='codebooks' needs"):
        train.run_training(elsewhere)


def test_codebooks_that_do_not_say_whose_they_are_are_refused_by_name(done, monkeypatch):
    monkeypatch.setattr(language_model, "load_codebooks", lambda path: (None, {}, {}))
    with pytest.raises(
        ValueError, match=r"codebooks\.npz: sids_sha256 is None: it belongs to other"
    ):
        language_model._codebooks(done)


def test_a_checkpoint_that_lacks_sid_tokens_is_not_evaluated_untrained(done, tmp_path):
    for name in ("prepared", "sids"):
        (tmp_path / name).symlink_to(done.workdir / name)
    with pytest.raises(ValueError, match=r"lacks \d+ SID tokens, such as '<a_"):
        evaluate.run_evaluation(make_job(tmp_path))
    # One that has them is.
    report = evaluate.run_evaluation(
        make_job(tmp_path, **{"model.checkpoint": str(done.run / language.MODEL)})
    )
    summary = json.loads((done.run / "run_summary.json").read_text())
    assert report.model.metrics == summary["evaluation"]["test"]["metrics"]["model"]


def test_rows_of_tokens_that_the_config_alone_states_are_not_made_anew(done, tmp_path):
    folder = tmp_path / "tuned"
    shutil.copytree(done.run / language.MODEL, folder)
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    kept = [entry for entry in value["added_tokens"] if not entry["content"].startswith("<a_")]
    missing = len(value["added_tokens"]) - len(kept)
    # The library numbers the tokens behind them anew; the ids are those of tokenizer_config.json.
    value["added_tokens"] = [entry for entry in kept if not entry["content"].startswith("<")]
    path.write_text(json.dumps(value))
    job = make_job(done.workdir, **{"model.checkpoint": str(folder), "sft.trainable": "all"})
    prepared = Prepared.load(job.prepared)
    catalogue = language_catalogue.load_catalogue(job, prepared, job.sids, folder)
    assert missing > 0
    assert catalogue.tokenizer.added == ()
    model, saved = language_model.make_model(job, folder, catalogue), load_checkpoint(folder)
    for name in ("embedding", "head"):
        np.testing.assert_array_equal(getattr(model, name)[...], getattr(saved, name)[...])
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"vocab_size=\d+, but token '<.*>' has the id"):
        language_catalogue.load_catalogue(job, prepared, job.sids, folder)


def test_a_run_is_evaluated_with_the_prompts_that_it_was_trained_with(done):
    with pytest.raises(ValueError, match=r"prompts\.sids_to_sid\.instruction"):
        evaluate.run_evaluation(
            make_job(done.workdir, **{"prompts.sids_to_sid.instruction": "Go. "})
        )


def test_sft_is_for_its_family_alone(done):
    plain = program.load_config_module("quickstart").get_config("smoke")
    with pytest.raises(program.UsageError, match="is of the family 'sid': use"):
        sft.main(program.Job(plain, done.workdir, done.run))


def test_the_common_verbs_find_what_sft_has_left(done, capsys):
    assert train.run_training(done).reason == "finished"
    assert "this run is finished" in capsys.readouterr().err
    before = (done.run / "report" / "predictions.json").read_bytes()
    report = evaluate.run_evaluation(done)
    assert set(report.evaluations) == {
        "model",
        "system",
        *baselines_for(has_order=True, repeats=False),
    }
    assert (done.run / "report" / "predictions.json").read_bytes() == before


def test_it_recommends_to_any_history(done):
    prepared = Prepared.load(done.prepared)
    raw = prepared.raw_item_ids
    views = prepared.views("test")[:3]
    items = np.asarray(prepared.columns["item"])
    histories = [[raw[item] for item in items[start:stop]] for _, start, stop in views]
    for rank_by in ("model", "system"):
        rows = list(recommend.recommend(done, [*histories, []], top=4, rank_by=rank_by))
        assert [row["user"] for row in rows] == [user for user in range(4) for _ in range(4)]
        for user, history in enumerate(histories):
            found = [row["item_id"] for row in rows if row["user"] == user]
            assert len(set(found)) == 4
            assert not set(found) & set(history)
        assert all("without a history" in row["note"] for row in rows if row["user"] == 3)
    # What it answers alone is what the evaluation found.
    predictions = json.loads((done.run / "report" / "predictions.json").read_text())
    first = next(recommend.recommend(done, histories[:1], top=1, rank_by="model"))
    with pytest.raises(program.UsageError, match="no item table"):
        next(recommend.recommend(done, histories[:1], top=1, rank_by="model_head"))
    assert first["sid"] == predictions[0]["predict"][0]


def test_a_changed_field_is_refused_or_said_to_change_nothing(done):
    refused = refused_fields(done)
    assert {"sft.lora.rank", "loader.weights.sid_to_title", "prompts.sids_to_sid.input"} <= refused
