"""What a run left and has been damaged since: never restored, named, and mended where it can be."""

import contextlib
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from flax import nnx

from minirec import files
from minirec.training import load_best, load_last, read_metrics, train
from minirec.training.checkpoints import Checkpoints, Position
from minirec.training.early_stop import EarlyStop
from minirec.training.loop import new_optimizer
from tests.damages import DEEP, variants
from tests.training.helpers import ScriptedTask, assert_equal_models, config, fresh, lines
from tests.training.tiny import TinyBatches, TinyTask, stages

COUNTS = ("step", "stage", "step_in_stage", "seed", "evaluated_step", "metrics_bytes")
LENGTHS = (10, 7)  # As the run of `uninterrupted` is.


@pytest.fixture
def run(uninterrupted, tmp_path):
    """A copy of a finished run: (folder, model)."""
    return shutil.copytree(uninterrupted[0], tmp_path / "run"), uninterrupted[1]


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def arrays_of(step):
    return max((step / "model" / "d").iterdir(), key=lambda path: path.stat().st_size)


def again(folder, task=None):
    model = fresh()
    return model, train(model, task or TinyTask(), stages(*LENGTHS), config(folder))


def assert_equal_runs(folder, uninterrupted, model):
    assert_equal_models(model, uninterrupted[1])
    assert lines(folder) == lines(uninterrupted[0])
    assert_equal_models(load_best(folder, fresh()), load_best(uninterrupted[0], fresh()))
    assert_equal_models(load_last(folder, fresh()), load_last(uninterrupted[0], fresh()))


@pytest.mark.parametrize(("name", "load"), [("last", load_last), ("best", load_best)])
def test_a_flipped_bit_of_any_file_of_a_checkpoint_is_refused_by_its_name(run, name, load):
    folder, _ = run
    newest = max((folder / "checkpoints" / name).iterdir(), key=lambda path: int(path.name))
    found = files_below(newest)
    assert len(found) > 10
    for number, path in enumerate(found):
        data = path.read_bytes()
        if data:
            flip(path, int(np.random.default_rng(number).integers(len(data))))
        else:
            path.write_bytes(b"\0")
        with pytest.raises(files.DamagedError, match=f"{path}: .*train again"):
            load(folder, nnx.eval_shape(fresh))
        path.unlink()
        with pytest.raises(files.DamagedError, match=f"{path} is missing.*train again"):
            load(folder, nnx.eval_shape(fresh))
        path.write_bytes(data)
    load(folder, fresh())


def replaced(path, content, step):
    """Puts another content under right digests; None: nothing."""
    path.write_bytes(content or b"")
    if content is None:
        path.unlink()
    (step / files.CHECKSUMS).unlink()
    files.write_checksums(step)


def test_other_content_under_right_digests_is_refused_by_name_or_changes_nothing(run):
    folder, _ = run
    (step,) = (folder / "checkpoints" / "best").iterdir()
    right, refusals = load_best(folder, fresh()), []
    others = {
        "_CHECKPOINT_METADATA": (b"3", DEEP),
        "model/_METADATA": (b"", b"[]", b"{}", DEEP, None),
        "model/array_metadatas/process_0": (b"[]", None),
    }
    for name, contents in others.items():
        kept = (step / name).read_bytes()
        for content in contents:
            replaced(step / name, content, step)
            try:
                assert_equal_models(load_best(folder, nnx.eval_shape(fresh)), right)
            except files.DamagedError as error:
                refusals.append(str(error))
        replaced(step / name, kept, step)
    assert len(refusals) >= 7
    assert all(str(step) in refusal and "\n" not in refusal for refusal in refusals)
    assert_equal_models(load_best(folder, fresh()), right)


def test_a_position_of_another_shape_under_right_digests_is_refused_by_its_name(run, monkeypatch):
    folder, _ = run
    last = folder / "checkpoints" / "last"
    shutil.rmtree(last / "16")
    path = last / "17" / "position" / "metadata"
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))  # Not finished yet.
    right = json.loads(path.read_bytes())
    refusals = []
    for what, other in [*variants(right), ("surplus", right | {"surplus": 1})]:
        try:
            position = Position.from_json(other, str(path))
        except files.DamagedError as error:
            refusals.append(str(error))
        else:
            assert {type(getattr(position, name)) for name in COUNTS} == {int}, what
            EarlyStop(**position.early_stop)
    assert len(refusals) > 80
    assert all(str(path) in refusal for refusal in refusals)
    others = [right | {"step": 16}, right | {"stage": 2}, right | {"step_in_stage": 8}]
    for content in (b"[]", DEEP, *(json.dumps(other).encode() for other in others)):
        replaced(path, content, last / "17")
        with pytest.raises(files.DamagedError, match=rf"none of .*step 17: {last / '17'}\b"):
            again(folder)
    replaced(path, json.dumps(right).encode(), last / "17")
    monkeypatch.setattr(TinyBatches, "set_state", lambda *_: int("odd"))
    with pytest.raises(ValueError, match=f"{last / '17'}: .*odd"):
        again(folder)


def damaged_array(folder):
    path = arrays_of(folder / "checkpoints" / "last" / "17")
    flip(path)
    return path


