"""The quickstart's worlds through the whole chain, in this process; shared by the tests here."""

import shutil

import pytest

from launch import evaluate, make_sids, prepare, prepare_text, train, train_tokenizer
from launch.wiring import program
from tests.once import made_once


def job_of(workdir, variant, changes):
    config = program.load_config_module("quickstart").get_config(variant)
    config.update_from_flattened_dict(changes)
    return program.Job(config, workdir, workdir / "runs" / config.name)


def report_of(job):
    prepare.main(job)
    make_sids.make(job)
    result = train.run_training(job)
    assert not result.interrupted
    return evaluate.run_evaluation(job)


@pytest.fixture(scope="session")
def run_chain(tmp_path_factory):
    """A function from a quickstart variant and changed fields to its job and report."""

    def run(variant, **changes):
        job = job_of(tmp_path_factory.mktemp("chain"), variant, changes)
        return job, report_of(job)

    return run


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The smoke run: job and report. Short prompts, which are of one width, are one search."""
    changes = {"loader.max_items": 4}
    made, report = made_once(
        tmp_path_factory, "smoke", lambda folder: report_of(job_of(folder, "smoke", changes))
    )
    workdir = tmp_path_factory.mktemp("smoke") / "W"
    shutil.copytree(made, workdir)
    return job_of(workdir, "smoke", changes), report


def text_job(workdir):
    config = program.load_config_module("text_quickstart").get_config("smoke")
    return program.Job(config, workdir, workdir / "runs" / config.name)


def text_report_of(job):
    prepare_text.main(job)
    train_tokenizer.main(job)
    assert train.run_training(job).reason == "finished"
    return evaluate.run_evaluation(job)


@pytest.fixture(scope="session")
def text_smoke(tmp_path_factory):
    """The smoke run of a language model of one's own: job and report."""
    made, report = made_once(
        tmp_path_factory, "text_smoke", lambda folder: text_report_of(text_job(folder))
    )
    workdir = tmp_path_factory.mktemp("text_smoke") / "W"
    shutil.copytree(made, workdir)
    return text_job(workdir), report
