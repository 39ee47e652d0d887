"""The files that an evaluation leaves, and the table and lines that it prints."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import io
import json
import re

import numpy as np
import pytest
import rich.console

from minirec import files
from minirec.evaluation import (
    difference_intervals,
    evaluate_lists,
    intervals,
    item_sids,
    pair_strata,
    repeat_strata,
    user_strata,
)
from minirec.evaluation.predictions import write_predictions
from minirec.recommend import ItemTransition
from minirec.reports import (
    Catalogue,
    Curves,
    Example,
    Report,
    metric_lines,
    metric_table,
    read_curves,
    report_json,
    write_report,
)
from minirec.reports.curves import curves_of
from tests.files.power import power_cut

HOSTILE = '<img src="http://evil.example/x.png" onerror=alert(1)> & "$x_1$" \u202e\x1b[2J\x9b 日本'


def make_report(**changes):
    generator = np.random.default_rng(0)
    num_items, num_users = 80, 60
    codes = generator.integers(0, 8, (num_items, 3)).astype(np.int32)
    item = generator.integers(0, num_items, 600)
    transition = ItemTransition(item, np.arange(0, 601, 10), num_items)
    histories = generator.integers(0, num_items, (num_users, 6))
    target = generator.integers(0, num_items, num_users)
    lists = [
        baseline.recommend(histories, 60, exclude_seen=False)
        for baseline in (transition.popularity, transition)
    ]
    mine = np.stack([generator.permutation(num_items)[:50] for _ in range(num_users)])
    beams = item_sids(mine, codes)
    beams[0, -1] = -1
    evaluations = {
        "model": evaluate_lists(mine, target, codes, ranked_sids=beams, num_resamples=50),
        "popularity": evaluate_lists(lists[0], target, codes, num_resamples=50),
        "item_transition": evaluate_lists(lists[1], target, codes, num_resamples=50),
    }
    rows = [{"step": step, "loss": 5.0 / step} for step in range(1, 50)]
    rows += [{"step": step, "eval/ndcg@10": step / 1000} for step in (10, 20)]
    report = Report(
        name=f"run {HOSTILE}",
        dataset=f"data {HOSTILE}",
        split="test",
        evaluations=evaluations,
        target=target,
        ranked_sids=beams,
        catalogue=Catalogue(codes, (8, 8, 8), transition.popularity.counts),
        exclude_seen=False,
        config={"note": f"</pre></script>{HOSTILE}"},
        seed=7,
        seconds=1.25,
        strata=pair_strata(transition, histories, target),
        curves=curves_of(rows),
        examples=[
            Example(f"u{HOSTILE}", [f"h{HOSTILE}"] * 12, f"t{HOSTILE}", [f"r{HOSTILE}"] * 3, 1),
            Example("v", [], "t", ["r"], -1),
        ],
    )
    return dataclasses.replace(report, **changes)


@pytest.fixture(scope="module")
def report():
    return make_report()


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(folder, report) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "index.html").read_text(encoding="utf-8")


class Tags(html.parser.HTMLParser):
    """Collects tags, and checks that all that opens closes."""

    VOID = ("meta", "wbr", "br", "img", "link", "use", "path")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.data = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.data.append(data)


def test_report_json_has_the_fixed_shape(folder):
    content = json.loads((folder / "report.json").read_text())
    assert content["split"] == "test"
    assert content["users"] == 60
    assert content["invalid"] == 0
    assert content["dead_beams"] == 1
    assert (content["seed"], content["seconds"]) == (7, 1.25)
    assert list(content["metrics"]) == ["model", "popularity", "item_transition"]
    keys = [f"{metric}@{k}" for k in (1, 3, 5, 10, 20, 50) for metric in ("hr", "ndcg")]
    for name in content["metrics"]:
        for level in ("item", "sid"):
            assert list(content["metrics"][name][level]) == keys
            for key in keys:
                low, high = content["intervals"][name][level][key]
                assert 0 <= low <= content["metrics"][name][level][key] <= high <= 1
    assert content["config"]["note"].startswith("</pre>")
    assert list(content["differences"]) == ["popularity", "item_transition"]
    assert [level["size"] for level in content["codebook"]] == [8, 8, 8]


def test_report_json_takes_more_entries_but_none_of_its_own(report):
    assert report_json(make_report(extra={"checkpoint": 3}))["checkpoint"] == 3
    with pytest.raises(ValueError, match="extra: \\['metrics'\\]"):
        report_json(make_report(extra={"metrics": {}}))


def test_predictions_are_rows_of_different_sids_with_the_target(folder, report):
    rows = json.loads((folder / "predictions.json").read_text())
    assert len(rows) == 60
    assert all(set(row) == {"predict", "output"} for row in rows)
    assert all(len(set(row["predict"])) == len(row["predict"]) for row in rows)
    codes = report.catalogue.codes[report.target[3]]
    assert rows[3]["output"] == f"<a_{codes[0]}><b_{codes[1]}><c_{codes[2]}>"
    first = report.ranked_sids[3, 0]
    assert rows[3]["predict"][0] == f"<a_{first[0]}><b_{first[1]}><c_{first[2]}>"


def test_predictions_give_the_reports_sid_level_metrics_at_every_k(report, tmp_path):
    """Also where one user's list is short and another's empty: neither cuts the others'."""
    beams = report.ranked_sids.copy()
    target = report.catalogue.codes[report.target]
    beams[4, 2:], beams[5] = -1, -1
    beams[6, 49] = target[6]  # A hit at the very end.
    beams[7, 1], beams[7, 2] = beams[7, 0], target[7]  # A SID twice takes one place.
    mine = np.zeros((60, 50), np.int64)
    evaluation = evaluate_lists(mine, report.target, report.catalogue.codes, ranked_sids=beams)
    write_predictions(tmp_path / "p.json", beams, target)
    rows = json.loads((tmp_path / "p.json").read_text())
    assert len(rows[4]["predict"]) <= 2
    assert rows[5]["predict"] == []
    assert max(len(row["predict"]) for row in rows) > 40
    places = [
        row["predict"].index(row["output"]) if row["output"] in row["predict"] else None
        for row in rows
    ]
    for k in (1, 3, 5, 10, 20, 50):
        gains = [1 / np.log2(p + 2) if p is not None and p < k else 0.0 for p in places]
        metrics = evaluation.metrics["sid"]
        assert metrics[f"hr@{k}"] == pytest.approx(np.mean(np.array(gains) > 0), abs=1e-12)
        assert metrics[f"ndcg@{k}"] == pytest.approx(np.mean(gains), abs=1e-12)


