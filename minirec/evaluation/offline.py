"""HR@K and NDCG@K of a predictions file, counted as MiniOneRec's `calc.py` counts them.

The file is `[{"predict": [sid, …], "output": sid | [sid]}, …]`, one user a row: what
`minirec.evaluation.predictions` writes, and what MiniOneRec's evaluation writes (SIDs with a line
end and quotes around them, beside other fields). A SID is text, or a list of its tokens.

Three rules are MiniOneRec's and differ from what one might expect:

- SIDs are compared as text, so that anything a model has written can be counted as a miss.
- A repeated prediction keeps its place: nothing moves up. (`minirec.evaluation.sid_ranks` lets a
  repeated SID count once. A constrained search repeats none, so that the two agree on its files.)
- `calc.py` stops looking at a list where the target stands. `invalid` counts all predictions that
  no item has; `invalid_before_target` is the count that `calc.py` prints.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from minirec import files
from minirec.evaluation.metrics import KS, metrics_at
from minirec.evaluation.ranks import NOT_FOUND
from minirec.sids.table import parse_token

_AROUND = ' \t\r\n"'
_TOKENS = "a SID such as '<a_12><b_3>' or a list of its tokens"


@dataclasses.dataclass(frozen=True)
class OfflineMetrics:
    """What a predictions file tells.

    Attributes:
        metrics: `{"hr@1": …, "ndcg@1": …, …}` at SID level, for each of `KS` up to `candidates`.
        users: rows of the file.
        candidates: predictions of the first row, or of the longest where rows may differ.
        invalid: predictions that are not in the catalogue, over all rows.
        invalid_before_target: those of them that stand before the target, or in a list without it.
        unknown_targets: rows whose target is not in the catalogue, which no search can find.
    """

    metrics: dict[str, float]
    users: int
    candidates: int
    invalid: int
    invalid_before_target: int
    unknown_targets: int

    def lines(self) -> list[str]:
        """Returns `hr@1=0.0421`, …, `users=4533`, `invalid=0`, one line a figure."""
        counts = dataclasses.asdict(self)
        metrics = counts.pop("metrics")
        return [
            *(f"{name}={value:.4f}" for name, value in metrics.items()),
            *(f"{name}={value}" for name, value in counts.items()),
        ]


def offline_metrics(
    rows: Any, catalogue: Set[str], *, where: str, allow_short: bool = False
) -> OfflineMetrics:
    """Returns the metrics of predictions that were read from JSON.

    Args:
        rows: the JSON value.
        catalogue: every SID that is an item's, as text.
        where: what the rows come from, for errors.
        allow_short: let rows hold different numbers of predictions. A search writes a shorter list
            where it found a user fewer SIDs than it has beams.

    Raises:
        ValueError: no rows or no predictions, a row that is not as described above, rows of
            different lengths, or targets of which none is in the catalogue. The message names
            `where` and the row, from 0.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{where}: holds {_kind(rows)}; expected a list of rows, one a user")
    if not rows:
        raise ValueError(f"{where}: the list is empty; expected a row a user")
    predicted, targets = [], []
    for index, row in enumerate(rows):
        predictions, target = _read_row(row, f"{where}: row {index}")
        if not predictions and not allow_short:
            raise ValueError(f"{where}: row {index} has no predictions; expected at least one")
        if predicted and len(predictions) != len(predicted[0]) and not allow_short:
            raise ValueError(
                f"{where}: row {index} has {len(predictions)} predictions, row 0 has "
                f"{len(predicted[0])}; all rows must have as many (--allow_short lets them differ, "
                "as where a search finds a user fewer SIDs than it has beams)"
            )
        predicted.append(predictions)
        targets.append(target)
    candidates = max(map(len, predicted))
    if not candidates:
        raise ValueError(f"{where}: no row has predictions; expected at least one")
    unknown = sum(target not in catalogue for target in targets)
    if unknown == len(targets):
        raise ValueError(
            f"{where}: no target is in the catalogue of {len(catalogue)} SIDs, such as "
            f"{min(catalogue)!r}; row 0 asks for {targets[0]!r}. Does it belong to these "
            "predictions?"
        )
    ranks = np.full(len(rows), NOT_FOUND, np.int32)
    invalid = before_target = 0
    for index, (predictions, target) in enumerate(zip(predicted, targets, strict=True)):
        wrong = [place for place, sid in enumerate(predictions) if sid not in catalogue]
        if target in predictions:
            found = ranks[index] = predictions.index(target)
            before_target += sum(place <= found for place in wrong)
        else:
            before_target += len(wrong)
        invalid += len(wrong)
    return OfflineMetrics(
        metrics=metrics_at(ranks, [k for k in KS if k <= candidates]),
        users=len(rows),
        candidates=candidates,
        invalid=invalid,
        invalid_before_target=before_target,
        unknown_targets=unknown,
    )


