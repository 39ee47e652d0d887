import fcntl
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import pipelines.prepare.prepare as prepare_module
from minirec import files
from pipelines import sources
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    FramePart,
    GivenSplit,
    RawDataset,
)

GENERATED = {"name": "generated", "num_users": 60, "num_items": 240}
SPLITS = ["leave_one_out", "per_user_ratio", "global_time"]


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_log(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "log.txt").write_text("".join(f"{line}\n" for line in lines))
    return {"name": "sasrec", "folder": str(folder), "interactions": "log.txt"}


@pytest.fixture
def use_raw(monkeypatch):
    """Makes `prepare` see a data set that a test made by hand."""

    def use(raw):
        monkeypatch.setattr(sources, "load", lambda config, bad_rows: raw)
        return {"source": {"name": "by hand"}, "split": "leave_one_out"}

    return use


def raw_of(rows, items, **fields):
    interactions = pl.DataFrame(
        [(*row, 0) for row in rows], schema=INTERACTION_SCHEMA, orient="row"
    )
    catalogue = pl.DataFrame(
        [(item, item, item, []) for item in items], schema=ITEM_SCHEMA, orient="row"
    )
    return RawDataset((FramePart(interactions),), catalogue, **fields)


@pytest.mark.parametrize("split", SPLITS)
def test_a_prepared_folder_reads_back(tmp_path, split):
    manifest = prepare({"source": GENERATED, "split": split}, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.manifest == manifest
    assert prepared.num_users == 60
    assert prepared.num_items == 240
    assert prepared.items["item_id"].to_list() == list(range(240))
    assert {name: str(column.dtype) for name, column in prepared.columns.items()} == {
        "item": "int32",
        "time": "int64",
        "event": "int32",
    }
    for user in range(prepared.num_users):
        times = prepared.columns["time"][prepared.offsets[user] : prepared.offsets[user + 1]]
        assert (np.diff(times) >= 0).all()
    counts = manifest["counts"]["split"]
    parts = ("train_interactions", "valid_targets", "test_targets", "targets_without_history")
    assert sum(counts[part] for part in parts) == len(prepared.columns["item"])
    assert len(prepared.views("test")) == counts["test_views"] > 0
    with pytest.raises(ValueError, match="'dev'; it must be one of train, valid, test"):
        prepared.views("dev")


@pytest.mark.parametrize("split", SPLITS)
def test_train_count_and_training_items_hold_training_interactions_only(tmp_path, split):
    prepare({"source": GENERATED, "split": split}, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    expected = [prepared.columns["item"][start:stop] for _, start, stop in prepared.train_sequences]
    item, offsets = prepared.training_items()
    np.testing.assert_array_equal(item, np.concatenate(expected))
    assert np.diff(offsets).tolist() == [len(sequence) for sequence in expected]
    np.testing.assert_array_equal(
        prepared.train_count, np.bincount(item, minlength=prepared.num_items)
    )


def test_held_out_interactions_do_not_reach_anything_that_is_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    users = [rng.permutation(30)[: rng.integers(4, 10)].tolist() for _ in range(40)]
    held_out = [user[-2:] for user in users]
    other = rng.permutation(40)
    results = []
    for name, ends in (("a", held_out), ("b", [held_out[place] for place in other])):
        lines = [
            " ".join(map(str, [number, *user[:-2], *end]))
            for number, (user, end) in enumerate(zip(users, ends, strict=True))
        ]
        # Every item occurs in the catalogue of both, whoever has it last.
        source = write_log(tmp_path / name, [*lines, "all " + " ".join(map(str, range(30)))])
        prepare({"source": source, "split": "leave_one_out"}, tmp_path / f"out_{name}")
        results.append((Prepared.load(tmp_path / f"out_{name}"), hashes(tmp_path / f"out_{name}")))
    (first, first_files), (second, second_files) = results
    assert first_files["columns/item.npy"] != second_files["columns/item.npy"]
    for name in ("items.parquet", "splits/train_sequences.npy"):
        assert first_files[name] == second_files[name]
    for ours, theirs in zip(first.training_items(), second.training_items(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equal_input_gives_equal_bytes(tmp_path):
    config = {"source": GENERATED, "k_core": 2, "split": "leave_one_out"}
    prepare(config, tmp_path / "a")
    prepare(config, tmp_path / "b")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_events_are_ordered_by_time_and_equal_times_keep_the_order_of_the_log(tmp_path, use_raw):
    rows = [
        ("u", "b", 5),
        ("v", "c", 1),
        ("u", "d", 5),
        ("u", "a", 3),
        ("u", "c", 5),
        ("v", "b", 0),
    ]
    config = use_raw(raw_of(rows, "abcd"))
    prepare(config, tmp_path / "prepared")
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.users["raw_user_id"].to_list() == ["u", "v"]
    assert prepared.columns["item"].tolist() == [0, 1, 3, 2, 1, 2]


def test_k_core_drops_items_from_the_catalogue_and_counts_both_stages(tmp_path):
    source = write_log(tmp_path, ["a 1 2", "b 1 2", "c 2 3", "d 9"])
    config = {"source": source, "k_core": 2, "split": "leave_one_out"}
    counts = prepare(config, tmp_path / "prepared")["counts"]
    assert counts["read"] == {"users": 4, "items": 4, "interactions": 7}
    assert counts["after_k_core"] == {"users": 2, "items": 2, "interactions": 4}
    assert Prepared.load(tmp_path / "prepared").raw_item_ids == ["1", "2"]


def test_the_manifest_names_inputs_by_hash_and_versions(tmp_path):
    source = write_log(tmp_path, ["a 1 2 3"])
    manifest = prepare({"source": source, "split": "leave_one_out"}, tmp_path / "prepared")
    digest = hashlib.sha256((tmp_path / "log.txt").read_bytes()).hexdigest()
    assert manifest["inputs"] == {"log.txt": {"sha256": digest, "bytes": 8}}
    assert set(manifest["versions"]) == {"python", "numpy", "polars"}
    written = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    assert files.unseal(written, "manifest.json", "") == manifest


def test_the_same_data_set_is_reused_even_from_another_place(tmp_path):
    first = write_log(tmp_path / "a", ["a 1 2 3"])
    second = write_log(tmp_path / "b", ["a 1 2 3"])
    prepare({"source": first, "split": "leave_one_out"}, tmp_path / "prepared")
    before = (tmp_path / "prepared" / "manifest.json").stat()
    prepare({"source": second, "split": "leave_one_out"}, tmp_path / "prepared")
    assert (tmp_path / "prepared" / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns


def test_a_damaged_prepared_folder_is_made_anew(tmp_path):
    config = {"source": GENERATED, "split": "leave_one_out"}
    prepare(config, tmp_path / "prepared")
    whole = hashes(tmp_path / "prepared")
    (tmp_path / "prepared" / "splits" / "valid.npy").unlink()
    with pytest.raises(ValueError, match=r"valid.npy is missing; run launch.prepare again"):
        Prepared.load(tmp_path / "prepared")
    prepare(config, tmp_path / "prepared")
    assert hashes(tmp_path / "prepared") == whole


def test_another_data_set_is_replaced_only_when_asked(tmp_path):
    config = {"source": GENERATED, "split": "leave_one_out"}
    prepare(config, tmp_path / "prepared")
    before = hashes(tmp_path / "prepared")
    other = {**config, "split": "per_user_ratio"}
    with pytest.raises(ValueError, match="holds another prepared data set"):
        prepare(other, tmp_path / "prepared")
    assert hashes(tmp_path / "prepared") == before
    assert prepare(other, tmp_path / "prepared", overwrite=True)["split"] == "per_user_ratio"


def test_a_data_set_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    config = {"source": GENERATED, "split": "leave_one_out"}
    prepare(config, tmp_path / "prepared")
    before = hashes(tmp_path / "prepared")
    replace = os.replace

    def refuse(source, target):
        if source.name == "new":
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        prepare({**config, "split": "per_user_ratio"}, tmp_path / "prepared", overwrite=True)
    assert hashes(tmp_path / "prepared") == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_in_it_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no prepared data set"):
        prepare({"source": GENERATED, "split": "leave_one_out"}, tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_failure_leaves_nothing_behind_and_a_second_run_starts_clean(tmp_path, monkeypatch):
    config = {"source": GENERATED, "split": "leave_one_out"}

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module.files, "write_sealed", disk_full)
        with pytest.raises(OSError, match="No space left"):
            prepare(config, tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []
    prepare(config, tmp_path / "prepared")
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kcore": 5}, "config.kcore is unknown to prepare; known: source, k_core, split"),
        ({"source": "generated"}, "config.source is 'generated'"),
        ({"k_core": -1}, "config.k_core is -1"),
        ({"k_core": 10_000}, "interactions: k_core=10000 leaves nothing"),
        ({"split": None}, "config.split is None"),
        ({"split": "last"}, "split.name is 'last'"),
        ({"split": "as_given"}, "brings its own split"),
        ({"split": "as_given", "k_core": 5}, "taken as it is; set k_core to 0"),
        ({"source": {**GENERATED, "signal": 2.0}}, "source.signal is 2.0"),
    ],
)
def test_a_wrong_config_is_an_error_and_writes_nothing(tmp_path, change, message):
    config = {"source": GENERATED, "split": "leave_one_out", **change}
    with pytest.raises(ValueError, match=message):
        prepare(config, tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (raw_of([("u", "x", 1)], "ab"), "user 'u' has item 'x', which the catalogue lacks"),
        (raw_of([("u", "a", 1)], "aba"), r"item 'a' more than once \(items 1 and 3\)"),
        (raw_of([("u", None, 1)], "ab"), "row 0 has no item"),
        (raw_of([], "ab"), "interactions: no interactions"),
        (raw_of([("u", "a", 1)], "ab", event_types=()), "line 1: event type 0, but there are 0"),
    ],
)
def test_a_source_that_gives_nonsense_is_refused(tmp_path, use_raw, raw, message):
    with pytest.raises(ValueError, match=message):
        prepare(use_raw(raw), tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no prepared data set"):
        Prepared.load(tmp_path)
    prepare({"source": GENERATED, "split": "leave_one_out"}, tmp_path / "prepared")
    (tmp_path / "prepared" / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"items.parquet: has been damaged"):
        Prepared.load(tmp_path / "prepared")


def test_a_folder_of_an_older_version_may_be_in_the_wrong_order_and_is_refused(tmp_path):
    config = {"source": GENERATED, "split": "leave_one_out"}
    prepare(config, tmp_path / "prepared")
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    manifest["format_version"] = 2
    (tmp_path / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    message = "format_version is 2, .* wrong order .*launch.prepare again, with --overwrite"
    with pytest.raises(ValueError, match=message):
        Prepared.load(tmp_path / "prepared")
    with pytest.raises(ValueError, match="--overwrite"):
        prepare(config, tmp_path / "prepared")
    prepare(config, tmp_path / "prepared", overwrite=True)
    assert Prepared.load(tmp_path / "prepared").manifest["format_version"] == 3


def test_a_user_with_one_interaction_is_an_error_or_left_out(tmp_path, use_raw):
    rows = [("u", "b", 5), ("v", "c", 1), ("u", "d", 6), ("w", "a", 3)]
    config = use_raw(raw_of(rows, "abcd"))
    with pytest.raises(ValueError, match=r"interactions, line 2: user 'v' has one interaction \(2"):
        prepare(config, tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []
    manifest = prepare({**config, "on_bad_rows": "skip"}, tmp_path / "prepared")
    assert manifest["skipped"]["single_interaction"]["rows"] == 2
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.users["raw_user_id"].to_list() == ["u"]
    assert prepared.columns["item"].tolist() == [1, 3]


def test_skipping_may_leave_nothing_which_is_an_error(tmp_path, use_raw):
    config = use_raw(raw_of([("u", "b", 5), ("v", "c", 1)], "abcd"))
    with pytest.raises(ValueError, match="interactions: all 2 users have one interaction"):
        prepare({**config, "on_bad_rows": "skip"}, tmp_path / "prepared")
    config = use_raw(raw_of([("u", "x", 5), ("v", "y", 1)], "abcd"))
    with pytest.raises(ValueError, match=r"no interactions of 2 rows: .* 2 unknown_item"):
        prepare({**config, "on_bad_rows": "skip"}, tmp_path / "prepared")
    rows = [("u", "x", 5), ("u", "a", 1), ("v", "y", 1), ("v", "a", 2)]
    config = {**use_raw(raw_of(rows, "abcd")), "k_core": 2}
    with pytest.raises(ValueError, match="interactions: k_core=2 leaves nothing of 2 interactions"):
        prepare({**config, "on_bad_rows": "skip"}, tmp_path / "prepared")
    assert list(tmp_path.iterdir()) == []


def test_a_given_split_keeps_the_rows_that_it_counts(tmp_path, use_raw):
    given = GivenSplit(*(np.array([[0, stop]]) for stop in (2, 2, 3)))
    raw = raw_of([("u", item, 0) for item in "axbc"], "abc", given_split=given)
    config = {**use_raw(raw), "split": "as_given", "on_bad_rows": "skip"}
    with pytest.raises(ValueError, match=r"item 'x'.* a given split"):
        prepare(config, tmp_path / "prepared")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "event_weights has 1 entries, event_types 2"),
        ((1.0, -0.5), "gives 'buy' the weight -0.5"),
        ((float("nan"), 1.0), "gives 'view' the weight nan"),
    ],
)
def test_weights_of_events_are_checked(weights, message):
    with pytest.raises(ValueError, match=message):
        RawDataset((), None, event_types=("view", "buy"), event_weights=weights)


def test_unknown_items_are_counted_where_bad_rows_are_skipped(tmp_path, use_raw):
    rows = [("u", "a", 1), ("u", "x", 2), ("u", "b", 3), ("w", "y", 1)]
    manifest = prepare(
        {**use_raw(raw_of(rows, "ab")), "on_bad_rows": "skip"}, tmp_path / "prepared"
    )
    assert manifest["skipped"] == {
        "unknown_item": {
            "rows": 2,
            "first": "interactions, line 2: user 'u' has item 'x', which the catalogue lacks; add "
            "it to the catalogue",
        }
    }
    prepared = Prepared.load(tmp_path / "prepared")
    assert prepared.users["raw_user_id"].to_list() == ["u"]
    assert prepared.columns["item"].tolist() == [0, 1]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    # A limit on the size of a file stands for the disk: writing fails in the middle of an array.
    code = f"""
import resource, signal
from pipelines.prepare.prepare import prepare
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
prepare({{"source": {{"name": "generated"}}, "split": "leave_one_out"}}, {str(tmp_path / "p")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError: columns/item.npy of the prepared data set cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (pl.DataFrame, "write_parquet", "items.parquet"),
        (prepare_module.files, "write_sealed", "manifest.json"),
        (os, "fsync", r"columns/event.npy"),
    ],
)
def test_a_disk_that_fills_up_names_the_file(tmp_path, monkeypatch, module, function, name):
    config = {"source": GENERATED, "split": "leave_one_out"}
    prepare(config, tmp_path / "prepared")
    before = hashes(tmp_path)

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if function == "fsync":
            patch.setattr(prepare_module.files, "write_sealed", lambda path, value: None)
        patch.setattr(module, function, disk_full)
        with pytest.raises(OSError, match=rf"{name}.* No space left on device; nothing is left"):
            prepare({**config, "split": "per_user_ratio"}, tmp_path / "prepared", overwrite=True)
    assert hashes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_what_a_killed_run_left_is_cleared_and_what_another_writes_is_not(tmp_path):
    config = {"source": GENERATED, "split": "leave_one_out"}
    dead = tmp_path / ".prepared.partial-dead"
    (dead / "new").mkdir(parents=True)
    (dead / "new" / "offsets.npy").write_bytes(b"half")
    alive = tmp_path / ".prepared.partial-alive"
    alive.mkdir()
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    prepare(config, tmp_path / "prepared")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "prepared"]
    whole = hashes(tmp_path / "prepared")
    os.close(lock)
    # Killed between moving the old data set aside and putting the new one in its place.
    (tmp_path / "prepared").rename(alive / "old")
    prepare(config, tmp_path / "prepared")
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]
    assert hashes(tmp_path / "prepared") == whole
