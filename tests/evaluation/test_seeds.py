"""Rows over seeds: means, Student's intervals, order, and the table and page of a sweep."""

import dataclasses
import html
import re
from xml.etree import ElementTree

import pytest

from minirec import files
from minirec.reports.log_health import tied_targets
from minirec.reports.seeds import (
    best_first,
    distinct_baselines,
    recommenders,
    seed_interval,
    setting_row,
)
from minirec.reports.sweep import Sweep, caption, markdown, row_names, write_sweep


def result(ndcg, *, users=100, count=0.3, **others):
    """What a run reached: NDCG@10 of the model and others, HR@10 twice that."""
    values = {"model": ndcg, **others, "popularity": 0.1, "item_transition": count}
    return {
        "users": users,
        "metrics": {n: {"item": {"hr@10": 2 * v, "ndcg@10": v}} for n, v in values.items()},
        "intervals": {
            n: {"item": {"hr@10": [v, 3 * v], "ndcg@10": [v - 0.01, v + 0.02]}}
            for n, v in values.items()
        },
    }


def row(*ndcgs, dropout=0.1, wanted=None, errors=(), **others):
    return setting_row(
        [result(ndcg, **others) for ndcg in ndcgs],
        fields={"model.dropout": dropout},
        num_wanted=wanted or len(ndcgs),
        errors=errors,
    )


def test_the_interval_over_seeds_is_students():
    # s = 0.1, n = 3, t_{0.975, 2} = 4.30265: 4.30265 * 0.1 / sqrt(3) = 0.248414.
    assert seed_interval([0.1, 0.2, 0.3]) == pytest.approx((-0.048414, 0.448414), abs=1e-6)
    # s = 0.2 / sqrt(2), n = 2, t_{0.975, 1} = 12.7062: 12.7062 * 0.1 = 1.27062.
    assert seed_interval([0.4, 0.6]) == pytest.approx((-0.77062, 1.77062), abs=1e-5)
    # t_{0.95, 2} = 2.91999.
    assert seed_interval([0.1, 0.2, 0.3], level=0.9)[1] == pytest.approx(0.368586, abs=1e-6)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([0.1], 0.95), ([0.1, 0.2], 1.0)])
def test_an_interval_that_cannot_be_is_an_error(values, level):
    with pytest.raises(ValueError, match=r"values|level"):
        seed_interval(values, level)


def test_one_seed_has_the_interval_over_users_and_more_have_that_over_seeds():
    one = row(0.2).estimates["model"]["ndcg@10"]
    assert (one.value, one.low, one.high) == pytest.approx((0.2, 0.19, 0.22))
    assert not one.over_seeds
    three = row(0.1, 0.2, 0.3).estimates["model"]
    assert three["ndcg@10"].over_seeds
    assert three["ndcg@10"].value == pytest.approx(0.2)
    assert three["ndcg@10"].high == pytest.approx(0.448414, abs=1e-6)
    assert three["hr@10"].high == pytest.approx(2 * 0.448414, abs=1e-6)


def test_a_baseline_that_is_equal_in_all_seeds_keeps_its_interval_over_users():
    count = row(0.1, 0.2).baselines["item_transition"]["ndcg@10"]
    assert (count.low, count.high) == pytest.approx((0.29, 0.32))
    rows = [row(0.1, 0.2), row(0.3), row(0.3, count=0.4)]
    assert [name for name, _ in distinct_baselines(rows)] == [
        *("item_transition", "item_transition", "popularity"),
    ]


def test_rows_stand_best_first_by_the_recommender_asked_for():
    rows = [row(0.1, dropout=1, system=0.9), row(wanted=1, dropout=2), row(0.2, dropout=3)]
    assert recommenders(rows) == ["model", "system"]
    assert [r.fields["model.dropout"] for r in best_first(rows)] == [3, 1, 2]
    assert [r.fields["model.dropout"] for r in best_first(rows, "system")] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"'item_head'.*'model', 'system'"):
        best_first(rows, "item_head")
    with pytest.raises(ValueError, match="popularity"):
        best_first(rows, "popularity")
    assert len(best_first([row(wanted=1)], "anything")) == 1


def sweep_of(*rows):
    return Sweep("try", "quickstart", "valid", "model", rows, {"seed": 0})


def test_the_table_says_what_its_intervals_are_of():
    assert "over users (bootstrap)." in caption(sweep_of(row(0.1)))
    assert "Student's t" in caption(sweep_of(row(0.1, 0.2)))
    assert "bootstrap" not in caption(sweep_of(row(0.1, 0.2)))
    mixed = caption(sweep_of(row(0.1, 0.2), row(0.1)))
    assert "Student's t" in mixed
    assert "of rows with one seed over users (bootstrap)" in mixed


