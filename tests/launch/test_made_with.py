"""No setting is silently ignored: what a step was made with is compared by all later ones."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from launch import evaluate, make_sids, prepare
from launch.wiring import catalogue, made_with, program, sid
from minirec import files
from minirec.training import run_folder
from tests.launch.fields import another, changed, flat, refused_fields


def test_a_changed_field_is_refused_by_every_later_step_or_said_to_change_nothing(smoke):
    job, _ = smoke
    refused = refused_fields(job)
    assert {"data.k_core", "sids.dim", "model.width", "train.learning_rate", "seed"} <= refused


def test_what_changes_nothing_or_is_asked_anew_is_not_refused(smoke):
    job, _ = smoke
    fields = [field for field, _ in flat(job.config)]
    free = [
        f
        for f in fields
        if made_with.is_in(f, made_with.CHANGE_NOTHING) or made_with.is_in(f, made_with.EVALUATION)
    ]
    config = job.config.copy_and_resolve_references()
    values = dict(flat(config))
    config.update_from_flattened_dict(
        {
            f: another(values[f])
            for f in free
            if not made_with.is_in(f, ("mesh", "search.normalize"))
        }
    )
    sid.EXPERIMENT.load(dataclasses.replace(job, config=config))
    for field in made_with.CHANGE_NOTHING:
        assert made_with.CHANGE_NOTHING[field]


@pytest.mark.parametrize(("tokens", "refused"), [(0, False), (40, True)])
def test_a_run_whose_rows_were_counted_in_tokens(smoke, tmp_path, tokens, refused):
    job, _ = smoke
    run = tmp_path / "run"
    record = run_folder.read_config(job.run)
    loader = record["config"]["loader"]
    assert loader.pop("row_items") == 0
    loader["row_tokens"] = tokens
    run_folder.claim(run, record, overwrite=False)
    old = dataclasses.replace(job, run=run)
    if refused:
        with pytest.raises(program.UsageError, match=r"config\.loader\.row_tokens is 40 there"):
            made_with.check_run(old)
    else:
        assert made_with.check_run(old)["config"] == record["config"]


def test_another_folder_must_hold_the_same_log(smoke, tmp_path, capsys):
    job, _ = smoke
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        lines = [f"{user} {' '.join(map(str, range(1 + user % 3, 9)))}" for user in range(1, 9)]
        (tmp_path / name / "log.txt").write_text("\n".join(lines) + "\n")
    config = job.config.copy_and_resolve_references()
    config.data.source = ConfigDict(
        {"name": "sasrec", "folder": str(tmp_path / "a"), "interactions": "log.txt"}
    )
    config.data.k_core = 0
    own = program.Job(config, tmp_path / "w", tmp_path / "w" / "runs" / "r")
    prepare.main(own)
    catalogue.load_prepared(changed(own, "data.source.folder", str(tmp_path / "b")))
    assert not capsys.readouterr().err
    catalogue.load_prepared(changed(own, "data.source.folder", str(tmp_path / "c")))
    assert "is taken as it is" in capsys.readouterr().err
    (tmp_path / "b" / "log.txt").write_text("1 2 3 4\n")
    with pytest.raises(
        ValueError, match=r"b/log\.txt: is not what was prepared: config\.data\.sou"
    ):
        catalogue.load_prepared(changed(own, "data.source.folder", str(tmp_path / "b")))


def test_seeds_of_sids_and_of_training_may_differ(smoke):
    job, _ = smoke
    with pytest.raises(ValueError, match=r"config\.sids\.seed is 0 there, 1 now"):
        catalogue.require_sids(changed(job, "seed", 1), job.sids)
    config = job.config.copy_and_resolve_references()
    config.update_from_flattened_dict({"seed": 1, "sids.seed": 0})
    catalogue.require_sids(dataclasses.replace(job, config=config), job.sids)


def test_what_would_be_replaced_asks_for_overwrite_and_says_what_hangs_on_it(smoke):
    job, _ = smoke
    before = (job.sids / catalogue.SIDS).read_bytes(), (job.prepared / "manifest.json").read_bytes()
    with pytest.raises(
        program.UsageError, match=rf"config\.sids\.dim is .*{job.run.name}.*--overw"
    ):
        make_sids.make(changed(job, "sids.dim", 8))
    with pytest.raises(
        program.UsageError, match=rf"config\.data\.k_core is .*{job.run.name}.*--ov"
    ):
        prepare.main(changed(job, "data.k_core", 3))
    with pytest.raises(program.UsageError, match=r"report\.json: config\.search\.num_beams is 20"):
        evaluate.run_evaluation(changed(job, "search.num_beams", 30))
    assert (job.sids / catalogue.SIDS).read_bytes() == before[0]
    assert (job.prepared / "manifest.json").read_bytes() == before[1]


def test_a_report_without_a_config_is_told_by_its_name(smoke, tmp_path):
    job, _ = smoke
    path = tmp_path / "report.json"
    for content in ({}, {"config": 3}, {"config": {"evaluate": 3}}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"report\.json"):
            made_with.check_report(job, path)
    path.write_text(json.dumps(files.read_json(job.run / "report" / "report.json")))
    made_with.check_report(job, path)
