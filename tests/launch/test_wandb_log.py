"""What goes to Weights & Biases, told by a stand-in for its module; nothing here has a network."""

import json
import sys
import types

import pytest

from launch import sft
from launch.wiring import program, wandb_log

KEY = "WANDB_API_KEY"


class Wandb(types.ModuleType):
    """Takes what it is told."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.exit_codes = [], [], []

    def Settings(self, **fields):
        return fields

    def init(self, **fields):
        self.started.append(fields)
        self.url = "https://wandb.example/run" if fields["mode"] == "online" else None
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code=0):
        self.exit_codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv(KEY, raising=False)
    return module


def config(mode):
    config = program.load_config_module("sid_sft").get_config("smoke")
    config.wandb.mode = mode
    return config


def test_online_without_a_key_is_an_error_before_anything_is_written(wandb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = program.Job(config("online"), tmp_path / "w", tmp_path / "w" / "runs" / "x")
    with pytest.raises(ValueError, match=rf"mode='online' needs a key: set {KEY}"):
        sft.main(job)
    assert not list(tmp_path.iterdir())
    assert not wandb.started


@pytest.mark.parametrize("place", ["environment", "file"])
def test_online_takes_the_key_and_writes_it_nowhere(place, wandb, tmp_path, monkeypatch, capsys):
    dotenv = tmp_path / ".env"
    if place == "environment":
        monkeypatch.setenv(KEY, "secret")
    else:
        dotenv.write_text(f"# mine\n\nOTHER=1\nexport {KEY}='secret'\n")
    run = tmp_path / "run"
    wandb_log.check(config("online"), dotenv)
    for _ in range(2):
        with wandb_log.started(config("online"), run, dotenv) as log:
            log({"kind": "train", "step": 3, "loss": 1.5, "stage": "sft"})
            log({"kind": "eval", "step": 4, "eval/hr@10": 0.25, "is_best": True})
    first, second = wandb.started
    assert capsys.readouterr().out == "wandb=https://wandb.example/run\n" * 2
    assert first["settings"]["api_key"] == "secret"
    assert (first["mode"], first["id"]) == ("online", second["id"]), "a run that goes on is one run"
    assert first["config"]["train"]["num_steps"] == 60
    assert wandb.logged[:2] == [
        (3, {"train/loss": 1.5}),
        (4, {"eval/hr@10": 0.25, "eval/is_best": True}),
    ]
    assert wandb.exit_codes == [0, 0]
    assert "secret" not in json.dumps(first["config"])
    assert all("secret" not in path.read_text() for path in run.iterdir())


def test_offline_needs_no_key_and_disabled_nothing(wandb, tmp_path, monkeypatch):
    wandb_log.check(config("offline"), tmp_path / ".env")
    with wandb_log.started(config("offline"), tmp_path) as log:
        assert log is not None
    assert wandb.started[0]["mode"] == "offline"
    assert wandb.started[0]["settings"]["api_key"] is None
    monkeypatch.setitem(sys.modules, "wandb", None)
    wandb_log.check(config("disabled"))
    with wandb_log.started(config("disabled"), tmp_path) as log:
        assert log is None
    with pytest.raises(ValueError, match=r"mode='offline' needs wandb: pip install"):
        wandb_log.check(config("offline"))


def test_a_run_that_failed_is_told_so(wandb, tmp_path):
    with pytest.raises(KeyError), wandb_log.started(config("offline"), tmp_path):
        raise KeyError
    assert wandb.exit_codes == [1]


def test_mistakes_are_named_and_no_value_is_shown(tmp_path):
    with pytest.raises(ValueError, match=r"mode='on': must be one of online, offline, disabled"):
        wandb_log.check(config("on"))
    (tmp_path / ".env").write_text("A=1\nsecret\n")
    with pytest.raises(ValueError, match=r"\.env, line 2: must be NAME=VALUE$"):
        wandb_log.read_dotenv(tmp_path / ".env")


def test_a_file_of_variables_that_is_no_text_is_named_and_not_shown(tmp_path):
    path = tmp_path / ".env"
    path.write_bytes(b"WANDB_API_KEY=secret\xff")
    with pytest.raises(ValueError, match=f"{path}: not a text file") as error:
        wandb_log.read_dotenv(path)
    assert "secret" not in str(error.value)
