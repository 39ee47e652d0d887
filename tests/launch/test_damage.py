"""Damage to every file that the steps leave: refused by its name, or proved to change nothing.

The files are those that lie there: one that nobody reads must be in `NEVER_READ`, with the reason.
A digest notices a flipped bit. What has a right digest and another shape (of an older version, of
another program, of somebody who means harm) is refused by the reader, which is tried by sealing it
again.
"""

import dataclasses
import fnmatch
import json
import shutil

import numpy as np
import pytest

from launch.sweep import __main__ as sweep
from launch.sweep import sweep_run
from launch.sweep.results import FAILURES, RESULTS, read_lines, write_lines
from launch.wiring import baselines, catalogue, fusion_run, language_model, sid, wandb_log
from minirec import files
from minirec.models.hf import save_checkpoint
from minirec.sids.append import AppendedItems
from minirec.sids.latent_codebooks import load_codebooks
from minirec.sids.text_transform import TextTransform
from minirec.training.run_folder import overwrite_once, read_config
from pipelines.prepared import Prepared
from tests.damages import damaged, damages, refused, variants
from tests.launch.run_readers import of_checkpoint, of_metrics, of_report, outcome
from tests.models.hf_small import QWEN2, make

NEVER_READ = {
    "*/tensorboard/*": "TensorBoard's",
    "*.html": "for people",
    "*/run_summary.json": "for people, and to be compared",
    "*/.lock": "its content is for people",
    "*/report*/checksums.json": "see report.json, whose digest it holds",
}
HARMLESS = {
    ("sweeps/*.jsonl", "empty"): "the same command makes the lines anew from the runs' reports",
}


@pytest.fixture(scope="module")
def whole(smoke, tmp_path_factory):
    """A workdir in which every step has left its files."""
    job, _ = smoke
    workdir = tmp_path_factory.mktemp("damage") / "w"
    shutil.copytree(job.workdir, workdir)
    for other in (workdir / "runs").iterdir():  # Other tests' runs.
        if other.name != job.run.name:
            shutil.rmtree(other)
    job = dataclasses.replace(job, workdir=workdir, run=workdir / "runs" / job.run.name)
    prepared = catalogue.load_prepared(job)
    table = catalogue.load_table(prepared, job.sids)
    digest = files.sha256(job.sids / catalogue.SIDS)
    AppendedItems(digest, ("new",), ("title",), table.codes[:1]).save(job.sids / catalogue.APPENDED)
    of_sweep = sweep_run.SweepJob(
        job.config, workdir, workdir / "sweeps" / "s" / "runs" / "r", False, job.prepared, job.sids
    )
    sweep_run.write_spec(of_sweep, "test")
    report = files.read_json(job.run / "report" / "report.json")
    line = {name: report[name] for name in ("users", "metrics", "intervals", "chosen_on")}
    line |= {"run": "r", "split": "test", "commit": None, "uncommitted_changes": None}
    write_lines(workdir / "sweeps" / "s" / RESULTS, {("r", "test"): line})
    files.write_sealed(workdir / "sweeps" / "s" / sweep.RECORD, {"config": job.config.to_dict()})
    save_checkpoint(make(QWEN2), workdir / "fine_tuned")
    files.write_checksums(workdir / "fine_tuned")
    of_overwrite(job, None, asked=True)
    wandb_log.run_id(job.run)
    files.write_sealed(
        job.run / language_model.NEW_ROWS_FILE, {"record": digest, "losses": {"mean": [1.0]}}
    )
    failed = {"run": "r", "split": "test", "error": "why"}
    write_lines(workdir / "sweeps" / "s" / FAILURES, {("r", "test"): failed})
    return job


def of_overwrite(job, path, *, asked=False):
    record = {"of": "a run"}
    overwrite_once(job.run, record, asked=asked, finished=lambda: False, remove=lambda: None)


def of_prepared(job, path):
    data = Prepared.load(job.prepared)
    arrays = (*data.columns.values(), data.offsets, *map(data.views, ("train", "valid", "test")))
    return [np.asarray(a).tobytes() for a in arrays], data.users, data.items, data.event_weights


def of_table(folder):
    def read(job, path):
        table = catalogue.load_table(prepared_of(job), folder(job))
        return table.codes.tolist(), table.codebook_sizes

    return read


def of_vocab(job, path):
    return sid.SidVocab.load(path).token_strings


def of_codebooks(job, path):
    catalogue.checked_sids(job.sids, catalogue.CODEBOOKS)
    codebooks, about, arrays = load_codebooks(path)
    text = TextTransform.from_arrays(arrays, path)
    return [c.tobytes() for c in codebooks.codebooks], about, text and text.words


def of_appended(job, path):
    table = catalogue.load_table(prepared_of(job), job.sids)
    items = AppendedItems.load(path, table, files.sha256(job.sids / catalogue.SIDS))
    return items.raw_item_ids, items.titles, items.codes.tolist()


def of_content(job, path):
    like = baselines.neighbours(job, prepared_of(job))
    return [np.asarray(a).tobytes() for a in (like.offsets, like.item, like.cosine)]


def of_lines(shape):
    def read(job, path):
        return read_lines(path, shape)

    return read


