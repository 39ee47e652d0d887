"""Rows of watch lists: what they say, what they must not, and what is refused."""

import collections
import dataclasses
import re
import sqlite3

import numpy as np
import polars as pl
import pytest

from configs.watch_words import watch_words
from minirec import files
from minirec.sids.sid_lines import SidFields, read_sid_lines
from pipelines.text.watch_catalogue import read_catalogue, read_sids
from pipelines.text.watch_config import MARKS, WatchConfig
from pipelines.text.watch_draw import quotas, spread
from pipelines.text.watch_lists import TRAIN, hold_out, read_lists
from pipelines.text.watch_tasks import STAGES, make_tasks
from tests.pipelines import watch_data

ENTRY = re.compile(r"<anime_start>((?:<L\d_\d+>)+)(.*?)<anime_end>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return watch_data.write(tmp_path_factory.mktemp("watch"))


@pytest.fixture(scope="module")
def made(folder):
    told = []
    summary = make_tasks(
        watch_data.config(folder, export_parquet=True),
        folder / "made",
        lambda stage, text: told.append((stage, text)),
    )
    return folder / "made", summary, told


def lists_of(config):
    catalogue, _ = read_catalogue(config, read_sids(config))
    lists, counts = read_lists(config, catalogue)
    return catalogue, lists, counts


def test_rows_are_written_with_summary_manifest_and_parquet(made):
    folder, summary, told = made
    rows = watch_data.read(folder)
    assert len(rows) == summary["rows"] == 400
    assert [*rows[0]] == ["example_id", "task", "input", "output", "anime_ids", "user_id", "meta"]
    assert len({row["example_id"] for row in rows}) == 400
    assert collections.Counter(row["task"] for row in rows) == {"A": 200, "B": 100, "C": 100}
    assert [stage for stage, text in told if not text] == list(range(1, len(STAGES) + 1))
    assert any("different rows" in text for stage, text in told if stage == 3)
    frame = pl.read_parquet(folder / "llm_prep_train.parquet")
    assert frame.to_dicts() == rows
    manifest = files.read_json(folder / "llm_prep_manifest.json")
    assert set(manifest["outputs"]) == {path.name for path in folder.iterdir()} - {
        "llm_prep_manifest.json"
    }
    assert summary["special_tokens"] == [
        "<anime_start>", "<anime_end>", "<disliked>", "<dropped>", "<liked>", "<watch>",
    ]  # fmt: skip


def test_the_same_config_and_seed_give_the_same_bytes(folder, made, tmp_path):
    config = watch_data.config(folder, export_parquet=True)
    make_tasks(config, tmp_path / "again")
    other = make_tasks(dataclasses.replace(config, seed=43), tmp_path / "other")
    for path in made[0].iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    assert other["outputs"] != made[1]["outputs"]


def test_what_is_there_stays_only_where_it_is_of_this_config_and_these_files(made, tmp_path):
    folder = made[0].parent
    config = watch_data.config(folder, export_parquet=True)
    before = {path: path.stat().st_mtime_ns for path in made[0].iterdir()}
    assert make_tasks(config, made[0]) == files.unseal(made[1] | _seal(made[0]), "", "")
    assert {path: path.stat().st_mtime_ns for path in made[0].iterdir()} == before
    with pytest.raises(ValueError, match=r"tasks\.seed is 42 there, 5 now: set tasks\.rebuild"):
        make_tasks(dataclasses.replace(config, seed=5), made[0])
    words = watch_words().to_dict() | {"masked": "It is {sid}"}
    with pytest.raises(ValueError, match=r"tasks\.words\.masked is "):
        make_tasks(watch_data.config(folder, export_parquet=True, words=words), made[0])
    elsewhere = watch_data.write(tmp_path, of_lists=watch_data.lists(seed=1))
    with pytest.raises(ValueError, match=r"tasks\.source_db is another file"):
        make_tasks(watch_data.config(elsewhere, export_parquet=True), made[0])
    make_tasks(watch_data.config(elsewhere), tmp_path / "own")
    rows = tmp_path / "own" / "llm_prep_train.jsonl"
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(files.DamagedError, match=r"llm_prep_train\.jsonl"):
        make_tasks(watch_data.config(elsewhere), tmp_path / "own")
    make_tasks(watch_data.config(elsewhere, rebuild=True), tmp_path / "own")
    make_tasks(watch_data.config(elsewhere), tmp_path / "own")


def _seal(folder):
    return {"sha256": files.read_json(folder / "llm_prep_summary.json")["sha256"]}


def test_facts_go_both_ways_and_are_right(folder, made):
    config = watch_data.config(folder)
    catalogue, _ = read_catalogue(config, read_sids(config))
    place = {int(item): row for row, item in enumerate(catalogue.item_id)}
    seen, of_item = set(), collections.Counter()
    for row in watch_data.read(made[0]):
        if row["task"] != "A":
            continue
        (item,) = row["anime_ids"]
        sid = catalogue.sids[place[item]]
        assert row["output"] == sid or sid in row["input"]
        name = row["meta"]["template"]
        if name in catalogue.facts:
            assert row["output"] == catalogue.facts[name][place[item]]
        seen.add(name)
        of_item[item] += 1
    assert {"title", "genres", "studios", "season", "type", "source", "of_title"} <= seen
    # Nothing is known of the last two but the title in the SID file.
    last = [10 + 3 * item for item in (58, 59)]
    known = {
        row["meta"]["template"]
        for row in watch_data.read(made[0])
        if row["task"] == "A" and row["anime_ids"][0] in last
    }
    assert known <= {"title", "of_title"}
    assert max(of_item.values()) <= 12


def test_few_templates_an_item_are_drawn(folder, tmp_path):
    config = watch_data.config(folder, max_task_a_templates_per_anime=2, pool_too_small="shrink")
    summary = make_tasks(config, tmp_path / "made")
    rows = [row for row in watch_data.read(tmp_path / "made") if row["task"] == "A"]
    assert max(collections.Counter(row["anime_ids"][0] for row in rows).values()) == 2
    assert len({row["meta"]["template"] for row in rows}) > 8
    assert summary["left_out"]["over_limit"] > 0


def test_a_masked_item_shows_no_mark_and_the_others_how_they_went(folder, made):
    config = watch_data.config(folder)
    catalogue, _ = read_catalogue(config, read_sids(config))
    ids = dict(zip(catalogue.sids, catalogue.item_id.tolist(), strict=True))
    went = {(user, item): (score, status) for user, item, score, status, _ in watch_data.lists()}
    rows = [row for row in watch_data.read(made[0]) if row["task"] == "B"]
    for row in rows:
        entries = ENTRY.findall(row["input"])
        assert 4 <= len(entries) <= 6
        assert row["input"].count("<anime_start>?<anime_end>") == 1
        assert [ids[sid] for sid, _ in entries] + [ids[row["output"]]] == row["anime_ids"]
        for sid, mark in entries:
            score, status = went[row["user_id"], ids[sid]]
            if status == 4:
                expected = "<dropped>"
            elif score >= 7:
                expected = "<liked>"
            else:
                expected = "<disliked>" if 1 <= score <= 3 else "<watch>"
            assert mark == expected
        score, status = went[row["user_id"], row["anime_ids"][-1]]
        assert status in (1, 2, 3)
        assert not 1 <= score <= 3
    per_user = collections.Counter(row["user_id"] for row in rows)
    assert max(per_user.values()) - min(per_user.values()) <= 3


def test_what_liked_items_share_is_told_truly(folder, made):
    config = watch_data.config(folder)
    catalogue, _ = read_catalogue(config, read_sids(config))
    place = {int(item): row for row, item in enumerate(catalogue.item_id)}
    liked = {
        (user, item)
        for user, item, score, status, _ in watch_data.lists()
        if score >= 7 and status not in (4, 6)
    }
    shown = collections.Counter()
    for row in watch_data.read(made[0]):
        if row["task"] != "C":
            continue
        shown[row["meta"]["shown"]] += 1
        assert len(set(row["anime_ids"])) == len(row["anime_ids"]) == row["meta"]["shown"] + 1
        assert {(row["user_id"], item) for item in row["anime_ids"]} <= liked
        rows = [place[item] for item in row["anime_ids"]]
        assert row["output"].endswith(f"So: {catalogue.sids[rows[-1]]}")
        genres = set.intersection(*(set(catalogue.parts["genres"][one]) for one in rows))
        told = re.search(r"kinds of story: ([^;.]*)", row["output"])
        assert (set(told[1].split(", ")) if told else set()) == genres
        types = {catalogue.facts["type"][one] for one in rows}
        assert ("form: " in row["output"]) == (len(types) == 1 and types != {""})
    assert min(shown[1], shown[3]) > 20


def test_an_order_is_a_choice_and_the_last_is_refused_without_one(folder, tmp_path):
    with pytest.raises(ValueError, match=r"task_b_mask_modes=.*'last' needs an order"):
        watch_data.config(folder, task_b_mask_modes=("last",))
    same = [(*row[:4], "2021-01-01T00:00:00+00:00") for row in watch_data.lists()]
    watch_data.write(tmp_path, of_lists=same)
    with pytest.raises(ValueError, match=r"user_anime'.*: seen_at is the same in all \d+ rows"):
        make_tasks(watch_data.config(tmp_path, order_by="seen_at"), tmp_path / "made")
    config = watch_data.config(folder, order_by="seen_at", task_b_mask_modes=("last", "random"))
    make_tasks(config, tmp_path / "made")
    moment = {(user, item): text for user, item, _, _, text in watch_data.lists()}
    modes = collections.Counter()
    for row in watch_data.read(tmp_path / "made"):
        if row["task"] != "B":
            continue
        mode = row["meta"]["template"]
        modes[mode] += 1
        times = [moment[row["user_id"], item] for item in row["anime_ids"]]
        assert times[:-1] == sorted(times[:-1])
        before = len(ENTRY.findall(row["input"].split("?<anime_end>")[0]))
        if mode == "last":
            assert times == sorted(times)
            assert before == len(times) - 1
        else:
            assert times[:before] == sorted(times[:before])
            assert all(one <= times[-1] for one in times[:before])
            assert all(one >= times[-1] for one in times[before:-1])
    assert min(modes["last"], modes["random"]) > 10


def test_what_was_planned_is_no_watch(folder, made, tmp_path):
    planned = {(user, item) for user, item, _, status, _ in watch_data.lists() if status == 6}
    for row in watch_data.read(made[0]):
        assert not planned & {(row["user_id"], item) for item in row["anime_ids"]}
    config = watch_data.config(folder, task_b_allowed_statuses=(1, 2, 3, 4, 6))
    make_tasks(config, tmp_path / "made")
    catalogue, _ = read_catalogue(config, read_sids(config))
    ids = dict(zip(catalogue.sids, catalogue.item_id.tolist(), strict=True))
    count = 0
    for row in watch_data.read(tmp_path / "made"):
        for sid, mark in ENTRY.findall(row["input"]) if row["task"] == "B" else ():
            is_planned = (row["user_id"], ids[sid]) in planned
            assert ("planned" in mark) == is_planned
            count += is_planned
        assert (row["user_id"], row["anime_ids"][-1]) not in planned
    assert count > 20


def test_no_answer_stands_in_its_prompt(folder, tmp_path):
    # A title that holds its genre, and an item that stands in a list twice.
    named = [(*row[:1], "Sports", "Space Sports", *row[3:]) for row in watch_data.items()]
    twice = [row for row in watch_data.lists() for _ in range(2)]
    watch_data.write(tmp_path, of_items=named, of_lists=twice)
    words = watch_words().to_dict()
    words["facts"] = {
        "genres": {"input": "{sid} {title}: ", "output": "{genres}"},
        "type": {"input": "{sid}, a TV thing: ", "output": "{type}"},
        "of": {"input": "{title} {season}", "output": "{sid}"},
    }
    summary = make_tasks(watch_data.config(tmp_path, words=words), tmp_path / "made")
    assert summary["left_out"]["answer_in_prompt"] > 40
    assert summary["lists"]["rows_repeated"] > 100
    for row in watch_data.read(tmp_path / "made"):
        assert row["output"] not in row["input"]
        if row["task"] == "A" and row["meta"]["template"] == "genres":
            assert not {"Space", "Sports"} & set(row["output"].split(", "))
        assert len(set(row["anime_ids"])) == len(row["anime_ids"])


def test_a_prompt_that_fits_several_items_is_left_out(tmp_path):
    alike = [(row[0], "Same", "Same", *row[3:]) for row in watch_data.items()]
    watch_data.write(tmp_path, of_items=alike)
    summary = make_tasks(watch_data.config(tmp_path), tmp_path / "made")
    assert summary["left_out"]["ambiguous"] > 50
    answers = collections.defaultdict(set)
    for row in watch_data.read(tmp_path / "made"):
        if row["task"] == "A":
            answers[row["input"]].add(row["output"])
    assert {len(found) for found in answers.values()} == {1}


def test_examples_come_from_all_users_and_many_windows_of_each(folder, made):
    config = watch_data.config(folder)
    _, lists, _ = lists_of(config)
    role, held = hold_out(lists, config.hold_out, config.seed)
    sizes = np.diff(lists.where((held == TRAIN) & (role[lists.user_of] == TRAIN)).offsets)
    able = set(lists.users[sizes > config.task_b_min_history].tolist())
    rows = [row for row in watch_data.read(made[0]) if row["task"] == "B"]
    assert {row["user_id"] for row in rows} == able
    windows = {(row["user_id"], tuple(sorted(row["anime_ids"][:-1]))) for row in rows}
    assert len(windows) > 2 * len(able)
    assert len({(row["user_id"], row["input"], row["output"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("policy", ["repeat", "shrink", "error"])
def test_a_pool_that_is_too_small_is_told(folder, tmp_path, policy):
    config = watch_data.config(folder, target_examples=40_000, pool_too_small=policy)
    if policy == "error":
        with pytest.raises(ValueError, match=r"task A has [0-9,]+ different rows, and its share"):
            make_tasks(config, tmp_path / "made")
        assert not (tmp_path / "made").exists()
        return
    summary = make_tasks(config, tmp_path / "made")
    rows = watch_data.read(tmp_path / "made")
    manifest = files.read_json(tmp_path / "made" / "llm_prep_manifest.json")
    assert manifest["pools"] == summary["tasks"]
    for task, counts in summary["tasks"].items():
        texts = collections.Counter((r["input"], r["output"]) for r in rows if r["task"] == task)
        assert sum(texts.values()) == counts["rows"]
        assert counts["rows"] - counts["different"] == counts["repeated"]
        if task == "A":
            assert len(texts) == counts["different"] == counts["pool"]
            assert max(texts.values()) - min(texts.values()) <= 1
    assert (len(rows) == 40_000) == (policy == "repeat")
    assert (summary["tasks"]["A"]["repeated"] > 0) == (policy == "repeat")


def test_nothing_held_out_is_in_any_row(folder, made):
    config = watch_data.config(folder)
    catalogue, lists, _ = lists_of(config)
    role, held = hold_out(lists, config.hold_out, config.seed)
    user_of = lists.user_of
    for user in range(len(lists.users)):
        start, stop = lists.offsets[user], lists.offsets[user + 1]
        drawn = np.count_nonzero(held[start:stop])
        assert drawn == (max(1, (stop - start) // 5) if stop - start >= 5 else 0)
    out = (held != TRAIN) | (role[user_of] != TRAIN)
    ids = catalogue.item_id[lists.item]
    pairs = set(zip(lists.users[user_of[out]].tolist(), ids[out].tolist(), strict=True))
    assert 2 <= np.count_nonzero(role) <= 12
    for row in watch_data.read(made[0]):
        assert not pairs & {(row["user_id"], item) for item in row["anime_ids"]}
        assert row["task"] == "A" or row["user_id"] not in lists.users[role != TRAIN]
    summary = made[1]["held_out"]
    assert summary["entries_of_those_users"] + summary["entries_of_others"] == len(pairs)


def sids(change):
    lines = watch_data.sid_lines()
    change(lines)
    return {"sids": lines}


def rows_of_lists(*rows):
    return {"of_lists": [*watch_data.lists(), *rows]}


BAD = {
    "sids that are not JSON": (
        sids(lambda n: n.insert(3, "{]\n")),
        r"sids\.jsonl, line 4: not JSON",
    ),
    "an id twice": (
        sids(lambda n: n[5].update(anime_id=10)),
        r"sids\.jsonl, line 6: anime_id 10 stands in line 1 already",
    ),
    "a SID twice": (
        sids(lambda n: n.append(n[2] | {"anime_id": 999})),
        r"sids\.jsonl, line 61: semantic_id '<L1_0><L2_2><L3_0>' stands in line 3",
    ),
    "no codes": (sids(lambda n: n[0].pop("codes")), r"line 1: codes is None"),
    "tokens of another": (
        sids(lambda n: n[1].update(tokens=["<x>"])),
        r"line 2: tokens \['<x>'\] do not make up semantic_id",
    ),
    "fewer levels": (
        sids(
            lambda n: n.append(dict(n[0], anime_id=1, semantic_id="<y>", tokens=["<y>"], codes=[1]))
        ),
        r"line 61: codes has 1 levels; the lines before it have 3",
    ),
    "no SIDs": ({"sids": []}, r"sids\.jsonl: holds no SIDs"),
    "a score of 11": (
        rows_of_lists((5, 10, 11, 2, "")),
        r"lists\.sqlite, table 'user_anime', row \d+: score is 11; must lie in \[0, 10\]",
    ),
    "a score that is no number": (
        rows_of_lists((5, 10, "good", 2, "")),
        r"table 'user_anime', row \d+: score is 'good'; must be a whole number",
    ),
    "no score": (rows_of_lists((5, 10, None, 2, "")), r"row \d+: score is None"),
    "an unknown status": (
        rows_of_lists((5, 10, 5, 7, "")),
        r"row \d+: watching_status is 7, which is none of 1 \(watching\)",
    ),
    "an item twice": (
        {"of_items": [*watch_data.items(), watch_data.items()[0]]},
        r"table 'anime', row 59: anime_id is 10, which an earlier row has",
    ),
    "other items": (
        {"of_items": [(7, *watch_data.items()[0][1:])]},
        r"table 'anime': no anime_id stands in .*sids\.jsonl",
    ),
    "only planned": (
        {"of_lists": [(5, 10, 0, 6, "")]},
        r"table 'user_anime': no row of 1 is left: 1 have other statuses",
    ),
    "lists too short": (
        {"of_lists": [(user, 10 + 3 * n, 8, 2, "") for user in range(30) for n in range(4)]},
        "task B has no row to draw from",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_before_anything_is_written(tmp_path, what):
    given, message = BAD[what]
    watch_data.write(tmp_path, **given)
    with pytest.raises(ValueError, match=message):
        make_tasks(watch_data.config(tmp_path), tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists.sqlite", "sids.jsonl"]


def test_a_table_a_column_or_a_file_that_is_missing_is_named(folder, tmp_path):
    for changes, message in (
        ({"columns": {"lists": "no_such"}}, r"there is no table 'no_such'; it has 'anime'"),
        ({"columns": {"genres": "tags"}}, r"there is no column 'tags', which tasks\.columns"),
        ({"order_by": "moment"}, r"there is no column 'moment'"),
        ({"source_db": "no.sqlite"}, r"no\.sqlite: no such file; tasks\.source_db"),
        ({"semantic_ids_path": "no.jsonl"}, r"no\.jsonl: no such file; tasks\.semantic_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            make_tasks(watch_data.config(folder, **changes), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_other_tables_and_columns_are_a_setting(folder, tmp_path):
    watch_data.write(tmp_path)
    with sqlite3.connect(tmp_path / "lists.sqlite") as file:
        file.execute("ALTER TABLE anime RENAME TO films")
        file.execute("ALTER TABLE films RENAME COLUMN genres TO kinds")
        file.execute("ALTER TABLE user_anime RENAME COLUMN score TO stars")
    file.close()
    columns = {"items": "films", "genres": "kinds", "list_score": "stars"}
    make_tasks(watch_data.config(tmp_path, columns=columns), tmp_path / "other")
    make_tasks(watch_data.config(folder), tmp_path / "made")
    assert watch_data.read(tmp_path / "other") == watch_data.read(tmp_path / "made")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_task_a": 0.6}, r"split_task_a=0\.6.*they sum to 1\.1"),
        ({"target_examples": 0}, "target_examples=0"),
        ({"task_b_min_history": 9}, "task_b_max_history=6"),
        ({"task_b_positive_score_min": 11}, "task_b_positive_score_min=11"),
        ({"task_b_allowed_statuses": (1, 9)}, "task_b_allowed_statuses=.*9 is none of"),
        ({"task_b_mask_marks": ("good",)}, "task_b_mask_marks=.*'good' is none of"),
        ({"pool_too_small": "grow"}, "pool_too_small='grow'"),
        ({"hold_out": {"users": 1.0}}, r"hold_out\.users=1\.0"),
        ({"no_such": 1}, r"tasks\.no_such is not a field"),
        ({"columns": {"genre": "x"}}, r"tasks\.columns\.genre is not a field"),
        ({"words": {"masked": "x"}}, r"tasks\.words\.\w+ is missing"),
    ],
)
def test_settings_that_cannot_be_are_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        watch_data.config(folder, **changes)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"x": {"input": "{sid}", "output": "{price}"}}, r"unknown field \{price\}"),
        ({"x": {"input": "{sid}", "output": "{sid} {title}"}}, r"must hold \{sid\}, not both"),
        ({"x": {"input": "{title}", "output": "{genres}"}}, r"must hold \{sid\}, not both"),
        ({"x": {"input": "{sid} {title}", "output": "{title}"}}, r"which is the answer"),
        ({"x": {"input": "{sid", "output": "{title}"}}, "brace"),
        ({"x": {"input": "{sid}"}}, r"facts\.x\.output is None"),
        ({}, "there are none"),
    ],
)
def test_templates_that_cannot_be_are_named(folder, facts, message):
    words = watch_words().to_dict() | {"facts": facts}
    with pytest.raises(ValueError, match=message):
        watch_data.config(folder, words=words)


def test_the_defaults_are_those_of_the_issue():
    defaults = {field.name: field.default for field in dataclasses.fields(WatchConfig)}
    assert defaults["target_examples"] == 400_000
    assert [defaults[f"split_task_{task}"] for task in "abc"] == [0.5, 0.25, 0.25]
    assert (defaults["task_b_min_history"], defaults["task_b_max_history"]) == (4, 30)
    assert defaults["max_task_a_templates_per_anime"] == 12
    assert defaults["task_b_positive_score_min"] == 7
    assert defaults["task_b_allowed_statuses"] == (1, 2, 3, 4)
    assert (defaults["seed"], defaults["pool_too_small"]) == (42, "repeat")
    assert len(MARKS) == 5


def test_rows_are_spread_evenly_and_to_the_last():
    rng = np.random.default_rng(0)
    capacity = np.array([0, 3, 100, 1, 50])
    for quota in (0, 1, 5, 9, 60, 153, 154, 999):
        counts = spread(quota, capacity, rng)
        assert counts.sum() == min(quota, capacity.sum())
        assert (counts <= capacity).all()
        level = counts[counts < capacity]
        assert not len(level) or level.max() - level.min() <= 1
        assert not len(level) or counts.max() <= level.max() + 1
    assert quotas(10, (0.5, 0.25, 0.25)) == (5, 2, 3)
    assert quotas(3, (0.5, 0.5, 0.0)) == (1, 2, 0) or sum(quotas(3, (0.5, 0.5, 0.0))) == 3


def test_sid_lines_have_a_table_and_their_spellings(folder):
    found = read_sid_lines(folder / "sids.jsonl", SidFields(item_id="anime_id"))
    assert found.codes.shape == (60, 3)
    assert found.table().codebook_sizes == (8, 8, 1)
    assert found.spellings()[:2] == ("<L1_0>", "<L1_1>")
    assert found.sids[9] == "<L1_1><L2_1><L3_0>"
