"""W/sids is of one making or refused by name, however making it anew ends."""

import shutil

import numpy as np
import pytest

from launch import make_sids, prepare
from launch.wiring import append, catalogue, program, sid
from minirec import files
from minirec.sids.append import AppendedItems
from tests.files.power import power_cut


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(job, prepared, what one seed makes and what another makes)."""
    config = program.load_config_module("quickstart").get_config("smoke")
    config.data.source.update({"num_users": 60, "num_items": 240})
    workdir = tmp_path_factory.mktemp("sids")
    job = program.Job(config, workdir, workdir / "runs" / "x")
    prepare.main(job)
    prepared = catalogue.load_prepared(job)
    tables = [make_sids.make_table(prepared, config.sids, seed) for seed in (0, 1)]
    assert not np.array_equal(tables[0].table.codes, tables[1].table.codes)
    return job, prepared, tables


@pytest.fixture
def make(made, tmp_path, monkeypatch):
    """(job in a folder of its own, prepared, a function that makes the SIDs of a seed)."""
    job, prepared, tables = made
    copy = program.Job(job.config, tmp_path, tmp_path / "runs" / "x")
    shutil.copytree(job.prepared, copy.prepared)

    def one(seed):
        monkeypatch.setattr(make_sids, "make_table", lambda *_, **__: tables[seed])
        make_sids.make(copy)

    return copy, prepared, one


def append_to(job):
    codes = np.zeros((1, 3), np.int32)
    digest = files.sha256(job.sids / catalogue.SIDS)
    AppendedItems(digest, ("later",), ("A later one",), codes).save(job.sids / catalogue.APPENDED)


def test_making_sids_anew_that_is_cut_short_anywhere_mixes_nothing(made, make, monkeypatch, capsys):
    _, prepared, tables = made
    job, _, make_seed = make
    make_seed(0)
    append_to(job)
    with power_cut(monkeypatch, None) as asked:
        make_seed(1)
    assert len(asked) > 5
    seen = set()
    for at in range(len(asked)):
        shutil.rmtree(job.sids)
        make_seed(0)
        append_to(job)
        with power_cut(monkeypatch, at):
            make_seed(1)
        try:
            report = catalogue.checked_sids(job.sids, catalogue.CODEBOOKS)
            table = catalogue.load_table(prepared, job.sids)
        except ValueError as error:
            seen.add(str(job.sids) in str(error))
        else:
            which = [np.array_equal(table.codes, one.table.codes) for one in tables].index(True)
            assert report["reconstruction_error"] == tables[which].report["reconstruction_error"]
            digest = files.sha256(job.sids / catalogue.SIDS)
            later = AppendedItems.load(job.sids / catalogue.APPENDED, table, digest)
            assert len(later.codes) == 1 - which
            seen.add(which)
        make_seed(1)
        sid.load_catalogue(prepared, job.sids, job.sids / catalogue.APPENDED)
        assert not (job.sids / catalogue.APPENDED).exists()
    assert seen == {0, True}
    assert "appended.json held items that were appended to the SIDs before" in (
        capsys.readouterr().err
    )


def test_the_same_sids_made_again_keep_what_was_appended_to_them(make):
    job, prepared, make_seed = make
    make_seed(0)
    append_to(job)
    make_seed(0)
    loaded = sid.load_catalogue(prepared, job.sids, job.sids / catalogue.APPENDED)
    assert loaded.titles[-1] == "A later one"


def test_a_flipped_bit_of_any_file_is_refused_by_its_name(make):
    job, prepared, make_seed = make
    make_seed(0)
    append_to(job)
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in job.sids.iterdir())
    assert names == ["appended.json", "codebooks.npz", "sids.json", "sids_report.json"]
    for name in names:
        path = job.sids / name
        data = path.read_bytes()
        for place in {0, len(data) - 1, *rng.integers(0, len(data), 6).tolist()}:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=f"^{path}: "):
                append.append_items(job, prepared, job.workdir / "none.csv", None)
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"none\.csv: no such file"):
        append.append_items(job, prepared, job.workdir / "none.csv", None)
