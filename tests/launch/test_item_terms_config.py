"""The settings of what a model reads of the items' text: refused, recorded, and off in old runs."""

import dataclasses
import shutil

import numpy as np
import pytest

from launch.wiring import catalogue, made_with, program, sid
from minirec.training import run_folder
from tests.launch.fields import changed


def old_run(job, tmp_path, change):
    """A run of the same job whose record was changed."""
    record = run_folder.read_config(job.run)
    change(record)
    run = tmp_path / "run"
    run_folder.claim(run, record, overwrite=False)
    return dataclasses.replace(job, run=run)


def without_the_fields(record):
    del record["config"]["model"]["terms_per_item"]
    del record["config"]["loss"]["neighbour_share"]


def test_a_run_from_before_there_were_terms_is_one_without(smoke, tmp_path):
    job, _ = smoke
    old = old_run(job, tmp_path, without_the_fields)
    off = {"model.terms_per_item": 0, "loss.neighbour_share": 0.0}
    config = job.config.copy_and_resolve_references()
    config.update_from_flattened_dict(off)
    assert made_with.check_run(dataclasses.replace(old, config=config))
    on = changed(dataclasses.replace(old, config=config), "model.terms_per_item", 7)
    with pytest.raises(program.UsageError, match=r"model\.terms_per_item is 0 there, 7 now"):
        made_with.check_run(on)
    on = changed(dataclasses.replace(old, config=config), "loss.neighbour_share", 0.3)
    with pytest.raises(program.UsageError, match=r"loss\.neighbour_share is 0\.0 there, 0\.3 now"):
        made_with.check_run(on)


def test_other_terms_than_a_run_was_trained_with_are_refused(smoke, tmp_path):
    job, _ = smoke
    job = changed(job, "model.terms_per_item", 5)

    def with_other_terms(record):
        record["config"]["model"]["terms_per_item"] = 5
        record["terms_sha256"] = "0" * 64

    old = old_run(job, tmp_path, with_other_terms)
    for path in job.run.iterdir():
        if path.is_file() and not (old.run / path.name).exists():
            shutil.copy(path, old.run)
    with pytest.raises(ValueError, match=r'trained with terms_sha256="0+", now "[0-9a-f]{64}"'):
        sid.EXPERIMENT.load(old)


@pytest.mark.parametrize("value", [-1, 2.5])
def test_an_impossible_number_of_terms_is_an_error(smoke, value):
    job, _ = smoke
    config = job.config.copy_and_resolve_references()
    with config.ignore_type():
        config.model.terms_per_item = value
    loaded = sid.load_catalogue(catalogue.load_prepared(job), job.sids)
    with pytest.raises(ValueError, match=rf"config\.model\.terms_per_item={value}: must be"):
        sid.item_terms(config, loaded)
    config.model.positions = "tokens"  # It has no meaning there.
    assert sid.item_terms(config, loaded) is None


def test_an_item_that_was_appended_has_terms_by_its_title(smoke):
    job, _ = smoke
    job = changed(job, "model.terms_per_item", 5)
    known = sid.load_catalogue(catalogue.load_prepared(job), job.sids)
    terms = sid.item_terms(job.config, known)
    table = dataclasses.replace(
        known.table,
        raw_item_ids=(*known.table.raw_item_ids, "later", "shown by its id"),
        codes=np.concatenate([known.table.codes, known.table.codes[:2]]),
    )
    first = known.prepared.items["title"][0]
    later = dataclasses.replace(
        known, table=table, titles=(*known.titles, first, "shown by its id"), made_terms={}
    )
    more = sid.item_terms(job.config, later)
    assert more.num_terms == terms.num_terms
    np.testing.assert_array_equal(more.term[:-2], terms.term)
    assert more.weight[-2].any()
    assert not more.weight[-1].any()
    assert sid.item_terms(job.config, later) is more