def read_catalogue_sids(path: str | os.PathLike[str]) -> frozenset[str]:
    """Returns every SID of a catalogue, as text.

    Args:
        path: a `sids.json` (its name ends in `.json`), or MiniOneRec's info file: a line an item,
            `SID<TAB>title<TAB>item id`, of which only the SID is used.

    Raises:
        ValueError: a file without items, or a line or item that is not as described; the message
            names it.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.suffix == ".json":
        sids = files.read_json(path, dict)
        found = {_text(sid, f"{path}: item {name!r}: SID") for name, sid in sids.items()}
    else:
        found = set(read_info_sids(path))
    if not found:
        raise ValueError(f"{path}: holds no items; expected at least one")
    return frozenset(found)


def read_info_sids(path: str | os.PathLike[str]) -> list[str]:
    """Returns the SIDs of MiniOneRec's info file, an item each, in its order.

    Raises:
        ValueError: the file is not text, or a line is not `SID<TAB>title<TAB>item id`; the message
            names it.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from error
    sids = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        sid, tab, _ = line.partition("\t")
        if not tab or not sid.strip():
            raise ValueError(
                f"{path}: line {number}: {_shown(line)}; expected SID<TAB>title<TAB>item id"
            )
        sids.append(sid.strip())
    return sids


def _read_row(row: Any, where: str) -> tuple[list[str], str]:
    """Returns predictions and target of a row, without what stands around them."""
    if not isinstance(row, dict):
        raise ValueError(f'{where} is {_kind(row)}; expected {{"predict": […], "output": …}}')
    for field in ("predict", "output"):
        if field not in row:
            raise ValueError(f"{where} has no {field!r}; its fields are {sorted(row)}")
    if not isinstance(row["predict"], list):
        raise ValueError(f"{where}: 'predict' is {_kind(row['predict'])}; expected a list")
    predictions = [
        _text(sid, f"{where}: 'predict'[{place}]") for place, sid in enumerate(row["predict"])
    ]
    output = row["output"]
    if isinstance(output, list) and len(output) == 1:
        (output,) = output
    elif isinstance(output, list) and not _are_tokens(output):
        raise ValueError(
            f"{where}: 'output' has {len(output)} answers: {_shown(output)}; expected one"
        )
    target = _text(output, f"{where}: 'output'")
    if not target:
        raise ValueError(f"{where}: 'output' is empty; expected {_TOKENS}")
    return predictions, target


def _text(sid: Any, where: str) -> str:
    if isinstance(sid, str):
        return sid.strip(_AROUND)
    if isinstance(sid, list) and _are_tokens(sid):
        return "".join(token.strip(_AROUND) for token in sid)
    raise ValueError(f"{where} is {_shown(sid)}; expected {_TOKENS}")


def _are_tokens(value: list[Any]) -> bool:
    """Returns whether these are the tokens of one SID: text, none of it several tokens.

    Where they are spelled as tokens are, their levels follow one another; else it is several SIDs.
    """
    if not value or not all(
        isinstance(token, str) and token.strip(_AROUND) and token.count("<") <= 1 for token in value
    ):
        return False
    parsed = [parse_token(token.strip(_AROUND)) for token in value]
    return None in parsed or [level for level, _ in filter(None, parsed)] == list(range(len(value)))


def _shown(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), "a number")


EXAMPLE_ROWS: Sequence[dict[str, Any]] = (
    {
        "predict": [f"<a_{code}><b_1><c_0>\n" for code in range(10)],
        "output": "<a_0><b_1><c_0>\n",
    },
    {
        "predict": [f"<a_{code}><b_1><c_0>" for code in (3, 2, 1, 0, 4, 5, 6, 7, 8, 99)],
        "output": ['"<a_2><b_1><c_0>"'],
    },
    {
        "predict": [[f"<a_{code}>", "<b_1>", "<c_0>"] for code in range(10)],
        "output": ["<a_11>", "<b_1>", "<c_0>"],
    },
)
"""Three users: the target first, second, and not found; one prediction is not in the catalogue."""

EXAMPLE_CATALOGUE = frozenset(f"<a_{code}><b_1><c_0>" for code in range(12))
"""The catalogue that `EXAMPLE_ROWS` are of."""
