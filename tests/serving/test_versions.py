import errno
import json
import resource

import numpy as np
import pytest

from minirec.serving.engine import Engine, Request
from minirec.serving.rules import Rule
from minirec.serving.versions import Change, Versions
from minirec.sids import SidTable
from minirec.sids.append import AppendedItems
from tests.serving.small import NUM_ITEMS, SIZES


@pytest.fixture
def versions(world, tmp_path):
    return Versions(tmp_path / "serving", world, world.served(), world.listing)


@pytest.fixture
def served_engine(engine, world, versions):
    """The module's engine, whose catalogue the versions change, and which is set back after."""
    engine.swap(versions.served, versions.stock)
    versions.serve(engine)
    return engine


def again(versions, world):
    """What a server that starts anew finds."""
    return Versions(versions._folder.parent, world, world.served(), world.listing)


def recommended(engine, **options):
    answer = engine.submit(Request(["i1"], **options)).result(60)
    return [answer.served.catalogue.raw_item_ids[item] for item in answer.found.item]


def append_file(world, path, number=3):
    ids = tuple(f"new{place}" for place in range(number))
    titles = tuple(f"New thing {place}" for place in range(number))
    AppendedItems(world.sids_sha256, ids, titles, world.later_codes[:number]).save(path)
    return path


def test_rules_find_appended_items_after_a_restart_and_in_a_whole_new_file(
    world, versions, tmp_path
):
    codes, path = world.later_codes[:2], tmp_path / "appended.json"
    known = (({"price": 7}, {"price": 0.5, "kind": "lamp"}), (["colour=green"], []))
    AppendedItems(world.sids_sha256, ("a", "b"), ("A", "B"), codes, *reversed(known)).save(path)
    versions.change(Change(appended=str(path)))

    def allowed(versions, *rule):
        catalogue = versions.served.catalogue
        mask = catalogue.columns.mask((Rule(*rule),), catalogue.num_items)
        return {catalogue.raw_item_ids[item] for item in np.flatnonzero(mask)} - set(world.raw[1:])

    sids = dict(zip(world.raw, world.codes.tolist(), strict=True))
    sids |= {"b": codes[1].tolist(), "c": world.later_codes[2].tolist()}
    whole = tmp_path / "sids.json"
    SidTable(tuple(sids), np.array(list(sids.values()), np.int32), SIZES).save(whole)
    for change in (None, Change(sids=str(whole))):
        if change is not None:
            versions.change(change)
        for one in (versions, again(versions, world)):
            assert allowed(one, "price", "<", 8.0) == {"i0", "a", "b"}
            assert allowed(one, "price", "in", ("7", "0.5")) == {"a", "b"}
            assert allowed(one, "kind", "in", ("lamp",)) == {"b"}
            assert allowed(one, "colour", "in", ("green",)) == {"a"}


def test_withdrawn_items_are_in_no_answer_and_come_back(world, versions, served_engine):
    first = recommended(served_engine, rank_by="model")
    versions.change(Change(withdraw=first[:2]))
    assert served_engine.served.catalogue.number == 2
    for name in ("model", "system", "item_head", "model_head"):
        assert not set(first[:2]) & set(recommended(served_engine, rank_by=name))
    versions.change(Change(restore=first[:2]))
    assert recommended(served_engine, rank_by="model") == first


def test_stock_changes_at_once_without_another_version(versions, served_engine):
    first = recommended(served_engine)
    assert versions.change_stock(first[:3], []) == 1
    assert not set(first[:3]) & set(recommended(served_engine))
    assert recommended(served_engine, sold_out=True) == first
    versions.change_stock([], first[:3])
    assert recommended(served_engine) == first
    assert served_engine.served.catalogue.number == 1


def test_a_rollback_answers_as_before_and_keeps_what_is_sold_out(versions, served_engine):
    first = recommended(served_engine)
    versions.change(Change(withdraw=first[:2]))
    versions.change_stock([first[4]], [])
    versions.rollback()
    assert versions.number == 1
    assert recommended(served_engine, num=4) == first[:4]
    assert first[4] not in recommended(served_engine)
    with pytest.raises(ValueError, match="no version of the catalogue before"):
        versions.rollback()
    versions.change(Change(withdraw=first[:1]))
    assert versions.number == 3  # A number never means two things.


