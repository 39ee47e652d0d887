"""One making of rows for the benchmark `tasks`, in a process of its own so its memory is known.

    python -m launch.bench.tasks_measure FOLDER

FOLDER holds `settings.json`: `which` ("minirec" or "plain") and `tasks`, the settings of
`launch.tasks`. Prints a line of JSON: rows, seconds, peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from launch.bench.tasks_naive import make_rows
from minirec import files
from pipelines.text.watch_config import WatchConfig
from pipelines.text.watch_tasks import make_tasks


def measure(folder: Path) -> dict[str, Any]:
    """Returns rows, seconds and peak memory of one making; the imports' seconds are not in it."""
    settings = files.read_json(folder / "settings.json", {"which": str, "tasks": dict})
    config = WatchConfig.from_mapping(settings["tasks"])
    begin = time.perf_counter()
    if settings["which"] == "plain":
        rows = make_rows(config, folder / "plain.jsonl")
    else:
        rows = make_tasks(config, folder / "made")["rows"]
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rows": rows, "seconds": seconds, "peak_gb": round(peak, 2)}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