def test_the_table_says_how_many_targets_of_the_logs_tie():
    targets = {"views": 1000, "tied": 200, "in_history": 0}
    health = {"ties": "log", "targets": {"valid": targets, "test": {**targets, "tied": 3}}}
    said = tied_targets(health, "valid")
    assert said.startswith("Warning: 20.0% of the valid targets have the time of an event next to")
    assert tied_targets(health, "test") == "Tied test targets: 3 (0.3%)."
    assert caption(dataclasses.replace(sweep_of(row(0.1)), notes=(said,))).endswith(f". {said}")


def test_the_table_has_a_row_a_setting_and_the_baselines_beneath():
    rows = [row(0.2, system=0.25), row(0.1, wanted=2, dropout=0.3, errors=["seed 1: a | b"])]
    lines = markdown(sweep_of(*rows)).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    head = ["model.dropout", "seeds", "model HR@10", "model NDCG@10", "system HR@10"]
    assert cells[2][:5] == head
    assert cells[4][:4] == ["0.1", "1", "0.4000 [0.2000, 0.6000]", "0.2000 [0.1900, 0.2200]"]
    assert cells[5][1] == "1 of 2"
    assert cells[5][-1] == r"seed 1: a \| b"
    assert cells[5][4] == "–"
    assert [line[0] for line in cells[9:]] == ["item_transition", "popularity"]


def test_the_page_is_whole_and_escapes_what_it_shows(tmp_path):
    rows = [row(0.1, 0.2, system=0.2), row(wanted=1, dropout="<b>", errors=["seed 0: <i>"])]
    page = write_sweep(tmp_path, sweep_of(*rows)).read_text()
    assert page.count("<svg") == 1
    assert "&lt;b&gt;" in page
    assert "<i>" not in page
    assert "var(--item_transition)" in page
    svg = (tmp_path / "plot.svg").read_text()
    assert 'xmlns="http://www.w3.org/2000/svg"' in svg
    assert "--model: #2457c5" in svg
    assert "HR@10" in svg
    assert "system" in svg
    write_sweep(tmp_path / "none", sweep_of(row(wanted=1)))
    assert not (tmp_path / "none" / "plot.svg").exists()


def test_the_page_says_who_chose_in_text_that_is_escaped_once(tmp_path):
    chosen = dataclasses.replace(row(0.1), chosen_on={"model": 5})
    page = html.unescape(write_sweep(tmp_path, sweep_of(chosen)).read_text())
    # In the plot's note, in its label and in the table's caption.
    assert page.count("Of a row's users 5 selected the checkpoint (model)") == 3


def test_a_wide_plot_and_a_table_are_scrolled_and_not_made_small(tmp_path):
    page = write_sweep(tmp_path, sweep_of(row(0.1))).read_text()
    for label in ("Settings, table", "Settings, best first, plot"):
        assert f'tabindex="0" role="region" aria-label="{label}"' in page


def test_signs_that_act_are_shown_as_escapes_in_every_file_of_a_sweep(tmp_path):
    signs = "\x1b[2J\u202e\x9b\n$\\frac{$"
    rows = [row(0.1, 0.2, **{"sy<stem": 0.2}), row(0.3, dropout=signs, errors=[f"seed 0: {signs}"])]
    sweep = dataclasses.replace(sweep_of(*rows), name=f"try {signs}", config={"note": signs})
    write_sweep(tmp_path, sweep)
    for name in ("table.md", "plot.svg", "index.html"):
        text = (tmp_path / name).read_text()
        assert files.shown(text, lines=True) == text
        assert "\\x1b[2J\\u202e\\x9b" in text
    assert "\\x9b\\n" in markdown(sweep)
    ElementTree.fromstring((tmp_path / "plot.svg").read_text())  # Well-formed.


def test_a_setting_is_named_by_what_tells_it_from_the_others():
    def named(dropout, layers, name=""):
        fields = {"model.dropout": dropout, "model.num_layers": layers}
        return setting_row([result(0.1)], fields=fields, name=name, num_wanted=1)

    assert row_names([named(0.1, 2), named(0.2, 2)]) == ["dropout=0.1", "dropout=0.2"]
    assert row_names([named(0.1, 2)]) == ["dropout=0.1, num_layers=2"]
    assert row_names([named(0.1, 2, "plain"), named(0.1, 3)]) == ["plain", "num_layers=3"]
