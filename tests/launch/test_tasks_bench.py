"""The benchmark of rows: what it tells, and that both ways make as many."""

from launch.bench import tasks


def test_rows_tell_seconds_and_memory_of_both_ways():
    ours, plain = tasks.run(sizes=(2_000,), target_examples=300, num_items=90)
    assert (ours["implementation"], plain["implementation"]) == ("minirec", "plain")
    assert ours["rows"] == plain["rows"] == 300
    assert plain["ratio"] == 1.0
    assert ours["peak_gb"] > 0.05
