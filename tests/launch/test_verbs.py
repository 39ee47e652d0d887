"""Flags of all programs, and how those with verbs read a command line."""

import importlib
import pathlib

import pytest
from absl import flags

from launch.wiring import verbs

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_no_two_programs_define_one_flag():
    for path in sorted((ROOT / "launch").rglob("*.py")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert "dry_run" in flags.FLAGS


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--dry-run", "--dry_run"),
        ("--nodry-run", "--nodry_run"),
        ("--dry-run=true", "--dry_run=true"),
        ("--print-config=a-b", "--print_config=a-b"),
        ("--config.a-b=1", "--config.a-b=1"),
        ("--no-such=1", "--no-such=1"),
        ("a-b", "a-b"),
        ("--", "--"),
    ],
)
def test_known_flags_may_be_spelled_with_dashes(given, read):
    assert verbs.underscored([given]) == [read]
