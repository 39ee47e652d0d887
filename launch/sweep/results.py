"""The lines that a sweep keeps of its runs: one a finished run, and one a run that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minirec import files
from minirec.files.schema import COUNT, NUMBER, Kind, check, is_number
from minirec.reports.seeds import METRICS

RESULTS, FAILURES, RECORD = "results.jsonl", "failed.jsonl", "sweep.json"
# What a report and a line of results say of how good a run is, and by what code.
_PAIR = Kind(
    "two numbers",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(is_number, value)),
)
_METRICS = {"item": dict.fromkeys(METRICS, NUMBER)}
_INTERVALS = {"item": dict.fromkeys(METRICS, _PAIR)}
_SCORES = {
    "users": COUNT,
    "metrics": {str: _METRICS},
    "intervals": {str: _INTERVALS},
    "chosen_on?": {str: COUNT},
    "health?": (dict, None),
}
_CODE = {"commit": (str, None), "uncommitted_changes": (bool, None)}
_LINE_REMEDY = "remove the line: the same command makes it anew from its run"


def read_lines(path: Path, shape: Any = None) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the lines of a file by run and split.

    Args:
        path: the file.
        shape: what its lines are, beside run and split; None: results.

    Raises:
        ValueError: a line that is damaged, or not as described.
    """
    if not path.is_file():
        return {}
    found = {}
    for number, line in files.read_json_lines(path):
        where = f"{path}, line {number}"
        line = files.unseal(line, where, _LINE_REMEDY)
        check(line, {"run": str, "split": str, **(shape or _CODE)}, where)
        if shape is None:
            check_scores(line, where)
        found[line["run"], line["split"]] = line
    return found


def write_lines(path: Path, lines: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """Writes lines by run and split, each with what tells whether it is whole."""
    texts = [
        json.dumps(files.seal(line), ensure_ascii=False, allow_nan=False) for line in lines.values()
    ]
    files.write_text(path, "".join(f"{text}\n" for text in texts))


def check_scores(scores: Mapping[str, Any], where: str) -> None:
    """Raises ValueError unless what a report or a line says of its users is as rows need it."""
    check(scores, _SCORES, where)
    check(scores["intervals"], dict.fromkeys(scores["metrics"], dict), f"{where}: intervals")
