"""Damage to every file that the steps leave: refused by its name, or proved to change nothing.

The files are those that lie there: one that nobody reads must be in `NEVER_READ`, with the reason.
A digest notices a flipped bit. What has a right digest and another shape (of an older version, of
another program, of somebody who means harm) is refused by the reader, which is tried by sealing it
again.
"""

import contextlib
import dataclasses
import fnmatch
import json
import os
import shutil

import numpy as np
import pytest

from launch import ranking, run_summary, sweep, sweep_run, wiring
from minirec import files
from minirec.models.hf import save_checkpoint
from minirec.sids.append import AppendedItems
from minirec.sids.latent_codebooks import load_codebooks
from minirec.sids.text_transform import TextTransform
from minirec.training import read_metrics
from minirec.training.metrics_log import FINAL, check_prefix
from minirec.training.run_folder import read_config
from minirec.training.step_folders import StepFolders
from pipelines.prepared import Prepared
from tests.models.hf_small import QWEN2, make

NEVER_READ = {
    "*/tensorboard/*": "TensorBoard's",
    "*.html": "for people",
    "*/.lock": "its content is for people",
    "*/report/checksums.json": "see report.json, whose digest it holds",
    "*/overwrite.json": "see tests/training/test_damage.py",
}
HARMLESS = {
    ("sweeps/*.jsonl", "empty"): "the same command makes the lines anew from the runs' reports",
}
DEEP = b"[" * 100_000
LONG = b'{"a": ' + b"9" * 5000 + b"}"
OTHER_JSON = (
    b"[]",
    b"{}",
    b"null",
    b"3",
    b'"text"',
    b"[[1]]",
    DEEP,
    LONG,
    b"\xef\xbb\xbf{",
    b"{}{}",
)
OTHER_VALUES = (None, "x", -1, 2**70, 0.5, [], {}, [[]], [None], {"x": None}, True)


@pytest.fixture(scope="module")
def whole(smoke, tmp_path_factory):
    """A workdir in which every step has left its files."""
    job, _ = smoke
    workdir = tmp_path_factory.mktemp("damage") / "w"
    shutil.copytree(job.workdir, workdir)
    job = dataclasses.replace(job, workdir=workdir, run=workdir / "runs" / job.run.name)
    prepared = wiring.load_prepared(job)
    table = wiring.load_table(prepared, job.sids)
    digest = files.sha256(job.sids / wiring.SIDS)
    AppendedItems(digest, ("new",), ("title",), table.codes[:1]).save(job.sids / wiring.APPENDED)
    of_sweep = sweep_run.SweepJob(
        job.config, workdir, workdir / "sweeps" / "s" / "runs" / "r", False, job.prepared, job.sids
    )
    sweep_run.write_spec(of_sweep, "test")
    report = files.read_json(job.run / "report" / "report.json")
    line = {name: report[name] for name in ("users", "metrics", "intervals", "chosen_on")}
    line |= {"run": "r", "split": "test", "commit": None, "uncommitted_changes": None}
    sweep._write_lines(workdir / "sweeps" / "s" / sweep.RESULTS, {("r", "test"): line})
    files.write_sealed(workdir / "sweeps" / "s" / sweep.RECORD, {"config": job.config.to_dict()})
    save_checkpoint(make(QWEN2), workdir / "fine_tuned")
    files.write_checksums(workdir / "fine_tuned")
    failed = {"run": "r", "split": "test", "error": "why"}
    sweep._write_lines(workdir / "sweeps" / "s" / sweep.FAILURES, {("r", "test"): failed})
    return job


def of_prepared(job, path):
    data = Prepared.load(job.prepared)
    arrays = (*data.columns.values(), data.offsets, *map(data.views, ("train", "valid", "test")))
    return [np.asarray(a).tobytes() for a in arrays], data.users, data.items, data.event_weights


def of_table(folder):
    def read(job, path):
        table = wiring.load_table(prepared_of(job), folder(job))
        return table.codes.tolist(), table.codebook_sizes

    return read


def of_vocab(job, path):
    return wiring.SidVocab.load(path).token_strings


def of_codebooks(job, path):
    wiring.checked_sids(job.sids, wiring.CODEBOOKS)
    codebooks, about, arrays = load_codebooks(path)
    text = TextTransform.from_arrays(arrays, path)
    return [c.tobytes() for c in codebooks.codebooks], about, text and text.words


def of_appended(job, path):
    table = wiring.load_table(prepared_of(job), job.sids)
    items = AppendedItems.load(path, table, files.sha256(job.sids / wiring.SIDS))
    return items.raw_item_ids, items.titles, items.codes.tolist()