def without_checksums(folder):
    path = folder / "checkpoints" / "last" / "17" / "checksums.json"
    path.unlink()
    return path


def cut_record(folder):
    path = folder / "metrics.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)[:-2]
    path.write_bytes(b"".join(kept))
    return path


def damaged_last_line(folder):
    path = folder / "metrics.jsonl"
    flip(path, -30)
    return path


@pytest.mark.parametrize(
    ("damage", "resumed_from"),
    [(damaged_array, 16), (without_checksums, 16), (cut_record, 16), (damaged_last_line, 17)],
)
def test_a_damaged_end_falls_back_aloud_and_the_run_ends_bit_equal(
    run, uninterrupted, capsys, damage, resumed_from
):
    folder, _ = run
    path = damage(folder)
    model, result = again(folder)
    assert f"{path}" in capsys.readouterr().err
    assert (result.resumed_from, result.step) == (resumed_from, 17)
    assert_equal_runs(folder, uninterrupted, model)


def test_where_no_checkpoint_is_whole_the_error_names_them_and_nothing_goes(run):
    folder, _ = run
    last = folder / "checkpoints" / "last"
    damaged = [arrays_of(last / "16"), last / "17" / "position" / "metadata"]
    for path in damaged:
        flip(path, 0)
    before = {path: path.read_bytes() for path in files_below(folder)}
    with pytest.raises(files.DamagedError, match="none of the checkpoints is whole") as error:
        again(folder)
    assert all(str(path) in str(error.value) for path in damaged)
    assert "overwrite" in str(error.value)
    assert {path: path.read_bytes() for path in files_below(folder)} == before


def test_a_record_that_no_checkpoint_knows_is_refused_by_its_name(run):
    folder, _ = run
    flip(folder / "metrics.jsonl", 20)
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        read_metrics(folder)
    with pytest.raises(files.DamagedError, match=r"metrics\.jsonl: its first \d+ bytes have been"):
        again(folder)


def scripted(folder, *qualities):
    train(fresh(), ScriptedTask(*qualities), stages(8), config(folder, eval_every=2))
    return arrays_of(max((folder / "checkpoints" / "best").iterdir()))


def test_a_damaged_best_model_is_saved_anew_from_the_last_checkpoints(tmp_path, capsys):
    path = scripted(tmp_path, 1.0, 2.0, 4.0, 3.0)
    whole = load_best(tmp_path, fresh())
    flip(path)
    with pytest.raises(files.DamagedError, match=f"{path}: "):
        load_best(tmp_path, fresh())
    task = ScriptedTask()
    result = train(fresh(), task, stages(8), config(tmp_path, eval_every=2))
    assert str(path) in capsys.readouterr().err
    assert (result.resumed_from, result.best_step) == (8, 6)
    assert_equal_models(load_best(tmp_path, fresh()), whole)


def test_a_best_model_that_is_lost_is_told_and_never_loaded(tmp_path, capsys):
    path = scripted(tmp_path, 4.0, 1.0, 2.0, 3.0)
    flip(path)
    train(fresh(), ScriptedTask(), stages(8), config(tmp_path, eval_every=2))
    assert "the best model, of step 2, is lost" in capsys.readouterr().err
    with pytest.raises(files.DamagedError, match=f"{path}: .*--overwrite"):
        load_best(tmp_path, fresh())


def test_a_failure_before_any_rename_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    model = fresh()
    stage = stages(9)[0]
    state = nnx.state(model), nnx.state(new_optimizer(model, stage, None))
    replace, calls = os.replace, []

    def save(folder, fail_at):
        """Saves two steps, fails at a rename, and returns the newest that was saved to its end."""
        saved, count = 0, iter(range(1000))

        def one(source, target):
            calls.append(target)
            if next(count) == fail_at:
                raise OSError("the power went")
            replace(source, target)

        checkpoints = Checkpoints(folder, keep_last=1)
        with monkeypatch.context() as patch, contextlib.suppress(OSError):
            patch.setattr(os, "replace", one)
            for step in (1, 2):
                position = dataclasses.replace(Position.start(1), step=step)
                checkpoints.save_last(*state, position)
                saved = step
        checkpoints.close()
        return saved

    assert save(tmp_path / "whole", None) == 2
    assert len(calls) == 5  # Checksums and the step, twice; and the older one goes.
    for fail_at in range(5):
        folder = tmp_path / str(fail_at)
        saved = save(folder, fail_at)
        checkpoints = Checkpoints(folder, keep_last=1)
        found = checkpoints.restore_newest(model, lambda _: new_optimizer(model, stage, None))
        assert (found[0].step if found else 0) >= saved
        checkpoints.close()
        assert all(path.name.isdigit() for path in (folder / "checkpoints" / "last").iterdir())


def test_the_last_line_vouches_for_those_before_it(run):
    folder, _ = run
    path = folder / "metrics.jsonl"
    text = path.read_text()
    final = json.loads(text.splitlines()[-1])
    for change in (
        text.replace('"loss": ', '"loss": 1', 1),
        text.replace(final["sha256"], "0" * 64),
    ):
        path.write_text(change)
        with pytest.raises(files.DamagedError, match="since the run ended"):
            read_metrics(folder)
    path.write_text(text)
    assert read_metrics(folder)[-1] == final
