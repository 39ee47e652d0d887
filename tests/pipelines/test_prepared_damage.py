"""A prepared folder in which a bit has flipped, or a file is shorter, is refused by its name."""

import os
import shutil

import numpy as np
import polars as pl
import pytest

from minirec import files
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from tests.pipelines.edited import replace_array, vouch_for

CONFIG = {"source": {"name": "generated", "num_users": 20, "num_items": 192}}
CONFIG |= {"split": "leave_one_out"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "prepared"
    prepare(CONFIG, folder)
    return folder


@pytest.fixture
def prepared(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "prepared")


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def content(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_any_flipped_bit_of_any_file_is_refused_by_its_name(prepared):
    assert len(names(prepared)) == 10
    for number, name in enumerate(names(prepared)):
        path = prepared / name
        data = path.read_bytes()
        rng = np.random.default_rng(number)
        for place in {0, len(data) - 1, *rng.integers(0, len(data), 4).tolist()}:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=f"{path}: .*run launch.prepare again"):
                Prepared.load(prepared)
        path.write_bytes(data)
    assert Prepared.load(prepared).num_users == 20


@pytest.mark.parametrize("name", ["offsets.npy", "users.parquet", "splits/test.npy"])
def test_another_array_of_the_same_size_is_refused_and_prepared_again(prepared, whole, name):
    data = bytearray((prepared / name).read_bytes())
    data[-20] ^= 255
    (prepared / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: has been damaged or replaced"):
        Prepared.load(prepared)
    prepare(CONFIG, prepared)
    assert content(prepared) == content(whole)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"format_version": 3}', b"\xff"])
def test_a_damaged_manifest_is_replaced_where_that_is_asked_for(prepared, whole, damage):
    (prepared / "manifest.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        prepare(CONFIG, prepared)
    assert (prepared / "manifest.json").read_bytes() == damage
    prepare(CONFIG, prepared, overwrite=True)
    assert content(prepared) == content(whole)


def test_somebody_elses_manifest_is_never_replaced(tmp_path):
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(ValueError, match=r"manifest\.json"):
        prepare(CONFIG, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def look(prepared):
    """Everything that a reader of a prepared folder looks at."""
    data = Prepared.load(prepared)
    return data.users, data.views("train"), data.views("valid"), data.views("test")


def rows(array, row, values):
    changed = np.array(array)
    changed[row] = values
    return changed


OTHER_ARRAYS = [
    ("columns/item.npy", lambda a: a.astype(np.int64), "holds int64 .*; expected int32"),
    ("columns/item.npy", lambda a: a.astype(np.float32), "holds float32 .*; expected int32"),
    ("columns/item.npy", lambda a: a[:-1], "expected int32"),
    ("columns/item.npy", lambda a: a[:, None], "expected int32"),
    ("columns/item.npy", lambda a: rows(a, 3, 192), r"values from 0 to 192; .* \[0, 192\)"),
    ("columns/item.npy", lambda a: rows(a, 3, -1), "values from -1 to"),
    ("columns/event.npy", lambda a: rows(a, -1, 99), "values from 0 to 99"),
    ("columns/time.npy", lambda a: a.astype(">i8"), "holds >i8 .*; expected int64"),
    ("offsets.npy", lambda a: a[:-1], r"expected int64 \[21\]"),
    ("offsets.npy", lambda a: rows(a, 0, 1), "must rise from 0"),
    ("offsets.npy", lambda a: rows(a, 5, a[-1]), "must rise from 0"),
    ("offsets.npy", lambda a: rows(a, -1, a[-1] + 1), "must rise from 0"),
    ("splits/train_sequences.npy", lambda a: a[:, :2], r"expected int64 \[any, 3\]"),
    ("splits/train_sequences.npy", lambda a: rows(a, 2, (20, 0, 0)), "row 2.* not events"),
    ("splits/train_sequences.npy", lambda a: rows(a, 2, (-1, 0, 0)), "row 2.* not events"),
    ("splits/train_sequences.npy", lambda a: rows(a, 2, a[2] + (1, 0, 0)), "row 2.* not events"),
    ("splits/valid.npy", lambda a: rows(a, 0, (0, 3, 2)), "row 0.* not events"),
    ("splits/valid.npy", lambda a: a.astype(np.float64), "holds float64"),
    ("splits/test.npy", lambda a: rows(a, 0, a[0] + (0, 0, 1)), "row 0.* not events"),
    ("splits/test.npy", lambda a: rows(a, 1, (1, 2**40, 2**40)), "row 1.* not events"),
]


@pytest.mark.parametrize(
    ("name", "change", "message"), OTHER_ARRAYS, ids=[f"{name}: {m}" for name, _, m in OTHER_ARRAYS]
)
def test_an_array_of_another_shape_is_refused_though_its_digest_is_right(
    prepared, name, change, message
):
    replace_array(prepared, name, change(np.load(prepared / name)))
    with pytest.raises(ValueError, match=f"{name}: .*{message}.*; run launch.prepare again"):
        look(prepared)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("items", lambda t: t.drop("title"), "column 'title' is of type none"),
        (
            "items",
            lambda t: t.cast({"train_count": pl.String}),
            "column 'train_count' is of type S",
        ),
        ("items", lambda t: t.head(-1), "191 rows; there must be 192"),
        ("items", lambda t: t.reverse(), "column 'item_id' does not count from 0"),
        ("items", lambda t: t.with_columns(-pl.col("train_count") - 1), "negative somewhere"),
        ("items", lambda t: t.with_columns(raw_item_id=pl.lit(None, pl.String)), "has nulls"),
        ("users", lambda t: t.select("raw_user_id"), "column 'user' is of type none"),
        ("users", lambda t: pl.concat([t, t]), "40 rows; there must be 20"),
        ("users", lambda t: b"PAR1 is how such a file begins", "damaged: "),
    ],
)
def test_a_table_of_another_shape_is_refused_though_its_digest_is_right(
    prepared, name, change, message
):
    path = prepared / f"{name}.parquet"
    table = change(pl.read_parquet(path))
    if isinstance(table, bytes):
        path.write_bytes(table)
    else:
        table.write_parquet(path)
    vouch_for(prepared, path.name)
    with pytest.raises(ValueError, match=f"{path}: .*{message}.*; run launch.prepare again"):
        look(prepared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": []}, r"config is \[\]; expected an object"),
        ({"config": {"source": "x", "split": {"name": "y"}}}, "config.source is 'x'"),
        ({"fingerprint": None}, "fingerprint is None; expected text"),
        ({"event_types": "view"}, "event_types is 'view'; expected a list"),
        ({"counts": {}}, "counts.prepared is missing"),
        ({"outputs": [1]}, r"\[1\]; expected an object"),
    ],
)
def test_a_manifest_of_another_shape_is_refused_though_its_seal_is_right(prepared, change, message):
    vouch_for(prepared, "offsets.npy", **change)
    with pytest.raises(ValueError, match=f"prepared.*{message}.*; run launch.prepare again"):
        look(prepared)


def test_a_large_file_is_read_once_a_process_unless_it_changes(tmp_path, monkeypatch):
    read = []

    def counted(path):
        read.append(path.name)
        return "0" * 64

    monkeypatch.setitem(files.check_files.__globals__, "sha256", counted)
    large, small = tmp_path / "large", tmp_path / "small"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    small.write_bytes(b"x")
    expected = files.checksums(tmp_path, ["large", "small"])
    files.check_files(tmp_path, expected, remedy="")
    assert sorted(read) == ["large", "small", "small"]
    os.utime(large, ns=(1, 1))
    files.check_files(tmp_path, expected, remedy="")
    assert sorted(read) == ["large", "large", "small", "small", "small"]
