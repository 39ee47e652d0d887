"""Metrics of a predictions file: `python -m launch.metrics --predictions=P.json --item_info=I`.

HR@K and NDCG@K at SID level of `[{"predict": [sid, …], "output": sid}, …]`, as a run's
report/predictions.json and MiniOneRec's evaluation hold them; K is 1, 3, 5, 10, 20, 50 up to the
number of predictions of the first row (of the longest with `--allow_short`). `--item_info` is a
sids.json or MiniOneRec's info file (`SID<TAB>title<TAB>item id` a line), and predictions that are
no item's are counted. Repeated predictions keep their places, as in MiniOneRec's calc.py.

`--dry_run` shows a built-in example of three users and reads no file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from absl import flags

from launch.wiring import program, verbs
from minirec import files
from minirec.evaluation import offline

_PREDICTIONS = flags.DEFINE_string("predictions", None, "The predictions, a JSON file.")
_ITEM_INFO = flags.DEFINE_string(
    "item_info", None, "The catalogue: a sids.json, or SID<TAB>title<TAB>item id a line."
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write the figures to, if any.")
_ALLOW_SHORT = flags.DEFINE_bool(
    "allow_short", False, "Let rows hold different numbers of predictions."
)
flags.adopt_module_key_flags(verbs)


def run_metrics(
    predictions: str | os.PathLike[str],
    item_info: str | os.PathLike[str],
    *,
    allow_short: bool = False,
) -> offline.OfflineMetrics:
    """Returns the metrics of the predictions in a file.

    Raises:
        ValueError: a file is not as it should be; the message names file and row.
        DamagedError: the predictions lie in a run's report, and are not as they were written.
    """
    predictions = Path(predictions)
    if (predictions.parent / files.CHECKSUMS).is_file():
        names = [predictions.name]
        files.check_folder(predictions.parent, names, remedy="evaluate the run again")
    return offline.offline_metrics(
        files.read_json(predictions, foreign=True),
        offline.read_catalogue_sids(item_info),
        where=str(predictions),
        allow_short=allow_short,
    )


def main() -> None:
    """Prints the metrics, a line each, and writes them where that is asked for."""
    if verbs.DRY_RUN.value:
        for row in offline.EXAMPLE_ROWS:
            print(f"# {json.dumps(row)}")
        result = offline.offline_metrics(
            list(offline.EXAMPLE_ROWS), offline.EXAMPLE_CATALOGUE, where="the example"
        )
    else:
        if not _PREDICTIONS.value:
            raise program.UsageError("--predictions is missing: name a predictions.json")
        if not _ITEM_INFO.value:
            raise program.UsageError("--item_info is missing: name a sids.json or an info file")
        result = run_metrics(_PREDICTIONS.value, _ITEM_INFO.value, allow_short=_ALLOW_SHORT.value)
    for line in result.lines():
        print(line)
    if _OUTPUT.value and not verbs.DRY_RUN.value:
        files.write_json(_OUTPUT.value, dataclasses.asdict(result))


if __name__ == "__main__":
    program.start(main, verbs.underscored(sys.argv))