def test_appended_items_are_read_and_found(world, versions, served_engine, tmp_path):
    path = append_file(world, tmp_path / "appended.json")
    versions.change(Change(appended=str(path)))
    catalogue = served_engine.served.catalogue
    assert catalogue.num_items == NUM_ITEMS + 3
    assert catalogue.titles[-1] == "New thing 2"
    everything = [f"i{item}" for item in range(NUM_ITEMS)]
    found = recommended(served_engine, exclude=everything, num=3)
    assert sorted(found) == ["new0", "new1", "new2"]
    answer = served_engine.submit(Request(["new1", "i1"])).result(60)
    assert answer.found.item.size
    versions.change(Change(appended=str(path)))  # Again: nothing comes twice.
    assert served_engine.served.catalogue.num_items == NUM_ITEMS + 3


def test_a_whole_new_file_of_sids_is_served(world, versions, served_engine, tmp_path):
    kept = [f"i{item}" for item in range(10, NUM_ITEMS)]
    ids = (*reversed(kept), "other")
    codes = np.concatenate([world.later_codes[:20], world.codes[: len(ids) - 20]])
    SidTable(ids, codes, SIZES).save(tmp_path / "sids.json")
    titles = tmp_path / "titles.json"
    titles.write_text(json.dumps({"other": "Another lamp"}))
    before = served_engine.recommender.programs.num_traces
    versions.change(Change(sids=str(tmp_path / "sids.json"), titles=str(titles)))
    catalogue = served_engine.served.catalogue
    assert catalogue.listed.sum() == len(ids)
    assert catalogue.titles[catalogue.item_of["other"]] == "Another lamp"
    np.testing.assert_array_equal(catalogue.codes[catalogue.item_of[kept[-1]]], codes[0])
    found = recommended(served_engine, num=8, rank_by="model")
    assert not {f"i{item}" for item in range(10)} & set(found)
    assert served_engine.recommender.programs.num_traces == before


def test_another_model_of_the_same_shape_takes_over(versions, served_engine):
    versions.change_model("other")
    assert served_engine.served.model_version == "world@2"
    with pytest.raises(ValueError, match="run: 'nobody' is not there"):
        versions.change_model("nobody")
    assert served_engine.served.model_version == "world@2"


def test_the_last_version_is_served_after_a_restart(world, versions, served_engine):
    versions.change(Change(withdraw=["i1", "i2"]))
    versions.change(Change(withdraw=["i3"]))
    versions.change_stock(["i7", "i8"], [])
    versions.change_stock([], ["i8"])
    new = again(versions, world)
    assert new.number == 3
    assert np.flatnonzero(~new.served.catalogue.listed).tolist() == [1, 2, 3]
    assert np.flatnonzero(~new.stock.now()[0]).tolist() == [7]
    new.rollback()
    assert new.number == 2
    assert np.flatnonzero(~new.served.catalogue.listed).tolist() == [1, 2]


def damage_nothing(folder):
    return 3


def damage_newest(folder):
    path = folder / "catalogue-000003.json"
    path.write_bytes(path.read_bytes()[:-40])
    return 2


def lose_newest(folder):
    (folder / "catalogue-000003.json").unlink()
    return 2


def half_a_line_of_stock(folder):
    with (folder / "stock.jsonl").open("a") as file:
        file.write('{"out": ["i9"')
    return 3


def written_but_not_served(folder):
    path = folder / "catalogue-000003.json"
    (folder / "catalogue-000004.json").write_bytes(path.read_bytes()[:100])
    return 3


@pytest.mark.parametrize(
    "damage",
    [damage_nothing, damage_newest, lose_newest, half_a_line_of_stock, written_but_not_served],
)
def test_a_restart_after_a_kill_serves_the_newest_version_that_is_whole(
    world, versions, damage, capfd
):
    versions.change(Change(withdraw=["i1"]))
    versions.change(Change(withdraw=["i2"]))
    versions.change_stock(["i5"], [])
    number = damage(versions._folder)
    new = again(versions, world)
    assert new.number == number
    assert np.flatnonzero(~new.stock.now()[0]).tolist() == [5]
    assert ("note: " in capfd.readouterr().err) == (number < 3)
    new.change(Change(withdraw=["i3"]))
    assert new.number > 3  # Not the number of what is damaged or was half done.