def test_every_user_keeps_all_beams_that_live(tmp_path):
    beams = np.array([[[0], [1]], [[-1], [-1]], [[1], [-1]]])
    write_predictions(tmp_path / "p.json", beams, np.array([[0], [1], [1]]))
    rows = json.loads((tmp_path / "p.json").read_text())
    assert [row["predict"] for row in rows] == [["<a_0>", "<a_1>"], [], ["<a_1>"]]


def test_differences_are_computed_once_with_the_resamples_given(tmp_path, monkeypatch):
    calls = []

    def counted(*arguments, num_resamples, **options):
        calls.append(num_resamples)
        return difference_intervals(*arguments, num_resamples=num_resamples, **options)

    monkeypatch.setattr(intervals, "difference_intervals", counted)
    report = make_report(num_resamples=30)
    write_report(tmp_path, report)
    assert calls == [30] * 4  # Two baselines at two levels.
    content = json.loads((tmp_path / "report.json").read_text())
    expected = difference_intervals(
        report.model.ranks["sid"],
        report.evaluations["popularity"].ranks["sid"],
        seed=7,
        num_resamples=30,
    )
    assert content["differences"]["popularity"]["sid"] == expected
    assert make_report().num_resamples == 1000


def test_the_page_is_well_formed_and_needs_no_network(page):
    tags = Tags(page)
    assert tags.open == []
    names = {tag for tag, _ in tags.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "image", "base"})
    for _, attributes in tags.tags:
        for name, value in attributes.items():
            assert not name.startswith(("on", "xmlns"))
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith("#")
            assert "http:" not in (value or "")
    assert re.findall(r"url\((?!#)", page) == []
    assert "@import" not in page


