"""What `--grid` means, and what is wrong with it; nothing is trained."""

import json

import pytest

from launch.sweep.grid import read_grid
from launch.wiring import program


@pytest.fixture(scope="module")
def config():
    return program.load_config_module("quickstart").get_config("smoke")


def test_a_grid_is_the_product_of_its_fields_and_seeds_are_no_setting(config):
    settings = read_grid("model.dropout=0.2,1;train.label_smoothing=0,0.1;seed=0,1,2", config)
    assert [tuple(setting.fields.values()) for setting in settings] == [
        *((0.2, 0.0), (0.2, 0.1), (1.0, 0.0), (1.0, 0.1)),
    ]
    assert {setting.seeds for setting in settings} == {(0, 1, 2)}
    changed = settings[1].config(config, 2)
    assert (changed.model.dropout, changed.train.label_smoothing, changed.seed) == (0.2, 0.1, 2)
    assert (config.model.dropout, config.seed) == (0.0, 0)


def test_values_have_the_types_of_their_fields(config):
    given = (
        "sids.codebook_sizes=(8,8),(16,);sids.vectors=text,'a,b;c';model.remat=true,False;"
        "train.num_steps=10;train.learning_rate=1e-3"
    )
    settings = read_grid(given, config)
    assert settings[0].fields["sids.codebook_sizes"] == (8, 8)
    assert settings[-1].fields["sids.codebook_sizes"] == (16,)
    assert settings[-1].fields["sids.vectors"] == "a,b;c"
    assert settings[0].fields["model.remat"] is True
    assert settings[-1].fields["model.remat"] is False
    assert isinstance(settings[0].fields["train.num_steps"], int)
    assert settings[0].seeds == (config.seed,)


def test_a_k_core_is_one_number_or_two(config):
    settings = read_grid("data.k_core=5,(5,10),0", config)
    assert [setting.fields["data.k_core"] for setting in settings] == [5, (5, 10), 0]
    changed = settings[1].config(config, 0)
    assert changed.data.k_core == (5, 10)
    assert read_grid("data.k_core=(2,3)", changed)[0].config(changed, 1).data.k_core == (2, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data.k_core=many", "data.k_core=many: must be a whole number"),
        ("data.k_core=(5,1.5)", "data.k_core=1.5: must be a whole number"),
        ("", "must be FIELD=VALUE"),
        ("model.dropout", "'model.dropout' must be FIELD=VALUE"),
        ("model.dropout=", "model.dropout=: a value is missing"),
        ("model.dropout=0.1,,0.2", "model.dropout=0.1,,0.2: a value is missing"),
        ("model.dropout=0.1;model.dropout=0.2", "model.dropout occurs twice"),
        ("model.dropout=0.1,0.10", "model.dropout: 0.10 occurs twice"),
        ("seed=0,1,0", "seed: 0 occurs twice"),
        ("seed=0.5", "seed=0.5: must be a whole number"),
        ("model.droput=0.1", "did you mean model.dropout"),
        ("model=0.1", "model holds the fields dropout, dtype"),
        ("model.dropout.p=0.1", "model.dropout.p is not a field"),
        ("name=a,b", "name is the experiment's name"),
        ("model.dropout=high", "model.dropout=high: must be a number"),
        ("model.dropout=inf", "model.dropout=inf: must be a number"),
        ("train.num_steps=1.5", "train.num_steps=1.5: must be a whole number"),
        ("train.num_steps=True", "train.num_steps=True: must be a whole number"),
        ("model.remat=1", "model.remat=1: must be true or false"),
        ("sids.codebook_sizes=8", "sids.codebook_sizes=8: must be a tuple"),
        ("sids.codebook_sizes=(8,a)", r"sids.codebook_sizes=\(8,a\): must be a tuple"),
        ("sids.codebook_sizes=(8,1.5)", "sids.codebook_sizes=1.5: must be a whole number"),
        ("sids.codebook_sizes=(8,8", "is not closed"),
        (f"seed={'(' * 5000}1{')' * 5000}", r"seed=.{60}…: must be a whole number"),
    ],
)
def test_a_mistake_in_a_grid_names_the_field(given, message, config):
    with pytest.raises(program.UsageError, match=message):
        read_grid(given, config)


def in_file(folder, content):
    path = folder / "settings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_file_lists_settings_that_are_no_product(tmp_path, config):
    entries = [
        {"name": "plain", "seed": [0, 1]},
        {"name": "small", "sids.codebook_sizes": [8, 8], "model.dropout": 0, "seed": 7},
        {"train.label_smoothing": 0.1},
    ]
    plain, small, smooth = read_grid(in_file(tmp_path, entries), config)
    assert (plain.name, plain.seeds, dict(plain.fields)) == ("plain", (0, 1), {})
    assert small.seeds == (7,)
    assert small.config(config, 7).sids.codebook_sizes == (8, 8)
    assert isinstance(small.fields["model.dropout"], float)
    assert smooth.seeds == (config.seed,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[\n{},", "settings.json: not a JSON file: .*line 2 column 4"),
        ("[" * 100_000, "settings.json: not a JSON file: nested deeper"),
        ([], "at least one"),
        ({"model.dropout": [0.1]}, "must be a list of settings"),
        ([0.1], "setting 0: 0.1 must be an object"),
        ([{"model.droput": 0.1}], "setting 0: model.droput is not a field"),
        ([{}, {"model.dropout": "0.1"}], "setting 1: model.dropout=0.1: must be a number"),
        ([{"train.num_steps": True}], "train.num_steps=True: must be a whole number"),
        ([{"seed": []}], "seed is an empty list"),
        ([{"seed": [1, 1]}], "seed: 1 occurs twice"),
        ([{"name": 3}], "name=3 must be text"),
        ([{"name": "a"}, {"name": "a", "model.dropout": 0.1}], "name='a' occurs twice"),
        ([{"seed": 0}, {"seed": 1}], "setting 1 .* is the same as setting 0"),
        ([{}, {"model.dropout": 0.0}], "setting 1 .model.dropout=0.0. is the same as setting 0"),
        ('[{"model.dropout": 0.1, "model.dropout": 0.2}]', "'model.dropout' stands there twice"),
    ],
)
def test_a_mistake_in_a_file_names_setting_and_field(content, message, tmp_path, config):
    with pytest.raises(program.UsageError, match=message):
        read_grid(in_file(tmp_path, content), config)


def test_a_file_that_is_not_there_is_named(tmp_path, config):
    with pytest.raises(program.UsageError, match=r"none\.json"):
        read_grid(str(tmp_path / "none.json"), config)
