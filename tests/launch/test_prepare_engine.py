"""Which engine launch.prepare hands on, and what it refuses."""

import os
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from launch import prepare
from pipelines.prepare.ordered_log import order_in_memory
from pipelines.spark.session import missing


def test_the_flags_name_the_engine():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["prepare"])
    assert prepare.engine_from_flags() is order_in_memory
    if problem := missing():
        pytest.skip(problem)
    from pipelines.spark.engine import SparkEngine

    conf = ["spark.driver.memory=3g", "spark.driver.extraJavaOptions=-Dx=y"]
    with flagsaver.flagsaver(engine="spark", spark_master="local[3]", spark_conf=conf):
        assert prepare.engine_from_flags() == SparkEngine(
            "local[3]",
            {"spark.driver.memory": "3g", "spark.driver.extraJavaOptions": "-Dx=y"},
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spark_master=local[2]"], "--spark_master needs --engine=spark"),
        (["--engine=spark", "--spark_conf=x"], "--spark_conf=x: it must be NAME=VALUE"),
        (["--engine=spark"], "--engine=spark: Spark needs "),
    ],
)
def test_what_cannot_be_is_told_in_one_line_before_anything_is_read(arguments, message, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launch.prepare", "--config=quickstart"),
            *(f"--workdir={tmp_path / 'w'}", *arguments),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "JAVA_HOME": str(tmp_path / "nowhere")},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "w").exists()
