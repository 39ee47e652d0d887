"""`--overwrite` replaces what was there when the command was first given, once."""

import os
import pathlib
import shutil
import signal

import pytest

from minirec import files
from minirec.training import RunFolderError, Stage, run_folder, train
from tests.training.helpers import assert_equal_models, config, fresh, lines
from tests.training.tiny import TinyBatches, TinyTask, stages

OLD, NEW = {"of": "the old run"}, {"of": "the new one"}


def old_run(folder):
    """Leaves what a run leaves, without one."""
    run_folder.claim(folder, OLD, overwrite=False)
    (folder / "checkpoints" / "last" / "3").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 3, "loss": 1.0}\n')


def begin(folder):
    """Leaves what the first steps of a run leave."""
    assert not run_folder.has_begun(folder)
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.0}\n')


@pytest.mark.parametrize("asks_again", [True, False])
def test_an_overwriting_that_is_killed_anywhere_is_ended_once(tmp_path, monkeypatch, asks_again):
    places = [(os, "replace"), (shutil, "rmtree"), (pathlib.Path, "unlink")]

    def claim(folder, fail_at):
        """Claims with a failure at one file operation; returns how many there were."""
        count = 0

        def counted(operation):
            def one(*arguments, **options):
                nonlocal count
                count += 1
                if count == fail_at:
                    raise KeyboardInterrupt
                return operation(*arguments, **options)

            return one

        with monkeypatch.context() as patch:
            for place, name in places:
                patch.setattr(place, name, counted(getattr(place, name)))
            try:
                run_folder.claim(folder, NEW, overwrite=True)
            except KeyboardInterrupt:
                assert count >= fail_at
        return count

    old_run(tmp_path / "whole")
    total = claim(tmp_path / "whole", None)
    assert total >= 7
    for fail_at in range(1, total + 1):
        folder = tmp_path / str(fail_at)
        old_run(folder)
        claim(folder, fail_at)
        begun = (folder / "overwrite.json").is_file()
        if begun or asks_again:  # Else nothing was touched, and who does not ask is refused.
            run_folder.claim(folder, NEW, overwrite=asks_again)
            assert run_folder.read_config(folder) == NEW
            begin(folder)
            run_folder.claim(folder, NEW, overwrite=asks_again)
            assert run_folder.has_begun(folder)
        else:
            with pytest.raises(RunFolderError, match="another configuration"):
                run_folder.claim(folder, NEW, overwrite=False)
            assert run_folder.has_begun(folder)


def test_a_half_overwritten_run_is_not_taken_for_whole(tmp_path, monkeypatch):
    old_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_folder.claim(tmp_path, NEW, overwrite=True)
    with pytest.raises(RunFolderError, match="began to overwrite what lies here and was killed"):
        run_folder.claim(tmp_path, OLD, overwrite=False)
    run_folder.claim(tmp_path, OLD, overwrite=True)
    assert run_folder.read_config(tmp_path) == OLD
    assert not run_folder.has_begun(tmp_path)


def test_a_damaged_note_of_an_overwriting_is_named(tmp_path):
    old_run(tmp_path)
    (tmp_path / "overwrite.json").write_text('{"by": "me"}')
    with pytest.raises(files.DamagedError, match=r"overwrite\.json: .*; remove it"):
        run_folder.claim(tmp_path, OLD, overwrite=True)
    assert run_folder.has_begun(tmp_path)


def test_a_damaged_config_is_named_and_can_be_overwritten(tmp_path):
    old_run(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("old", "odd"))
    with pytest.raises(files.DamagedError, match=r"config\.json: .*damaged.*--overwrite"):
        run_folder.claim(tmp_path, OLD, overwrite=False)
    run_folder.claim(tmp_path, OLD, overwrite=True)
    assert run_folder.read_config(tmp_path) == OLD


def test_a_stopped_overwriting_run_goes_on_and_a_finished_one_begins_anew(
    tmp_path, uninterrupted, capsys
):
    folder, model, _ = uninterrupted
    train(fresh(), TinyTask(), stages(2), config(tmp_path, eval_every=0))

    class Signalling(TinyBatches):
        def __next__(self):
            if 10 * self.seed + self.next + 1 == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    stopping = [
        Stage(s.name, lambda i=i: Signalling(i), s.num_steps, s.optimizer, s.accumulate)
        for i, s in enumerate(stages(10, 7))
    ]
    settings = config(tmp_path, overwrite=True)
    stopped = train(fresh(), TinyTask(), stopping, settings)
    assert (stopped.step, stopped.interrupted, stopped.resumed_from) == (8, True, None)
    again = fresh()
    result = train(again, TinyTask(), stages(10, 7), settings)
    assert "going on with the run that --overwrite began" in capsys.readouterr().err
    assert (result.step, result.resumed_from) == (17, 8)
    assert_equal_models(again, model)
    assert lines(tmp_path) == lines(folder)
    anew = train(fresh(), TinyTask(), stages(10, 7), settings)
    assert (anew.step, anew.resumed_from, anew.traces) == (17, None, 2)


def test_where_nothing_whole_is_left_the_next_overwriting_begins_anew(tmp_path):
    settings = config(tmp_path, eval_every=0, overwrite=True)
    train(fresh(), TinyTask(), stages(4), settings)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # No longer finished.
    with pytest.raises(files.DamagedError, match="none of the checkpoints is whole"):
        train(fresh(), TinyTask(), stages(4), settings)
    result = train(fresh(), TinyTask(), stages(4), settings)
    assert (result.step, result.resumed_from) == (4, None)