def test_the_pages_policy_allows_its_one_style_sheet_and_the_plots_attributes(page):
    (policy,) = (
        attributes["content"]
        for _, attributes in Tags(page).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (sheet,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "style-src-attr 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert page.index("Content-Security-Policy") < page.index("<style")
    assert page.count("<style") == 1
    assert "stroke-linejoin" in sheet  # What Matplotlib has in a sheet of each plot.


def test_everything_that_comes_from_outside_is_escaped(page):
    assert "<img" not in page
    text = "".join(Tags(page).data)
    assert text.count(files.shown(HOSTILE)) >= 8
    assert "\\u202e\\x1b[2J\\x9b" in text
    assert files.shown(page, lines=True) == page
    for sign in "\u202e\x1b\x9b":
        assert sign not in page
    assert "</script>" not in page


def test_signs_that_act_are_shown_in_the_texts_of_plots_too():
    from minirec.reports.page import render_page

    page = render_page(make_report(curves=Curves(validation={HOSTILE: ([1.0], [0.5])})))
    assert files.shown(page, lines=True) == page
    assert "<img" not in page


def test_svg_references_point_to_ids_that_are_there_once(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', page)) <= set(ids)


def test_the_page_speaks_to_those_who_cannot_see_its_plots(page):
    tags = Tags(page).tags
    plots = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(plots) == 6
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 20 for plot in plots)
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags) == 4
    assert ("html", {"lang": "en"}) in tags
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_plots_take_their_colours_from_the_page(page):
    assert "var(--model)" in page
    assert "#0102" not in page


def test_the_page_has_the_same_bytes_each_time(page, tmp_path):
    write_report(tmp_path, make_report())
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == page


def test_the_verdict_follows_the_paired_interval(report):
    from minirec.reports.page import render_page

    reference = report.evaluations["item_transition"]
    same = dict(report.evaluations) | {"model": reference}
    assert "<strong>not clearly apart from</strong>" in render_page(make_report(evaluations=same))
    perfect = evaluate_lists(
        np.repeat(report.target[:, None], 50, axis=1), report.target, report.catalogue.codes
    )
    best = dict(report.evaluations) | {"model": perfect}
    assert "<strong>above</strong>" in render_page(make_report(evaluations=best))


def test_the_system_is_held_against_the_others_too(report):
    from minirec.reports.page import render_page

    assert report_json(report)["system_differences"] == {}
    assert "The system is" not in render_page(report)
    perfect = evaluate_lists(
        np.repeat(report.target[:, None], 50, axis=1), report.target, report.catalogue.codes
    )
    with_system = make_report(evaluations=dict(report.evaluations) | {"system": perfect})
    content = report_json(with_system)["system_differences"]
    assert list(content) == list(report.evaluations)
    rival = report.evaluations["item_transition"].ranks["item"]
    expected = difference_intervals(perfect.ranks["item"], rival, seed=7)
    assert content["item_transition"]["item"] == expected
    assert "The system is <strong>above</strong>" in render_page(with_system)


def test_figures_of_users_that_chose_the_checkpoint_or_the_weights_are_marked(report, tmp_path):
    evaluations = dict(report.evaluations)
    evaluations |= {"item_head": report.model, "system": report.model}
    valid = {"evaluations": evaluations, "split": "valid"}
    marked = make_report(chosen_on={"model": 20, "item_head": 20, "system": 60}, **valid)
    plain = make_report(**valid)
    note = (
        "Of these 60 users 20 selected the checkpoint (model, item_head) and 60 fitted weights "
        "(system): figures marked † flatter; users of test choose nothing."
    )
    pages = [write_report(tmp_path / name, one) for name, one in (("a", marked), ("b", plain))]
    page, other = (path.read_text() for path in pages)
    assert note in page
    for name in ("model", "item_<wbr>head", "system"):
        assert f"{name} †</th>" in page
    assert "popularity †" not in page
    assert "the model † is" in page
    assert "The system † is" in page
    assert "<small>item level †</small>" in page
    assert "†" not in other
    console = rich.console.Console(width=80, file=io.StringIO())
    console.print(metric_table(marked))
    shown = console.file.getvalue()
    assert all(f"{name} †" in shown for name in ("model", "item_head", "system"))
    assert "60 fitted weights" in " ".join(shown.split())
    assert "system_chosen_on=60" in metric_lines(marked)
    assert not [line for line in metric_lines(plain) if "chosen_on" in line]
    assert report_json(marked)["chosen_on"] == {"model": 20, "item_head": 20, "system": 60}
    assert report_json(plain)["chosen_on"] == {}


def test_a_page_without_curves_and_examples_stands(tmp_path):
    write_report(tmp_path, make_report(curves=Curves(), examples=()))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Training loss" not in page
    assert Tags(page).open == []


def test_a_model_with_fewer_beams_is_compared_only_as_far_as_it_reaches(report):
    from minirec.reports.page import render_page

    beams = report.ranked_sids[:, :20]
    codes = np.concatenate([report.catalogue.codes] * 2, axis=1)
    lists = np.tile(np.arange(20), (report.num_users, 1))
    short = evaluate_lists(lists, report.target, report.catalogue.codes, ranked_sids=beams)
    shortened = make_report(
        evaluations=dict(report.evaluations) | {"model": short},
        ranked_sids=beams,
        catalogue=Catalogue(codes, (8,) * 6, report.catalogue.train_count),
    )
    content = report_json(shortened)
    assert "hr@50" not in content["metrics"]["model"]["item"]
    assert "hr@20" in content["differences"]["item_transition"]["item"]
    assert "hr@50" not in content["differences"]["item_transition"]["item"]
    page = render_page(shortened)
    assert "a target beyond place 20 is not shown" in page
    assert Tags(page).open == []


def test_a_report_needs_the_model_first_and_the_same_users(report):
    with pytest.raises(ValueError, match="the first must be what was trained"):
        make_report(evaluations={"popularity": report.evaluations["popularity"]})
    with pytest.raises(ValueError, match="model has 60 users, target has 3"):
        make_report(target=report.target[:3])


def test_a_report_that_is_cut_short_anywhere_leaves_the_files_of_one_report(
    report, tmp_path, monkeypatch
):
    page = "<html>the page of {}</html>"
    monkeypatch.setattr("minirec.reports.page.render_page", lambda report: page.format(report.seed))
    other = dataclasses.replace(report, seed=8, ranked_sids=report.ranked_sids[:, ::-1])
    write_report(tmp_path / "old", report)
    write_report(tmp_path / "new", other)
    whole = {
        (folder / "predictions.json").read_bytes(): seed
        for folder, seed in ((tmp_path / "old", 7), (tmp_path / "new", 8))
    }
    with power_cut(monkeypatch, None) as asked:
        write_report(tmp_path / "all", other)
    assert len(asked) == 5
    seen = set()
    for at in range(len(asked) + 2):
        folder = tmp_path / str(at)
        write_report(folder, report)
        with power_cut(monkeypatch, at):
            write_report(folder, other)
        try:
            files.check_folder(folder, remedy="again")
        except files.DamagedError as error:
            seen.add("is missing" in str(error))
        else:
            seed = json.loads((folder / "report.json").read_text())["seed"]
            assert whole[(folder / "predictions.json").read_bytes()] == seed
            assert (folder / "index.html").read_text() == page.format(seed)
            seen.add(seed)
        write_report(folder, other)
        files.check_folder(folder, remedy="again")
    assert seen == {7, 8, True}


def test_nothing_is_left_behind_when_a_report_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "new", make_report(config={"rate": float("nan")}))
    assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").exists() else True


