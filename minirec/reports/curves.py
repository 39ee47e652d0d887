"""Training curves, read from a run's `metrics.jsonl`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minirec.files import read_json_lines
from minirec.files.schema import is_number

Curve = tuple[list[float], list[float]]
"""Steps and values."""

_LOSS = "loss"
_VALIDATION_PREFIX = "eval/"


@dataclasses.dataclass(frozen=True)
class Curves:
    """What a training run logged.

    Attributes:
        loss: training loss by step.
        validation: by metric name (`"ndcg@10"`), validation metrics by step.
    """

    loss: Curve = ([], [])
    validation: Mapping[str, Curve] = dataclasses.field(default_factory=dict)


def read_curves(path: str | os.PathLike[str]) -> Curves:
    """Returns the curves in a file of JSON lines; none where the file is not there.

    A line holds `step` and any of `loss` and `eval/<metric>`; other keys are passed over. So is a
    last line that a killed run left unfinished.

    Raises:
        ValueError: a whole line is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return Curves()
    return curves_of(row for _, row in read_json_lines(path, dict, may_be_cut=True))


def curves_of(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """Returns the curves of rows as `metrics.jsonl` holds them; a later row of a step wins."""
    loss: dict[float, float] = {}
    validation: dict[str, dict[float, float]] = {}
    for row in rows:
        step = _number(row.get("step"))
        if step is None:
            continue
        for key, value in row.items():
            value = _number(value)
            if value is None:
                continue
            if key == _LOSS:
                loss[step] = value
            elif key.startswith(_VALIDATION_PREFIX):
                name = key.removeprefix(_VALIDATION_PREFIX)
                validation.setdefault(name, {})[step] = value
    return Curves(_sorted(loss), {name: _sorted(curve) for name, curve in validation.items()})


def _sorted(curve: Mapping[float, float]) -> Curve:
    steps = sorted(curve)
    return steps, [curve[step] for step in steps]


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None