READERS = {
    "fine_tuned/*": lambda job, path: files.check_folder(path.parent, remedy="see above"),
    "sweeps/*/sweep.json": lambda job, path: files.read_sealed(path, "see above"),
    "prepared/*": of_prepared,
    "sids/sids*.json": of_table(lambda job: job.sids),
    "sids/codebooks.npz": of_codebooks,
    "sids/appended.json": of_appended,
    "content/*": of_content,
    "runs/*/sids*.json": of_table(lambda job: job.run),
    "runs/*/vocab.json": of_vocab,
    "runs/*/config.json": lambda job, path: read_config(job.run),
    "runs/*/metrics.jsonl": of_metrics,
    "runs/*/fusion.json": lambda job, path: fusion_run.kept_system(job),
    "runs/*/baselines.json": lambda job, path: baselines.kept(job, prepared_of(job)),
    "runs/*/overwrite.json": of_overwrite,
    "runs/*/wandb.json": lambda job, path: wandb_log.run_id(job.run),
    "runs/*/new_rows.json": lambda job, path: language_model.read_new_rows(job),
    "runs/*/report*/*.json": of_report,
    "runs/*/checkpoints/*": of_checkpoint,
    "sweeps/*/sweep_run.json": lambda job, path: sweep_run.read_spec(path),
    "sweeps/*/results.jsonl": of_lines(None),
    "sweeps/*/failed.jsonl": of_lines({"error": str}),
}
_prepared = {}


def prepared_of(job):
    """The records, which are not what is damaged here."""
    if job.prepared not in _prepared:
        _prepared[job.prepared] = Prepared.load(job.prepared)
    return _prepared[job.prepared]


def names(job):
    paths = (path for path in job.workdir.rglob("*") if path.is_file())
    return sorted(path.relative_to(job.workdir).as_posix() for path in paths)


def reader_of(name):
    if any(fnmatch.fnmatch(name, pattern) for pattern in NEVER_READ):
        return None
    found = [reader for pattern, reader in READERS.items() if fnmatch.fnmatch(name, pattern)]
    assert found, f"{name}: nobody here reads it; say in NEVER_READ why, or add its reader"
    return found[0]


def test_any_damage_to_any_file_is_refused_by_name_or_changes_nothing(whole):
    escaped, count = [], 0
    for name in names(whole):
        reader, path = reader_of(name), whole.workdir / name
        data = path.read_bytes()
        if reader is None or not data:
            continue
        right, error = outcome(reader, whole, path)
        assert error is None, error
        for what, content in damages(name, data):
            if any(fnmatch.fnmatch(name, kind) and what == how for kind, how in HARMLESS):
                continue
            with damaged(path, content):
                found, message = outcome(reader, whole, path)
            count += 1
            if not refused(message, path) and (message is not None or found != right):
                escaped.append(f"{name}: {what}: {message or 'read as something else'}")
    assert not escaped, "\n".join(escaped)
    assert count > 300


SEALED = {
    "prepared/manifest.json": of_prepared,
    "sids/sids_report.json": of_table(lambda job: job.sids),
    "sids/appended.json": of_appended,
    "runs/*/vocab.json": of_vocab,
    "runs/*/fusion.json": lambda job, path: fusion_run.kept_system(job),
    "runs/*/baselines.json": lambda job, path: baselines.kept(job, prepared_of(job)),
    "runs/*/overwrite.json": of_overwrite,
    "runs/*/wandb.json": lambda job, path: wandb_log.run_id(job.run),
    "runs/*/new_rows.json": lambda job, path: language_model.read_new_rows(job),
    "sweeps/s/runs/r/sweep_run.json": lambda job, path: sweep_run.read_spec(path),
    "sweeps/s/results.jsonl": of_lines(None),
    "runs/*/config.json": lambda job, path: sid.EXPERIMENT.load(job),
}


@pytest.mark.parametrize("pattern", SEALED)
def test_another_shape_under_a_right_seal_is_refused_by_name(whole, pattern, monkeypatch):
    if not pattern.startswith("prepared"):
        kept = prepared_of(whole)
        monkeypatch.setattr(Prepared, "load", lambda folder: kept)
    if pattern.endswith("config.json"):  # What comes before the model is made and restored.
        loaded = sid.load_catalogue(prepared_of(whole), whole.run)
        monkeypatch.setattr(sid, "load_catalogue", lambda *_: loaded)
        monkeypatch.setattr(sid.nnx, "eval_shape", lambda make: None)
        monkeypatch.setattr(sid.sharding, "place", lambda *_: None)
        monkeypatch.setattr(sid, "load_best", lambda folder, model: None)
        monkeypatch.setattr(sid, "reader_of", lambda config, catalogue, mesh: lambda model: model)
    (name,) = fnmatch.filter(names(whole), pattern)
    path = whole.workdir / name
    value = json.loads(path.read_bytes())
    value.pop(files.SEAL, None)
    count = 0
    for what, other in variants(value):
        if what.startswith("files"):
            continue
        with damaged(path, json.dumps(files.seal(other)).encode()):
            _, message = outcome(SEALED[pattern], whole, path)
        if message is not None:
            count += 1
            assert path.name in message or str(path.parent) in message, (what, message)
    assert count >= len(value)