def test_lines_give_the_item_level_under_plain_names(report):
    lines = metric_lines(report)
    values = dict(line.split("=") for line in lines)
    assert len(values) == len(lines)
    assert lines[0].startswith("hr@1=")
    assert values["invalid"] == "0"
    assert values["hr@10"] == f"{report.model.metrics['item']['hr@10']:.4f}"
    assert values["sid_ndcg@10"] == f"{report.model.metrics['sid']['ndcg@10']:.4f}"
    assert "item_transition_sid_hr@50" in values


def test_the_table_fits_a_terminal_and_shows_names_with_brackets(report):
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(metric_table(make_report(name="run [red]")))
    text = console.export_text()
    assert "run [red]" in text
    assert "…" not in text
    assert f"{report.model.metrics['sid']['ndcg@10']:.4f}" in text


@pytest.mark.parametrize(("beams", "shown"), [(1, ["1"]), (4, ["1", "3"]), (7, ["5"])])
def test_a_few_beams_are_shown_as_far_as_they_reach(report, beams, shown, tmp_path):
    ks = [k for k in (1, 3, 5, 10, 20, 50) if k <= beams]
    lists = np.tile(np.arange(beams), (report.num_users, 1))
    ranked_sids = report.ranked_sids[:, :beams]
    codes = report.catalogue.codes
    model = evaluate_lists(lists, report.target, codes, ranked_sids=ranked_sids, ks=ks)
    baseline = evaluate_lists(lists[:, ::-1], report.target, codes, ks=ks)
    few = make_report(evaluations={"model": model, "popularity": baseline}, ranked_sids=ranked_sids)
    names = [str(column.header) for column in metric_table(few).columns]
    assert names == ["", *(f"HR@{k}" for k in shown), *(f"NDCG@{k}" for k in shown), "95%"]
    write_report(tmp_path, few)


