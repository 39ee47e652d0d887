"""The quickstart's worlds through the whole chain, in this process; shared by the tests here."""

import pytest

from launch import evaluate, make_sids, prepare, train
from launch.wiring import program


@pytest.fixture(scope="session")
def run_chain(tmp_path_factory):
    """A function from a quickstart variant and changed fields to its job and report."""

    def run(variant, **changes):
        config = program.load_config_module("quickstart").get_config(variant)
        config.update_from_flattened_dict(changes)
        workdir = tmp_path_factory.mktemp(config.name)
        job = program.Job(config, workdir, workdir / "runs" / config.name)
        prepare.main(job)
        make_sids.make(job)
        result = train.run_training(job)
        assert not result.interrupted
        return job, evaluate.run_evaluation(job)

    return run


@pytest.fixture(scope="session")
def smoke(run_chain):
    """The smoke run: job and report. Short prompts, which are of one width, are one search."""
    return run_chain("smoke", **{"loader.max_items": 4})