def test_versions_of_other_records_are_left_alone(world, versions):
    versions.change(Change(withdraw=["i1"]))

    class Other:
        fingerprint = "another world"
        with_listing, num_known = world.with_listing, NUM_ITEMS
        sids_sha256 = world.sids_sha256

    before = sorted(path.name for path in versions._folder.iterdir())
    new = Versions(versions._folder.parent, Other(), world.served(), world.listing)
    assert new.number == 1
    new.change(Change(withdraw=["i2"]))
    assert sorted(path.name for path in versions._folder.iterdir()) == before
    assert again(versions, world).number == 2


def test_a_change_of_stock_that_cannot_be_written_leaves_no_half_line(versions, monkeypatch):
    versions.change_stock(["i1"], [])
    path = versions._folder / "stock.jsonl"
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("minirec.files.json_line", lambda value: "x" * 10**6)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OSError, match=r"No space left|File too large"):
                versions.change_stock(["i2"], [])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert np.flatnonzero(~versions.stock.now()[0]).tolist() == [1]


def test_what_is_sold_out_is_remembered_over_a_version_that_lacks_it(world, versions, tmp_path):
    path = append_file(world, tmp_path / "appended.json")
    versions.change(Change(appended=str(path)))
    versions.change_stock(["new1"], [])
    versions.rollback()
    versions.change(Change(appended=str(path)))
    sold_out = versions.served.catalogue.item_of["new1"]
    assert np.flatnonzero(~versions.stock.now()[0]).tolist() == [sold_out]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda world, path: Change(withdraw=["who"]), r"withdraw\[0\]: the catalogue has no item"),
        (lambda world, path: Change(restore=["i1", "who"]), r"restore\[1\]"),
        (lambda world, path: Change(withdraw=list(world.raw)), "would hold no item"),
        (lambda world, path: Change(sids=str(path / "none.json")), "none.json: no such file"),
        (lambda world, path: Change(appended=str(path / "none.json")), "no such file"),
    ],
)
def test_a_change_that_cannot_be_changes_nothing(world, versions, tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        versions.change(make(world, tmp_path))
    assert versions.number == 1
    assert not (tmp_path / "serving").exists()


def truncated(world, path):
    path.write_bytes(path.read_bytes()[:-30])


def another_vocabulary(world, path):
    path.write_text(path.read_text().replace("<b_1>", "<b_4000>"))


def another_length(world, path):
    codes = np.zeros((3, 2), np.int32)
    SidTable(("i1", "i2", "i3"), codes, (8, 8)).save(path)


def empty(world, path):
    path.write_text("{}")


def no_json(world, path):
    path.write_bytes(b"\x00\xff" * 50)


@pytest.mark.parametrize("damage", [truncated, another_vocabulary, another_length, empty, no_json])
def test_a_damaged_file_of_sids_is_refused_by_name(world, versions, tmp_path, damage):
    path = tmp_path / "sids.json"
    SidTable(world.raw, world.codes, SIZES).save(path)
    damage(world, path)
    with pytest.raises(ValueError, match=r"sids\.json"):
        versions.change(Change(sids=str(path)))
    assert versions.number == 1


def test_an_appended_file_of_other_sids_is_refused(world, versions, tmp_path):
    path = tmp_path / "appended.json"
    later = AppendedItems("1" * 64, ("x",), ("X",), world.later_codes[:1])
    later.save(path)
    with pytest.raises(ValueError, match="appended to other SIDs"):
        versions.change(Change(appended=str(path)))


def test_a_full_disk_leaves_the_version_that_serves(world, versions, served_engine, monkeypatch):
    first = recommended(served_engine)
    versions.change(Change(withdraw=["i3"]))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minirec.files.write_sealed", full)
        with pytest.raises(OSError, match="No space"):
            versions.change(Change(withdraw=first))
    assert versions.number == served_engine.served.catalogue.number == 2
    assert again(versions, world).number == 2


def test_only_some_versions_stay_on_disk(world, versions):
    for place in range(9):
        versions.change(Change(withdraw=[f"i{place}"]))
    there = sorted(int(path.stem[-6:]) for path in versions._folder.glob("catalogue-*"))
    assert there == list(range(5, 11))
    for number in (9, 8, 7, 6, 5):
        assert versions.rollback().catalogue.number == number


def test_an_engine_begins_with_what_was_kept(world, versions):
    versions.change(Change(withdraw=["i1"]))
    new = again(versions, world)
    engine = Engine(
        world.recommender(), new.served, exclude_seen=True, stock=new.stock, deadline_s=60.0
    )
    assert engine.submit(Request(["i2"])).result(60).catalogue_version == "2.0"
    engine.close()
