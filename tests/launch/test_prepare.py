"""What `launch.prepare` tells of a log."""

import re

import pytest

from launch import prepare, program

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


def test_a_data_set_that_lies_there_is_not_read_again(job, capsys):
    prepare.main(job)
    first = capsys.readouterr().out
    prepare.main(job)
    second = capsys.readouterr().out
    assert "rows_per_second" not in second
    stages = [text.partition("seconds=")[0] for text in (first, second)]
    assert stages[0] == stages[1]