def of_metrics(job, path):
    """The lines, looked at as who goes on does; one that tells of the end is made anew."""
    lines = [line for line in read_metrics(job.run) if line["kind"] != FINAL]
    last = max((job.run / "checkpoints" / "last").iterdir(), key=lambda folder: int(folder.name))
    position = json.loads((last / "position" / "metadata").read_bytes())
    check_prefix(path, position["metrics_bytes"], position["metrics_sha256"])
    return lines


def of_report(job, path):
    return run_summary._evaluation(job, "report")


def of_checkpoint(job, path):
    step = next(part for part in path.parents if part.parent.name in ("last", "best"))
    saved = StepFolders(step.parent, keep=None)
    try:
        saved.check(int(step.name), "see above")
    finally:
        saved.close()


def of_lines(shape):
    def read(job, path):
        return sweep._read_lines(path, shape)

    return read


READERS = {
    "fine_tuned/*": lambda job, path: files.check_folder(path.parent, remedy="see above"),
    "sweeps/*/sweep.json": lambda job, path: files.read_sealed(path, "see above"),
    "prepared/*": of_prepared,
    "sids/sids*.json": of_table(lambda job: job.sids),
    "sids/codebooks.npz": of_codebooks,
    "sids/appended.json": of_appended,
    "runs/*/sids*.json": of_table(lambda job: job.run),
    "runs/*/vocab.json": of_vocab,
    "runs/*/config.json": lambda job, path: read_config(job.run),
    "runs/*/metrics.jsonl": of_metrics,
    "runs/*/fusion.json": lambda job, path: ranking.kept_weights(job),
    "runs/*/report/*.json": of_report,
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


@contextlib.contextmanager
def damaged(path, content):
    """Puts another file in the place of one, for as long as the block."""
    kept = path.with_name(f".{path.name}.kept")
    os.replace(path, kept)
    try:
        path.write_bytes(content)
        yield
    finally:
        os.replace(kept, path)


def outcome(reader, job, path):
    """What a reader makes of a file: a value, or the error that names it."""
    try:
        return repr(reader(job, path)), None
    except (ValueError, OSError) as error:
        return None, str(error)


def refused(message, path):
    return message is not None and path.name in message and "\n" not in message


def damages(name, data):
    rng = np.random.default_rng(sum(map(ord, name)))
    for place in rng.integers(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield f"bit flipped in byte {place}", bytes(flipped)
    yield "cut", data[: len(data) // 2]
    yield "a byte less", data[:-1]
    yield "empty", b""
    if name.endswith((".json", ".jsonl")) and "checkpoints" not in name:
        for other in OTHER_JSON:
            yield f"{other[:12]!r}", other


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


def variants(value):
    """The object with one of its fields, at any depth of two, being something else."""
    for name, entry in value.items():
        yield name, {other: e for other, e in value.items() if other != name}
        for other in OTHER_VALUES:
            yield f"{name}={other!r}", value | {name: other}
        if isinstance(entry, dict):
            for inner in list(entry)[:4]:
                for other in OTHER_VALUES:
                    yield f"{name}.{inner}={other!r}", value | {name: entry | {inner: other}}


SEALED = {
    "prepared/manifest.json": of_prepared,
    "sids/sids_report.json": of_table(lambda job: job.sids),
    "sids/appended.json": of_appended,
    "runs/*/vocab.json": of_vocab,
    "runs/*/fusion.json": lambda job, path: ranking.kept_weights(job),
    "sweeps/s/runs/r/sweep_run.json": lambda job, path: sweep_run.read_spec(path),
    "sweeps/s/results.jsonl": of_lines(None),
    "runs/*/config.json": lambda job, path: wiring.load_run(job),
}


@pytest.mark.parametrize("pattern", SEALED)
def test_another_shape_under_a_right_seal_is_refused_by_name(whole, pattern, monkeypatch):
    if not pattern.startswith("prepared"):
        kept = prepared_of(whole)
        monkeypatch.setattr(Prepared, "load", lambda folder: kept)
    if pattern.endswith("config.json"):  # What comes before the model is made and restored.
        catalogue = wiring.load_catalogue(prepared_of(whole), whole.run)
        monkeypatch.setattr(wiring, "load_catalogue", lambda *_: catalogue)
        monkeypatch.setattr(wiring, "new_model", lambda *_: None)
        monkeypatch.setattr(wiring.nnx, "eval_shape", lambda make: make())
        monkeypatch.setattr(wiring.sharding, "place", lambda *_: None)
        monkeypatch.setattr(wiring, "load_best", lambda folder, model: None)
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
