"""A sweep: what it shares, leaves out, goes on with and refuses; the runs are mostly played."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

from launch import make_sids, prepare
from launch.sweep import __main__ as sweep
from launch.sweep import sweep_run
from launch.sweep.grid import read_grid
from launch.wiring import child, program
from minirec import files
from minirec.recommend import baselines_for
from minirec.reports.seeds import setting_row
from minirec.reports.sweep import Sweep, markdown, write_sweep
from minirec.training import RunFolderError
from minirec.training.metrics_log import MetricsLog
from minirec.training.run_folder import locked
from tests.files.power import power_cut

ROOT = pathlib.Path(__file__).parent.parent.parent


def job_in(workdir, *, overwrite=False, **changes):
    config = program.load_config_module("quickstart").get_config("smoke")
    config.update_from_flattened_dict(changes)
    return program.Job(config, workdir, workdir / "runs" / "try", overwrite)


class Played:
    """Leaves what a run leaves, without one; fails or stops where it is told to."""

    def __init__(self, codes=()):
        self.codes = dict(codes)
        self.names = []

    def __call__(self, path):
        job, split = sweep_run.read_spec(path)
        self.names.append(path.parent.name)
        code = self.codes.get(len(self.names), sweep_run.FINISHED)
        if code == sweep_run.FAILED:
            files.write_text(path.parent / sweep_run.ERROR, "loss nan\n  at step 7\n\nTraceback …")
        if code != sweep_run.FINISHED:
            return code
        value = 0.1 + job.config.model.dropout / 10 + job.config.seed / 1000
        metrics = {"item": {"hr@10": 2 * value, "ndcg@10": value}, "sid": {}}
        interval = {"item": {"hr@10": [0.1, 0.9], "ndcg@10": [0.0, 0.5]}, "sid": {}}
        report = {"users": 9, "metrics": {"model": metrics}, "intervals": {"model": interval}}
        folder = {"valid": "report_valid", "test": "report"}[split]
        report |= {"seconds": 1.0, "chosen_on": {"model": 5} if split == "valid" else {}}
        files.write_json(path.parent / folder / "report.json", report)
        files.write_checksums(path.parent / folder)
        final = {"kind": "final", "step": 30, "reason": "finished", "select_metric": "ndcg@10"}
        final |= {"best_metric": value, "best_step": 15, "seconds": 2.0}
        log = MetricsLog(path.parent, keep_bytes=0, step=0, tensorboard=False)
        log.write(final)
        log.close()
        return code


def play(job, grid="model.dropout=0.1,0.2;seed=0,1", codes=(), **options):
    """Returns the sweep and the names of the runs that it did."""
    played = Played(codes)
    done = sweep.run_sweep(job, read_grid(grid, job.config), execute=played, **options)
    return done, played.names


def lines_of(job, name="results.jsonl"):
    text = (job.workdir / "sweeps" / "try" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_two_settings_through_the_whole_chain_of_which_one_is_refused(tmp_path, monkeypatch):
    calls = []

    def counted(module, name):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda job: (calls.append(name), real(job)))

    counted(prepare, "main")
    counted(make_sids, "make")
    # As few programs to compile as there can be: one batch of users, searched for by 10 beams.
    quick = {"train.num_steps": 6, "train.eval_every": 6, "train.log_every": 6}
    quick |= {"search.num_beams": 10, "evaluate.valid_users": 64, "evaluate.test_users": 64}
    job = job_in(tmp_path, **quick, **{"loader.max_items": 4})
    settings = read_grid("search.num_beams=10,5", job.config)
    first = sweep.run_sweep(job, settings, execute=sweep_run.execute)
    assert (first.num_finished, first.num_failed) == (1, 1)
    assert calls == ["main", "make"]
    (refused,) = lines_of(job, "failed.jsonl")
    assert refused["error"].startswith("config.search.num_beams=5")
    (one,) = lines_of(job)
    assert one["fields"] == {"search.num_beams": 10}
    assert (one["seed"], one["split"], one["steps"]) == (0, "valid", 6)
    assert one["best_step"] == 6
    assert {"model", *baselines_for(has_order=True, repeats=False)} <= set(one["metrics"])
    assert set(one["metrics"]["model"]) == {"item", "sid"}
    assert one["train_seconds"] > 0
    folder = tmp_path / "sweeps" / "try"
    assert "search.num_beams" in (folder / "table.md").read_text()
    assert "Tied valid targets: 0 (0.0%)." in (folder / "table.md").read_text()
    assert "<svg" in (folder / "index.html").read_text()
    assert (folder / "plot.svg").is_file()
    assert not list(folder.glob("runs/*/report/report.json"))

    (manifest_path,) = folder.glob("data/*/prepared/manifest.json")
    manifest = files.read_sealed(manifest_path, "")
    files.write_sealed(manifest_path, manifest | {"fingerprint": "of another log"})
    (spec, *_) = sorted(folder.glob("runs/*/sweep_run.json"))
    assert sweep_run.execute(spec) == sweep_run.FAILED
    error = (spec.parent / "error.txt").read_text()
    assert re.match(r".*holds another prepared data set .*'of another log'", error)


def test_tables_of_users_that_chose_say_so_and_those_of_test_have_nothing_to_say(tmp_path):
    job, folder = job_in(tmp_path), tmp_path / "sweeps" / "try"
    said = "Of a row's users 5 selected the checkpoint (model): figures marked † flatter"
    valid, _ = play(job)
    assert valid.chosen_on == {"model": 5}
    for text in (markdown(valid), (folder / "table.md").read_text()):
        assert said in text
        assert "The best row is chosen on them, too." in text
        assert "| HR@10 †" in text
    # The apostrophe is escaped in a page and in a plot's label.
    assert (folder / "index.html").read_text().count("5 selected the checkpoint (model)") == 3
    assert "model †" in (folder / "plot.svg").read_text()
    play(job, split="test")
    for name in ("test_table.md", "test_index.html", "test_plot.svg"):
        assert "†" not in (folder / name).read_text()
    # Lines of before tell nothing: all users of validation count as having chosen.
    lines = []
    for line in lines_of(job):
        kept = {name: line[name] for name in line if name not in ("chosen_on", "sha256")}
        lines.append(json.dumps(files.seal(kept)))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    again, names = play(job)
    assert (again.chosen_on, names) == ({"model": 9}, [])


def test_a_table_of_several_commits_says_so(tmp_path, monkeypatch):
    code = iter([("a" * 40, False), ("b" * 40, False), ("b" * 40, True)])
    monkeypatch.setattr(sweep, "_commit", lambda: next(code))
    job, table = job_in(tmp_path), tmp_path / "sweeps" / "try" / "table.md"
    play(job, "seed=0")
    assert "different code" not in table.read_text()
    play(job, "seed=0,1,2")
    assert "different code stand here: aaaaaaa, bbbbbbb, bbbbbbb with changes." in table.read_text()


def test_what_equal_runs_share(tmp_path):
    job = job_in(tmp_path)

    def planned(grid):
        return sweep.plan(job, read_grid(grid, job.config), tmp_path)

    a, b, c, d = planned("model.dropout=0.1,0.2;seed=0,1")
    assert len({run.job.prepared for run in (a, b, c, d)}) == 1
    assert a.job.sids == c.job.sids != b.job.sids == d.job.sids
    assert len({run.name for run in (a, b, c, d)}) == 4
    small, large = planned("sids.codebook_sizes=(8,8),(16,16)")
    assert small.job.sids != large.job.sids
    assert small.job.prepared == large.job.prepared
    dense, sparse = planned("data.k_core=5,0")
    assert dense.job.prepared != sparse.job.prepared
    assert dense.job.sids != sparse.job.sids
    # What changes nothing where one log is asked for is another log's sign where two are.
    own = program.load_config_module("own_log").get_config("sasrec")
    logs = sweep.plan(
        dataclasses.replace(job, config=own), read_grid("data.source.folder=a,b", own), tmp_path
    )
    assert len({run.job.prepared for run in logs}) == 2
    # A larger grid finds the runs of a smaller one.
    assert {a.name, c.name} < {run.name for run in planned("model.dropout=0.1,0.15,0.2")}


def test_a_job_comes_back_as_it_was_written(tmp_path):
    job = job_in(tmp_path)
    run = sweep.plan(job, read_grid("sids.codebook_sizes=(8,8)", job.config), tmp_path)[0]
    back, split = sweep_run.read_spec(sweep_run.write_spec(run.job, "test"))
    assert back.config.to_dict() == run.job.config.to_dict()
    assert back.config.sids.codebook_sizes == (8, 8)
    assert (back.run, back.prepared, back.sids) == (run.job.run, run.job.prepared, run.job.sids)
    assert split == "test"


def test_seeds_are_one_row_and_finished_runs_are_left_out(tmp_path):
    job = job_in(tmp_path)
    done, names = play(job)
    assert len(names) == 4
    best, other = done.rows
    assert (best.fields["model.dropout"], best.num_seeds) == (0.2, 2)
    assert best.estimates["model"]["ndcg@10"].value == pytest.approx(0.1205)
    assert other.estimates["model"]["ndcg@10"].over_seeds
    assert play(job)[1] == []
    # Lost, a run is done again.
    shutil.rmtree(tmp_path / "sweeps" / "try" / "runs" / names[1])
    assert play(job)[1] == names[1:2]
    assert len(lines_of(job)) == 4
    _, more = play(job, "model.dropout=0.1,0.2,0.3;seed=0,1")
    assert [name.partition("-")[0] for name in more] == ["dropout=0.3"] * 2


def test_a_failed_run_does_not_end_the_sweep_and_is_tried_again(tmp_path):
    job = job_in(tmp_path)
    done, names = play(job, codes={2: sweep_run.FAILED, 3: -signal.SIGKILL})
    assert (done.num_finished, done.num_failed, len(names)) == (2, 2, 4)
    table = (tmp_path / "sweeps" / "try" / "table.md").read_text()
    assert "seed 1: loss nan at step 7" in table
    assert "killed by signal 9" in table
    assert [line["seed"] for line in lines_of(job, "failed.jsonl")] == [1, 0]
    again, tried = play(job)
    assert tried == names[1:3]
    assert (again.num_finished, again.num_failed) == (4, 0)
    assert lines_of(job, "failed.jsonl") == []


def test_a_stopped_run_is_gone_on_with(tmp_path):
    job = job_in(tmp_path)
    done, names = play(job, codes={2: sweep_run.STOPPED})
    assert (done.num_finished, done.num_failed, len(names)) == (1, 0, 2)
    assert play(job, "model.dropout=0.1;seed=0,1")[1] == names[1:]
    # A signal between two runs: the next does not begin.
    other = job_in(tmp_path / "other")
    assert play(other, stopped=lambda: True)[1] == []


def test_the_test_split_is_asked_for_and_stands_beside_validation(tmp_path):
    job = job_in(tmp_path)
    play(job, "seed=0")
    assert {line["split"] for line in lines_of(job)} == {"valid"}
    assert len(play(job, "seed=0", split="test")[1]) == 1
    assert len(lines_of(job)) == 2
    folder = tmp_path / "sweeps" / "try"
    assert "valid split" in (folder / "table.md").read_text()
    assert "test split" in (folder / "test_table.md").read_text()


def test_another_config_is_refused_by_field_unless_it_may_replace_the_sweep(tmp_path):
    play(job_in(tmp_path), "seed=0")
    changes = {"train.num_steps": 31, "loader.num_threads": 2}
    with pytest.raises(program.UsageError, match=r"\.num_steps: 30 there, 31 now") as it:
        play(job_in(tmp_path, **changes), "seed=0")
    assert "num_threads" not in str(it.value)
    assert play(job_in(tmp_path, **{"loader.num_threads": 2}), "seed=0")[1] == []
    job = job_in(tmp_path, overwrite=True, **changes)
    assert len(play(job, "seed=0")[1]) == 1
    assert len(lines_of(job)) == 1


def test_a_sweep_is_overwritten_once_however_often_it_is_stopped(tmp_path):
    play(job_in(tmp_path), "seed=0,1")
    anew = job_in(tmp_path, overwrite=True)
    _, names = play(anew, "seed=0,1", codes={2: sweep_run.STOPPED})
    assert len(names) == 2
    assert play(anew, "seed=0,1")[1] == names[1:]
    assert len(play(anew, "seed=0,1")[1]) == 2  # It was finished: asked for once more.


@pytest.mark.parametrize("name", ["results.jsonl", "failed.jsonl", "sweep.json"])
def test_a_flipped_bit_in_what_a_sweep_reads_back_is_refused_by_its_name(tmp_path, name):
    job = job_in(tmp_path)
    play(job, "seed=0,1,2", codes={3: sweep_run.FAILED})
    path = tmp_path / "sweeps" / "try" / name
    data = path.read_bytes()
    for place in range(0, len(data), len(data) // 9):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            play(job, "seed=0,1,2")
    path.write_bytes(data)
    assert len(play(job, "seed=0,1,2")[1]) == 1


def test_tables_that_are_cut_short_anywhere_leave_no_page_of_another_state(tmp_path, monkeypatch):
    def sweep_of(name):
        rows = [setting_row([], fields={"seed": 0}, name=name, num_wanted=1, errors=[name])]
        return Sweep("try", "quickstart", "valid", "model", rows, {})

    with power_cut(monkeypatch, None) as asked:
        write_sweep(tmp_path / "whole", sweep_of("new"))
    seen = set()
    for at in range(len(asked) + 1):
        write_sweep(tmp_path, sweep_of("old"))
        with power_cut(monkeypatch, at):
            write_sweep(tmp_path, sweep_of("new"))
        if (tmp_path / "index.html").is_file():
            for name in ("old", "new"):
                if name in (tmp_path / "index.html").read_text():
                    assert name in (tmp_path / "table.md").read_text()
                    seen.add(name)
    assert seen == {"old", "new"}


def test_the_recommender_to_sort_by_must_be_there(tmp_path):
    job = job_in(tmp_path)
    with pytest.raises(program.UsageError, match=r"--sweep_by: 'system' .* \['model'\]"):
        play(job, "seed=0,1", by="system")
    assert len(lines_of(job)) == 1
    assert len(play(job, "seed=0,1")[1]) == 1


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    with locked(tmp_path / "sweeps" / "try"), pytest.raises(RunFolderError, match="another"):
        play(job_in(tmp_path))


def test_a_locked_run_is_waited_for_by_name(tmp_path, capsys, monkeypatch):
    # The flock that would wait finds out who held the folder, and that it has ended.
    job = job_in(tmp_path)
    run = sweep.plan(job, read_grid("seed=0", job.config), tmp_path)[0]
    spec = sweep_run.write_spec(run.job, "valid")
    holder, real = contextlib.ExitStack(), fcntl.flock
    holder.enter_context(locked(run.job.run))

    def flock(file, how):
        if not how & fcntl.LOCK_NB:
            holder.close()
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(prepare, "main", lambda job: (_ for _ in ()).throw(ValueError("begun")))
    assert sweep_run.execute(spec) == sweep_run.FAILED
    assert (run.job.run / sweep_run.ERROR).read_text().startswith("begun")
    assert f"waiting for process {os.getpid()} on " in capsys.readouterr().err


def test_a_signal_goes_to_the_run_at_hand(tmp_path, monkeypatch):
    sent = []

    class Child:
        def __init__(self, command, **options):
            assert options["start_new_session"]
            own = child.module_command("launch.sweep.sweep_run", f"--sweep_run={tmp_path}")
            assert command == child.tied(own)  # It ends with the sweep.

        def send_signal(self, number):
            sent.append(number)

        def wait(self):
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
            return -signal.SIGTERM

    monkeypatch.setattr(sweep_run.subprocess, "Popen", Child)
    before = signal.getsignal(signal.SIGINT)
    signals = 1
    with sweep_run.ChildProcess() as execute:
        assert execute(tmp_path) == sweep_run.STOPPED
        assert execute.stop_requested
    assert sent == [signal.SIGTERM]
    signals = 2
    with sweep_run.ChildProcess() as execute, pytest.raises(KeyboardInterrupt):
        execute(tmp_path)
    assert sent[1:] == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) == before


def test_the_program_runs_children_and_tells_what_failed(tmp_path):
    command = [sys.executable, "-m", "launch.sweep", "--config=quickstart:smoke"]
    command += ["--grid=data.source.num_users=0", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "num_users" in done.stderr
    assert "seed 0: " in done.stdout
    folder = tmp_path / "sweeps" / "quickstart_smoke"
    assert "Traceback" in next(folder.glob("runs/*/error.txt")).read_text()
