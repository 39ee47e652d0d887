"""What `launch.prepare` tells of a log."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from launch import prepare
from launch.wiring import program

LOG = """user,item,time
ann,a,1
ann,b,2
bob,b,3
ann,c,soon
bob,a,4
cid,a,5
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    config = program.load_config_module("own_log").get_config("csv")
    config.data.update(k_core=0, on_bad_rows="skip", split={"name": "leave_one_out"})
    config.data.source.update(folder=str(tmp_path), interactions="log.csv")
    return program.Job(config, tmp_path / "w", tmp_path / "w" / "runs" / "x")


def test_counts_of_each_stage_and_what_was_left_out_and_why(job, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "_TELL_EVERY_SECONDS", 0.0)
    prepare.main(job)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("read users=3 items=2 interactions=5")
    assert any(line.startswith("prepared users=2 items=2 interactions=4") for line in lines)
    skipped = [line for line in lines if line.startswith("skipped")]
    assert [line.split()[1] for line in skipped] == ["not_a_time=1", "single_interaction=1"]
    assert "log.csv, line 5" in skipped[0]
    assert "log.csv, line 7: user 'cid' has one interaction" in skipped[1]
    assert any(re.fullmatch(r"rows_per_second=\d+", line) for line in lines)
    assert re.search(r"^read 5 rows, [\d,]+ a second$", printed.err, re.MULTILINE)


def test_the_health_of_the_log_is_printed_with_what_to_mind(job, capsys):
    rows = [f"{user},{item},1400000000" for user in ("ann", "bob") for item in "abab"]
    (Path(job.config.data.source.folder) / "log.csv").write_text(
        "\n".join(["user,item,time", *rows, "ann,c,2e9"])
    )
    prepare.main(job)
    printed = capsys.readouterr()
    health = [line for line in printed.out.splitlines() if line.startswith("log ")]
    assert (
        "log times: 2014-05-13T16:53:20Z to 2033-05-18T03:33:20Z; all but the outermost 0.1% of "
        "rows at each end in 2014-05-13 to 2014-05-13"
    ) in health
    assert "log exact duplicates: 4 (44.4%) of the events read" in health
    assert "log duplicates: 0 (0.0%) events dropped, duplicates=keep" in health
    assert (
        "log test targets: 2, of which 1 (50.0%) are items of their history and 1 (50.0%) have the "
        "time of an event next to them (ties=log)"
    ) in health
    assert "log k_core=0: dropped 0 users, 0 items, 0 interactions" in health
    assert "log k_core=2: would leave 2 users, 2 items, 8 interactions" in health
    notes = printed.err.splitlines()
    assert [note.partition(":")[0] for note in notes] == ["warning"] * 2 + [
        "note",
        "warning",
        "note",
    ]
    assert notes[0].startswith("warning: the latest row is of 2033-05-18T03:33:20Z, but all but")
    assert notes[1].startswith("warning: 100.0% of the valid targets have the time of an event")
    job.config.data.update(ties="shuffled", duplicates="first", time_to="2030-01-01")
    job.config.search.exclude_seen = False
    prepare.main(dataclasses.replace(job, overwrite=True))
    printed = capsys.readouterr()
    assert "log outside the window: 0 rows before time_from, 1 at time_to or later" in printed.out
    assert "events dropped, duplicates=first" in printed.out
    assert printed.err == ""


def test_a_k_core_of_two_numbers_is_given_on_the_command_line(job):
    (Path(job.config.data.source.folder) / "log.csv").write_text(
        "user,item,time\n" + "".join(f"u{n % 3},i{n % 4},{n}\n" for n in range(12))
    )
    flag_values = flags.FlagValues()
    argv = [
        "prepare",
        f"--config={program.config_path('own_log:csv')}",
        f"--config.data.source.folder={job.config.data.source.folder}",
        "--config.data.source.interactions=log.csv",
        "--config.data.k_core=4,3",
        "--config.data.time_to=2019-10-01",
    ]
    config = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=flag_values, sys_argv=argv
    )
    flag_values(argv)
    prepare.main(program.Job(config.value, job.workdir, job.run))
    manifest = json.loads((job.prepared / "manifest.json").read_text())
    assert manifest["config"]["k_core"] == [4, 3]
    assert [left["k"] for left in manifest["health"]["k_core"]["next"]] == [[5, 4], [6, 5]]


def test_a_data_set_that_lies_there_is_not_read_again(job, capsys):
    prepare.main(job)
    first = capsys.readouterr().out
    prepare.main(job)
    second = capsys.readouterr().out
    assert "rows_per_second" not in second
    stages = [text.partition("seconds=")[0] for text in (first, second)]
    assert stages[0] == stages[1]