def test_curves_are_read_by_step_and_a_torn_last_line_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 1.5, "stage": "a"}\n{"step": 1, "loss": 2}\n\n'
        '{"step": 2, "eval/ndcg@10": 0.25, "eval/note": "x", "train/loss": 9, "valid/hr@1": 1}\n'
        '{"step": 3, "lo'
    )
    curves = read_curves(path)
    assert curves.loss == ([1.0, 2.0], [2.0, 1.5])
    assert curves.validation == {"ndcg@10": ([2.0], [0.25])}
    path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        read_curves(path)
    assert read_curves(tmp_path / "none.jsonl") == Curves()


def test_strata_tell_known_pairs_from_new_ones():
    sequences, offsets = np.array([0, 1, 2, 3, 4, 1, 5]), np.array([0, 5, 7])
    transition = ItemTransition(sequences, offsets, 6)
    histories = [[3, 0], [0], [4, 1], [], [5]]
    strata = pair_strata(transition, [np.array(h) for h in histories], np.array([3, 4, 5, 1, 1]))
    # 0 leads to 1, 2 and 3; 1 to 2, 3, 4 and 5; no pair goes backwards.
    assert strata["pair_seen"].tolist() == [True, False, True, False, False]
    assert (strata["pair_new"] == ~strata["pair_seen"]).all()
    assert not strata["item_new"].any()
    transition = ItemTransition(sequences, offsets, 7)  # Nobody has had item 6.
    strangers = pair_strata(transition, [np.zeros(0, int)] * 2, np.array([3, 6]))
    assert strangers["item_new"].tolist() == [False, True]
    assert not strangers["pair_seen"].any()
    assert strangers["pair_new"].all()


def test_strata_tell_known_users_and_repeated_targets_where_both_kinds_occur():
    known = np.array([True, False, True])
    strata = user_strata(known)
    assert strata["user_known"].tolist() == known.tolist()
    assert strata["user_new"].tolist() == (~known).tolist()
    assert user_strata(np.ones(3, bool)) == user_strata(np.zeros(3, bool)) == {}
    histories = [np.array([1, 2]), np.zeros(0, int), np.array([4])]
    strata = repeat_strata(histories, np.array([2, 1, 3]))
    assert strata["target_again"].tolist() == [True, False, False]
    assert strata["target_first"].tolist() == [False, True, True]
    assert repeat_strata(histories, np.array([3, 1, 3])) == {}


