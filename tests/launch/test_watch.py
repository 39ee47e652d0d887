"""Watch histories teach a tiny model, from an empty folder to its report; stopped and gone on."""

import dataclasses
import fnmatch
import json
import os
import shutil
import signal

import numpy as np
import pytest

from launch import evaluate, sft, tasks, train
from launch.wiring import catalogue, general, language_model, program, watch, watch_catalogue
from launch.wiring import watch_training as training
from minirec import files
from minirec.evaluation.perplexity import Perplexity
from minirec.models.hf import load_checkpoint
from minirec.recommend import baselines_for
from minirec.training import as_record, read_metrics, run_folder, without_wall_clock
from minirec.training import train as train_loop
from pipelines.prepared import Prepared
from pipelines.text.tokenizer import TextTokenizer
from pipelines.text.watch_writing import check_rows
from tests.damages import damaged, damages, refused
from tests.launch.run_readers import of_metrics, outcome
from tests.pipelines import watch_data

TEXT = "".join(f"The {a} {b} was seen in the {c} .\n" for a in "rst" for b in "xyz" for c in "pq")
SMALL = {
    "tasks.source_db": "lists.sqlite",
    "tasks.semantic_ids_path": "sids.jsonl",
    "tasks.target_examples": 300,
    "tasks.task_b_max_history": 6,
    "sids.path": "sids.jsonl",
    "model.scratch.tokens": 300,
    "model.scratch.num_layers": 1,
    "model.scratch.width": 16,
    "model.scratch.num_heads": 2,
    "model.scratch.num_kv_heads": 1,
    "model.scratch.head_dim": 8,
    "model.scratch.mlp_width": 16,
    "loader.batch_size": 2,
    "loader.row_tokens": 256,
    "loader.max_rows": 0,
    "stages.phase0_general.num_steps": 0,
    "stages.phase1_linking.num_steps": 4,
    "stages.phase2_reasoning.num_steps": 4,
    "general_mix.window": 16,
    "monitor.eval_every_steps": 4,
    "monitor.max_bytes": 300,
    "monitor.window": 32,
    "train.eval_every": 4,
    "train.checkpoint_every": 2,
    "train.log_every": 1,
    "search.num_beams": 10,
    "evaluate.valid_users": 16,
    "evaluate.fusion_users": 8,
    "evaluate.test_users": 16,
    "evaluate.resamples": 20,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = watch_data.write(tmp_path_factory.mktemp("data"))
    (folder / "mixed.txt").write_text(TEXT)
    (folder / "watched.txt").write_text(TEXT.replace("seen", "heard"))
    return folder


def make_job(workdir, data, **changes):
    config = program.load_config_module("anime").get_config("small")
    places = {
        "tasks.folder": str(data),
        "data.source.folder": str(data),
        "general_mix.fallback": str(data / "mixed.txt"),
        "monitor.path": str(data / "watched.txt"),
    }
    config.update_from_flattened_dict(SMALL | places | changes)
    return program.Job(config, workdir, workdir / "runs" / config.name)


@pytest.fixture(scope="module")
def done(tmp_path_factory, data):
    job = make_job(tmp_path_factory.mktemp("watch") / "W", data)
    sft.main(job)
    return job


def lines_of(folder):
    return [without_wall_clock(line) for line in read_metrics(folder)]


def test_a_run_leaves_each_stages_model_and_says_how_it_went(done):
    run = done.run
    for name in ("phase1_linking", "phase2_reasoning", "final_model"):
        files.check_folder(run / name, remedy="")
        assert TextTokenizer.load(run / name).size == load_checkpoint(run / name).config.vocab_size
    tokenizer = TextTokenizer.load(run / "tokenizer")
    assert (
        tokenizer.encode("<anime_start><L1_3><liked>")
        == tokenizer.ids(["<anime_start>", "<L1_3>", "<liked>"]).tolist()
    )
    summary = json.loads((run / "train_run_summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["phase1_linking", "phase2_reasoning"]
    assert summary["base"] == {"asked": "scratch", "used": "scratch"}
    assert summary["general_text"]["source"] == "fallback"
    assert "are empty" in summary["general_text"]["instead_because"]
    assert [entry["step"] for entry in summary["retention"]] == [0, 4, 8]
    assert all(entry["perplexity"] > 1 for entry in summary["retention"])
    assert json.loads((run / "train_config_snapshot.json").read_text())["name"] == "anime_small"
    stages = [line["stage"] for line in lines_of(run) if line["kind"] == "train"]
    assert stages == ["phase1_linking"] * 4 + ["phase2_reasoning"] * 4


def test_answers_are_items_and_the_report_has_what_was_forgotten(done):
    report = json.loads((done.run / "report" / "report.json").read_text())
    assert report["invalid"] == 0
    assert set(report["metrics"]) == {
        "model",
        "system",
        *baselines_for(has_order=False, repeats=False),
    }
    assert "co_occurrence" in report["metrics"]
    assert len(report["retention"]) == 3
    assert report["general_text"]["source"] == "fallback"


def test_nothing_held_out_is_trained_on_and_each_target_has_its_own_history(done, data):
    prepared = Prepared.load(done.prepared)
    assert not prepared.has_order
    rows = watch_data.read(done.workdir / "tasks")
    shown = {(row["user_id"], item) for row in rows for item in row["anime_ids"]}
    raw, users = prepared.raw_item_ids, prepared.users["raw_user_id"].to_list()
    trained = {user for user, _, _ in prepared.train_sequences.tolist()}
    kinds = set()
    for split in ("valid", "test"):
        views, targets = prepared.views(split), prepared.targets(split)
        histories = prepared.histories(split, np.arange(len(views)))
        for (user, _, _), target, history in zip(views, targets, histories, strict=True):
            assert target not in history
            assert (int(users[user]), int(raw[target])) not in shown
            kinds.add(int(user) in trained)
    assert kinds == {True, False}
    train_items, offsets = prepared.training_items()
    for (user, _, _), start, stop in zip(
        prepared.train_sequences, offsets[:-1], offsets[1:], strict=True
    ):
        own = {int(raw[item]) for item in train_items[start:stop]}
        seen = {item for who, item in shown if who == int(users[user])}
        assert seen <= own


@pytest.mark.parametrize("after", [2, 6])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(done, tmp_path, after):
    job = dataclasses.replace(done, run=tmp_path / "runs" / done.run.name)

    def interrupted(line):
        # The line is written after the step; the next one is taken still.
        if line["kind"] == "train" and line["step"] == after - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    made = watch.fine_tune(job)
    model = made.make_model()
    result = train_loop(
        model,
        made.task,
        made.stages,
        made.settings,
        record={**made.record, **as_record(made.settings, made.stages)},
        on_claimed=made.keep,
        on_line=interrupted,
        monitors=made.monitors,
        on_stage_end=made.on_stage_end,
    )
    assert result.interrupted
    assert result.step in (after - 1, after)
    assert (job.run / "phase1_linking").is_dir() == (result.step >= 4)
    train.run_training(job)
    assert lines_of(job.run) == lines_of(done.run)
    for name in ("phase1_linking", "phase2_reasoning", "final_model", "tokenizer"):
        for path in sorted((done.run / name).iterdir()):
            assert (job.run / name / path.name).read_bytes() == path.read_bytes(), (name, path.name)


def test_other_rows_than_the_run_was_trained_with_are_refused(done, data, tmp_path):
    job = make_job(tmp_path, data, **{"tasks.seed": 5})
    shutil.copytree(done.workdir, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"config\.data\.source\.lists\.seed is 42 there, 5 now"):
        evaluate.run_evaluation(job)
    with pytest.raises(ValueError, match=r"tasks\.seed is 42 there, 5 now"):
        tasks.main(job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sft.new_rows": "codebooks"},
            r"new_rows='codebooks' needs .*config\.sft\.codebooks_path",
        ),
        ({"sft.new_rows": "zeros"}, "new_rows='zeros'"),
        ({"general_mix.ratio": 1.5}, r"general_mix\.ratio=1\.5"),
        ({"general_mix.fallback": ""}, r"general_mix.*\.fallback is empty"),
        ({"general_mix.files": ("no.jsonl",)}, r"no\.jsonl: no such file"),
        ({"monitor.path": "no.txt"}, r"no\.txt: no such file; config\.monitor\.path"),
        ({"stages.phase1_linking.num_epochs": 1}, "one of them 0"),
        ({"stages.phase1_linking.weights.A": -1.0}, r"phase1_linking\.weights\.A=-1\.0"),
        (
            {"stages.phase1_linking.num_steps": 0, "stages.phase2_reasoning.num_steps": 0},
            r"config\.stages: none has num_steps",
        ),
        ({"loader.row_tokens": 40}, "are longer than row_tokens|there are rows of"),
        ({"model.checkpoint": "not a name"}, r"config\.json is missing"),
    ],
)
def test_what_cannot_be_trained_is_named(done, data, changes, message):
    with pytest.raises(ValueError, match=message):
        train.run_training(make_job(done.workdir, data, **changes))


def test_what_the_monitor_reads_is_not_trained_on(done, data):
    job = make_job(done.workdir, data, **{"general_mix.files": (str(data / "watched.txt"),)})
    with pytest.raises(ValueError, match="is what the monitor reads"):
        train.run_training(job)


def test_a_vocabulary_must_have_all_tokens(done, data, tmp_path):
    path = tmp_path / "vocabulary.json"
    names = watch_catalogue.new_tokens(
        done.config, watch_catalogue.watch_config(done), ("<L1_0>", "<L1_1>")
    )
    files.write_json(path, {"tokens": [*names, "<L9_9>"]})
    job = make_job(done.workdir, data, **{"vocabulary.path": str(path)})
    watch_settings = watch_catalogue.watch_config(job)
    found = watch_catalogue.new_tokens(job.config, watch_settings, ("<L1_0>", "<L1_1>"))
    assert found == (*names, "<L9_9>")
    with pytest.raises(ValueError, match="tokens lacks '<L2_0>'"):
        watch_catalogue.new_tokens(job.config, watch_settings, ("<L2_0>",))


def test_a_dry_run_is_small_and_has_a_folder_of_its_own(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = program.load_config_module("anime").get_config()
    places = {
        "tasks.folder": str(data),
        "data.source.folder": str(data),
        "vocabulary.path": "",
        "general_mix.fallback": str(data / "mixed.txt"),
        "monitor.path": str(data / "watched.txt"),
        "general_mix.hub": "",
        "sids.path": "sids.jsonl",
        "tasks.source_db": "lists.sqlite",
        "tasks.semantic_ids_path": "sids.jsonl",
    }
    config.update_from_flattened_dict(places)
    job = program.dry(program.Job(config, tmp_path, tmp_path / "runs" / "anime"))
    assert "config.dry_run=True: all in small" in capsys.readouterr().err
    assert job.run == tmp_path / "dry_run" / "runs" / "anime"
    assert job.config.tasks.target_examples == 2048
    steps = [stage.num_steps for stage in job.config.stages.values()]
    assert sum(steps) == 20
    assert watch_catalogue.as_it_runs(job).config.model.dtype == "float32"
    # The base model cannot be had here: a tiny one takes its place, and that is said.
    sft._make_what_is_missing(job)
    folder, about = training.base_folder(
        job, Prepared.load(job.prepared), general.general_text(job.config)
    )
    assert folder.name == "scratch"
    assert about["used"] == "scratch"
    assert "DeepSeek-R1-Distill-Qwen-14B cannot be had" in about["instead_because"]
    job.config.dry_run = False
    with pytest.raises(ValueError, match="cannot be had"):
        training.base_folder(job, Prepared.load(job.prepared), general.general_text(job.config))


READERS = {
    "tasks/*": lambda job, path: check_rows(path.parent),
    "runs/*/phase?_*/*": lambda job, path: files.check_folder(path.parent, remedy="see above"),
    "runs/*/final_model/*": lambda job, path: files.check_folder(path.parent, remedy="see above"),
    "runs/*/tokenizer/*": lambda job, path: files.check_folder(path.parent, remedy="see above"),
    "runs/*/base.json": lambda job, path: files.read_sealed(path, "train it again"),
    "runs/*/sids*.json": lambda job, path: catalogue.checked_sids(job.run, catalogue.SIDS),
    "runs/*/config.json": lambda job, path: run_folder.read_config(job.run),
    "runs/*/new_rows.json": lambda job, path: language_model.read_new_rows(job),
    "runs/*/metrics.jsonl": of_metrics,
}
ELSEWHERE = ("prepared/*", "sids/*", "content/*", "scratch/*", "runs/*/checkpoints/*")
ELSEWHERE += ("runs/*/report/*", "runs/*/fusion.json", "runs/*/baselines.json")
FOR_PEOPLE = ("runs/*/train_*.json", "runs/*/run_summary.json", "runs/*/tensorboard/*", "*/.lock")


def test_damage_to_any_file_is_refused_by_its_name(done, tmp_path):
    workdir = shutil.copytree(done.workdir, tmp_path / "W")
    job = dataclasses.replace(done, workdir=workdir, run=workdir / "runs" / done.run.name)
    escaped, count = [], 0
    for path in sorted(path for path in workdir.rglob("*") if path.is_file()):
        name = path.relative_to(workdir).as_posix()
        if any(fnmatch.fnmatch(name, known) for known in (*ELSEWHERE, *FOR_PEOPLE)):
            continue
        reader = next(READERS[known] for known in READERS if fnmatch.fnmatch(name, known))
        data = path.read_bytes()
        right, error = outcome(reader, job, path)
        assert error is None, error
        for what, content in damages(name, data):
            with damaged(path, content):
                found, message = outcome(reader, job, path)
            count += 1
            if not refused(message, path) and (message is not None or found != right):
                escaped.append(f"{name}: {what}: {message or 'read as something else'}")
    assert not escaped, "\n".join(escaped)
    assert count > 60


def test_perplexity_is_that_of_plain_sums(done):
    model = load_checkpoint(done.run / "final_model")
    tokens = np.arange(5, 80).astype(np.int32)
    found = Perplexity.of_tokens(tokens, 200, first=0, window=16, batch_size=2)(model)
    row = np.concatenate([[0], tokens])
    total = 0.0
    for begin in range(0, len(tokens), 16):
        given = row[begin : begin + 17][None]
        size = given.shape[1] - 1
        hidden = model(
            given[:, :-1], np.arange(size)[None], np.ones((1, size), np.int32), dropout_key=None
        )
        logits = np.asarray(model.logits(hidden), np.float64)[0]
        shifted = logits - logits.max(axis=-1, keepdims=True)
        normal = np.log(np.exp(shifted).sum(axis=-1))
        total += float((normal - shifted[np.arange(size), given[0, 1:]]).sum())
    assert found["perplexity"] == pytest.approx(np.exp(total / len(tokens)), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(total / np.log(2) / 200, rel=1e-4)
