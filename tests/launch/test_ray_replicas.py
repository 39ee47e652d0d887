import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from launch.wiring import ray_replicas, ray_scale
from launch.wiring.answering import Settings
from launch.wiring.program import UsageError

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

SETTINGS = Settings(0, 1, 0.0, 1.0, False)


def test_fewer_replicas_at_most_than_at_least_are_refused():
    with pytest.raises(UsageError, match=r"--max_replicas=2: must be at least --replicas=3"):
        ray_scale.Scale(replicas=3, max_replicas=2)


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"ray is missing: .*pip install 'minirec\[serve,ray\]'"):
        ray_replicas.started(None, SETTINGS, ray_scale.Scale())


def test_what_only_replicas_have_a_use_for_is_not_ignored():
    with (
        flagsaver.as_parsed(replicas="2", replica_gpus="1"),
        pytest.raises(UsageError, match="--replicas, --replica_gpus: of --engine=ray only"),
    ):
        ray_scale.from_flags("local", 1.0)
    with (
        flagsaver.as_parsed(target_ongoing="8"),
        pytest.raises(UsageError, match="--target_ongoing: of --max_replicas only"),
    ):
        ray_scale.from_flags("ray", 1.0)
    with flagsaver.as_parsed(replicas="2", max_replicas="4", target_ongoing="8"):
        scale = ray_scale.from_flags("ray", 1.0)
    assert (scale.replicas, scale.max_replicas, scale.target_ongoing) == (2, 4, 8.0)