def test_the_report_has_every_recommender_in_every_stratum(report, folder):
    content = json.loads((folder / "report.json").read_text())["strata"]
    unsold = report.catalogue.train_count[report.target] == 0
    assert content.pop("item_new")["users"] == unsold.sum()  # They are of `pair_new`, too.
    assert sum(stratum["users"] for stratum in content.values()) == report.num_users
    for name, evaluation in report.evaluations.items():
        total = sum(
            stratum["users"] * stratum["metrics"][name]["ndcg@10"] for stratum in content.values()
        )
        expected = report.num_users * evaluation.metrics["item"]["ndcg@10"]
        assert total == pytest.approx(expected)
    nobody = dataclasses.replace(report, strata={"none": np.zeros(report.num_users, bool)})
    assert report_json(nobody)["strata"] == {"none": {"users": 0, "metrics": {}}}


def health_of(*, tied=None, hidden=0, ties="log", times=None):
    """A manifest's block for a log of 200 users."""
    targets = {"views": 200, "tied": tied, "in_history": hidden}
    sizes = {"users": 1, "items": 2, "interactions": 3}
    return {
        "times": times,
        "ties": ties,
        "targets": {"valid": targets | {"tied": tied and 0}, "test": targets},
        "repeats": 5,
        "read": 1000,
        "interactions": 900,
        "duplicates": {"mode": "first", "read": tied, "dropped": 100},
        "k_core": {"k": [5, 10], "dropped": sizes, "next": [{"k": [6, 11], **sizes}]},
    }


def test_a_report_says_how_many_targets_tie_and_warns_of_many(tmp_path, report):
    times = {"earliest": "2014-01-01T00:00:00Z", "latest": "2037-01-01T00:00:00Z", "before": 0}
    times |= {"after": 7, "bulk": ["2014-01-01", "2014-06-30"]}
    health = health_of(tied=50, hidden=4, times=times)
    tied = make_report(health=health, exclude_seen=True)
    assert [note.split()[0] for note in tied.notes] == ["warning:", "warning:", "note:"]
    assert tied.notes[0].startswith("warning: the latest row is of 2037-01-01T00:00:00Z")
    assert tied.notes[1].startswith("warning: 25.0% of the test targets have the time of an event")
    assert "config.data.ties=shuffled" in tied.notes[1]
    assert tied.notes[2].startswith("note: 2.0% of the test targets are items of their user's")
    page = write_report(tmp_path, tied).read_text()
    assert all(html.unescape(page).count(note) == 1 for note in tied.notes)
    assert "50 (25.0%) have the time of an event next to them (ties=log)" in page
    assert "7 at time_to or later" in page
    assert '<th scope="row">k_core=6,11</th><td>would leave 1 users, 2 items, 3' in page
    assert Tags(page).open == []
    assert json.loads((tmp_path / "report.json").read_text())["health"] == health
    assert "tied_targets=50" in metric_lines(tied)
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(metric_table(tied))
    assert "tied targets 50 (25.0%)" in " ".join(console.export_text().split())
    drawn = make_report(health=health_of(tied=50, ties="shuffled"), split="test")
    assert [note.split()[0] for note in drawn.notes] == ["note:"]
    assert "drawn by lot" in drawn.notes[0]


def test_a_report_of_a_log_without_times_or_health_says_so(report):
    without = make_report(health=health_of())
    assert without.notes == []
    assert "tied_targets=no_times" in metric_lines(without)
    assert make_report().notes == []
    assert not [line for line in metric_lines(make_report()) if "tied" in line]
    few = make_report(health=health_of(tied=2, hidden=2))
    assert few.notes == []  # 1% is the most that is negligible.
    assert "tied_targets=2" in metric_lines(few)
