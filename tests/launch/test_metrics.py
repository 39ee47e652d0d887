"""`launch.metrics`: figures on stdout, mistakes in one line."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.metrics", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_the_dry_run_shows_an_example_and_its_figures():
    done = launch("--dry_run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    examples = [json.loads(line[1:]) for line in lines if line.startswith("#")]
    assert len(examples) == 3
    # Ranks 0, 1 and none: (1 + 1 / log2(3)) / 3.
    assert {"hr@1=0.3333", "hr@10=0.6667", "ndcg@10=0.5436", "users=3", "invalid=1"} <= set(lines)


def test_files_give_lines_and_json_and_a_mistake_names_file_and_row(tmp_path):
    predictions, info, output = tmp_path / "p.json", tmp_path / "i.txt", tmp_path / "out.json"
    rows = [{"predict": ["<a_1>\n", "<a_2>\n", "<a_3>\n"], "output": "<a_2>\n", "category": "x"}]
    predictions.write_text(json.dumps(rows))
    info.write_text("<a_1>\tx\t0\n<a_2>\ty\t1\n")
    flags = [f"--predictions={predictions}", f"--item_info={info}", f"--output={output}"]
    done = launch(*flags)
    assert done.returncode == 0, done.stderr
    assert {"hr@1=0.0000", "hr@3=1.0000", "ndcg@3=0.6309", "invalid=1"} <= set(
        done.stdout.splitlines()
    )
    assert json.loads(output.read_text())["metrics"]["hr@3"] == 1
    predictions.write_text(json.dumps([*rows, {"predict": ["<a_1>"], "output": "<a_1>"}]))
    done = launch(*flags)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {predictions}: row 1 has 1")
