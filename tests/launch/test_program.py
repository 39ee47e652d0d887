"""Flags and configs: names resolve, mistakes are told apart from crashes."""

import contextlib
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import ConfigDict

from configs import blocks, language_blocks, text_blocks
from launch import train
from launch.wiring import program
from tests.launch.programs import Programs

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = sorted(program.experiments())
FAMILIES = {
    "sid": blocks.sid,
    "feed": blocks.feed,
    "language": language_blocks.language,
    "watch": language_blocks.watch,
    "text": text_blocks.text,
}


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Runs a program as `python -m launch.VERB` does."""
    with contextlib.closing(Programs(tmp_path_factory.mktemp("programs"))) as programs:
        yield programs


def test_a_config_is_found_by_name_with_its_variant():
    resolved = program.resolve_config_names(["x", "--config.seed=3", "--config=quickstart:smoke"])
    assert resolved[1].endswith("configs/quickstart.py:smoke")
    assert resolved[2] == "--config.seed=3"
    resolved = program.resolve_config_names(["x", "--config", "sid_sft"])
    assert resolved[1].endswith("configs/sid_sft.py")


def test_an_unknown_config_is_an_error_that_lists_the_known(launch):
    with pytest.raises(program.UsageError, match=r"known are amazon_beauty, [^_]") as raised:
        program.config_path("amazon_beuaty")
    assert not {"blocks", "prompts", "parts"} & set(str(raised.value).replace(",", "").split())
    with pytest.raises(program.UsageError, match=r"--config=blocks: there is no such config"):
        program.config_path("blocks")  # What experiments are composed of is none.
    done = launch("prepare", "--config=no_such", "--workdir=w")
    assert done.returncode == 2
    assert "no_such" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_that_is_not_there_is_refused():
    with flagsaver.flagsaver():
        for wanted in ("gpu", "tpu"):
            flags.FLAGS(["train", f"--require_backend={wanted}"])
            with pytest.raises(program.UsageError, match=f"={wanted}: JAX runs on 'cpu' here"):
                train.require_backend()


@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_the_fields_of_its_family(name):
    module = program.load_config_module(name)
    family = module.get_config().family
    base = FAMILIES[family]("base")
    for variant in getattr(module, "VARIANTS", ("",)):
        config = module.get_config(variant) if variant else module.get_config()
        assert isinstance(config, ConfigDict)
        assert set(config) == set(base), f"{name}:{variant}"
        for section in ("sids", "loader", "model", "train", "mesh", "search", "evaluate"):
            if section in base:  # Not every family has all of them.
                assert set(config[section]) == set(base[section]), f"{name}:{variant}, {section}"
        assert module.__doc__


VERBS = ("prepare", "make_sids", "compare_sids", "train", "evaluate", "recommend")


@pytest.mark.parametrize("verb", VERBS)
def test_print_config_prints_and_does_nothing(launch, verb, tmp_path):
    done = launch(verb, "--config=quickstart", "--print_config", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 0, done.stderr
    assert "num_beams: 50" in done.stdout
    assert not (tmp_path / "w").exists()


def test_the_quickstart_needs_no_flags_and_takes_changes(launch):
    done = launch("quickstart", "--config.train.num_steps=7", "--print_config")
    assert "num_steps: 7" in done.stdout
    assert "name: generated" in done.stdout


def test_the_benchmarks_are_listed_without_running(launch):
    done = launch("bench", "--print_config")
    listed = "trie beam_step decode head_beam_step loader rq_kmeans content prepare"
    listed += " prepare_spark evaluate generate training sft_training slice_memory scale serving"
    listed += " index tasks event_store text_training generate_text"
    listed += " ranker feed"
    assert done.stdout.split() == listed.split()
    done = launch("bench", "--only=tire")
    assert done.returncode == 2
    assert "known are trie" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=quickstart:smok"], "variant 'smok'"),
        (["--config=quickstart", "--config.train.num_stps=3"], "num_stps"),
        (["--config=quickstart", "--workdir="], "--workdir is missing"),
        (["--config=quickstart", "--run=../x"], "--run='../x'"),
        (["--config=amazon_beauty"], "MINIREC_DATA"),
        (["--config=quickstart", "--workdir=/dev/null/w"], "/dev/null"),
        (["--config=quickstart", "--workdir=/dev/null/\udce9"], "cannot be told in UTF-8"),
        (["--config=quickstart", "surplus"], "unexpected arguments: surplus"),
    ],
)
def test_a_mistake_is_told_in_one_line(launch, arguments, message, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIREC_DATA", raising=False)
    workdir = [] if "--workdir" in " ".join(arguments) else [f"--workdir={tmp_path / 'w'}"]
    done = launch("prepare", *arguments, *workdir)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


_ENDS = """
import os
import numpy as np
from launch.wiring import program

def deep():
    deep()

for body in (lambda: np.ones(1 << 58, np.int8), deep):
    for traceback in ("", "1"):
        os.environ["MINIREC_TRACEBACK"] = traceback
        try:
            program.start(body, ["x"])
        except SystemExit as end:
            print(end.code)
        except Exception as error:
            print(type(error).__name__)
"""


def test_too_little_memory_and_too_deep_nesting_are_told_in_one_line():
    done = subprocess.run([sys.executable, "-c", _ENDS], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["2", "MemoryError", "2", "RecursionError"]
    memory, nested = done.stderr.splitlines()
    assert memory.startswith("error: out of memory: Unable to allocate ")
    assert nested.startswith("error: something is nested too deep: ")


def test_fields_that_are_not_in_the_base_cannot_be_set():
    config = program.load_config_module("amazon_beauty").get_config()
    with pytest.raises((AttributeError, KeyError)):
        config.search.exclude_sen = False


def test_a_missing_workdir_is_told_in_one_line():
    command = [sys.executable, "-m", "launch.prepare", "--config=quickstart"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --workdir is missing")
