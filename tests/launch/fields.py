"""Goes through every field of a config: what is refused by the steps after the one it shapes."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from launch import make_sids, train
from launch.wiring import made_with
from launch.wiring.experiment import experiment_of


def changed(job, field, value):
    config = job.config.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    return dataclasses.replace(job, config=config)


def flat(config, name=""):
    for key, value in config.items():
        field = f"{name}.{key}" if name else key
        if isinstance(value, ConfigDict):
            yield from flat(value, field)
        else:
            yield field, value


def another(value):
    """A value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 7
        case str():
            return f"{value}x"
        case tuple() | list():
            return (*value, *value[:1]) or ("x",)
    raise TypeError(value)


def refused_fields(job, skip=()):
    """Changes each field of a job that has run, and returns those that later steps refuse.

    Fields to skip are of steps that are none of the run's.

    All others must be said to change nothing, or to shape an evaluation alone.
    """
    refused = set()
    free = (*made_with.CHANGE_NOTHING, *made_with.EVALUATION)
    for field, value in flat(job.config):
        if made_with.is_in(field, (*free, *skip)):
            continue
        other = changed(job, field, another(value))
        with pytest.raises(ValueError, match=rf"config\.{field}\b.* there, .* now") as raised:
            experiment_of(other.config).load(other)
        assert "launch." in str(raised.value) or "--run" in str(raised.value)
        if made_with.is_in(field, ("data",)):
            steps = [make_sids.make] if "sids" in job.config else []
            for step in (*steps, train.run_training):
                with pytest.raises(ValueError, match=rf"manifest\.json: config\.{field} is "):
                    step(other)
        if made_with.is_in(field, ("sids",)):
            with pytest.raises(ValueError, match=rf"sids_report\.json: config\.{field} is "):
                train.run_training(other)
        refused.add(field)
    return refused
