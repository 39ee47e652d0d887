"""A language model of one's own through the common verbs: trained, gone on with, measured."""

import dataclasses
import json
import math
import os
import signal

import jax
import numpy as np
import pytest
from flax import nnx

from launch import compare_sids, evaluate, make_sids, prepare, recommend, train
from launch.sweep.__main__ import run_sweep
from launch.sweep.grid import read_grid
from launch.wiring import program, serving, text
from minirec import files
from minirec.decoding import SamplingSettings
from minirec.training import load_last, read_metrics, without_wall_clock
from tests.launch.fields import changed, refused_fields


def test_a_run_says_what_it_is_of_and_how_well_it_knows_other_documents(text_smoke):
    job, report = text_smoke
    kept = files.read_json(job.run / "metadata.json", dict)
    assert kept["model"]["trunk"]["width"] == 32
    assert kept["model"]["vocab_size"] == 1024
    assert kept["tokenizer"]["eos_id"] == 2
    measured = files.read_json(job.run / "report" / "report.json", dict)
    ours = measured["metrics"]["model"]
    assert ours == report.metrics["model"]
    total = math.log(ours["perplexity"]) * measured["tokens"]
    # google-metrax adds and divides in float32.
    assert ours["bits_per_byte"] == pytest.approx(total / math.log(2) / measured["bytes"], rel=1e-5)
    assert ours["word_perplexity"] == pytest.approx(math.exp(total / measured["words"]), rel=1e-3)
    assert ours["perplexity"] < 1024
    beside = measured["metrics"]
    words = [beside[name]["word_perplexity"] for name in ("kneser_ney", "model_and_kneser_ney")]
    assert words[1] <= words[0] * 1.01
    assert 0 < measured["new_words"] < measured["words"]
    page = (job.run / "report" / "index.html").read_text()
    assert "The beam step" in page
    assert "kneser_ney" in page
    summary = files.read_json(job.run / "run_summary.json", dict)
    assert summary["evaluation"]["test"]["metrics"]["model"] == ours


def test_measures_and_samples_are_in_the_metrics_as_training_goes(text_smoke):
    job, _ = text_smoke
    lines = read_metrics(job.run)
    found = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in found] == [6, 12]
    for name in ("perplexity", "bits_per_byte", "word_perplexity"):
        assert found[1][f"eval/{name}"] < found[0][f"eval/{name}"]
    samples = [line for line in lines if line.get("monitor") == "samples"]
    assert [line["step"] for line in samples] == [0, 6, 12]
    assert all(isinstance(line["samples/0"], str) for line in samples)


def test_a_stopped_run_ends_bit_equal_to_one_that_was_not(text_smoke, monkeypatch):
    whole, _ = text_smoke
    stopped = dataclasses.replace(whole, run=whole.workdir / "runs" / "stopped")
    looks = []

    def samples(*given):
        looks.append(1)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return found(*given)

    found = text.samples
    monkeypatch.setattr(text, "samples", samples)
    assert train.run_training(stopped).reason == "interrupted"
    assert train.run_training(stopped).resumed_from == 6
    runs = [
        [without_wall_clock(line) for line in read_metrics(job.run)] for job in (whole, stopped)
    ]
    assert runs[0] == runs[1]
    pieces = text.load(whole).pieces
    empty = nnx.eval_shape(lambda: text.make_model(whole.config, pieces))
    models = [jax.tree.leaves(nnx.state(load_last(job.run, empty))) for job in (whole, stopped)]
    for one, other in zip(*models, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_writes_text_behind_a_prompt(text_smoke):
    run = text.load(text_smoke[0])
    settings = SamplingSettings(max_new_tokens=6, seed=3)
    prompt = run.prompt("The beam step")
    assert prompt[0] == run.pieces.bos_id
    (answer,) = run.sampler().generate([prompt], settings)
    assert answer.text == run.pieces.decode(answer.tokens)
    assert "".join(run.sampler().stream_text(prompt, settings)) == answer.text


def test_a_changed_field_is_refused_or_said_to_change_nothing(text_smoke):
    job, _ = text_smoke
    refused = refused_fields(job, skip=("retrieval",))
    assert {"corpus.min_chars", "tokenizer.vocab_size", "model.depth", "seed"} <= refused
    assert {"loader.shifts", "train.muon_learning_rate", "evaluate.valid_ratio"} <= refused
    with pytest.raises(program.UsageError, match=r"report\.json: config\.evaluate\.overlap is 16"):
        evaluate.run_evaluation(changed(job, "evaluate.overlap", 8))


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("launch.prepare", prepare.main),
        ("writes no SIDs", make_sids.make),
        ("launch.compare_sids", compare_sids.main),
        ("launch.recommend", lambda job: list(recommend.recommend(job, [[]], top=1))),
        ("launch.serve", serving.load),
        (
            "launch.sweep",
            lambda job: run_sweep(job, read_grid("seed=1", job.config), execute=lambda _: 0),
        ),
    ],
)
def test_a_verb_that_makes_no_sense_says_so_by_name(text_smoke, verb, call):
    with pytest.raises(program.UsageError, match=rf"{verb}.*|family='text'.*{verb}"):
        call(text_smoke[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("evaluate.valid_ratio", 0.0, r"train\.eval_every=6: .*valid_ratio=0"),
        ("evaluate.batch_size", 0, r"config\.evaluate\.batch_size"),
        ("evaluate.valid_ratio", 1.0, r"valid_ratio=1\.0: must lie in"),
        ("loader.shifts", 65, r"loader\.shifts=65"),
        ("model.num_heads", 5, r"config\.model: .*head_dim|num_heads"),
        ("model.logits_at_once", 0, r"logits_at_once"),
        ("sampling.temperature", 0.0, r"config\.sampling: .*temperature"),
        ("mesh.data", 3, r"config\.mesh"),
    ],
)
def test_what_cannot_be_ends_before_anything_is_trained(text_smoke, field, value, message):
    job = changed(text_smoke[0], field, value)
    if field == "model.num_heads":
        job = changed(job, "model.num_kv_heads", 2)
    new = dataclasses.replace(job, run=job.workdir / "runs" / "none")
    with pytest.raises(ValueError, match=message):
        train.run_training(new)
    assert not new.run.exists()


def test_the_split_that_selects_is_measured_too(text_smoke):
    job, _ = text_smoke
    config = job.config.copy_and_resolve_references()
    config.evaluate.kneser_ney_order = 0
    report = evaluate.run_evaluation(dataclasses.replace(job, config=config), "valid")
    assert set(report.metrics) == {"model"}
    final = json.loads((job.run / "report_valid" / "report.json").read_text())
    assert final["documents"] == 1
