"""What README.md shows runs as written."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_kernel_example_runs_as_written(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    comments = re.findall(r"print\(.*\)  # (.*)", example)
    assert done.stdout.splitlines() == comments


def test_every_launcher_that_is_shown_is_there():
    shown = set(re.findall(r"python -m (launch\.\w+)", README))
    assert {"launch.prepare", "launch.train", "launch.evaluate", "launch.recommend"} <= shown
    for module in shown:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
