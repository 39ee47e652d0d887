"""Several runs of a setting that differ in their seed: one row with means and intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from minirec.recommend import BASELINES

METRICS = ("hr@10", "ndcg@10")
"""What rows show, at item level; the last one sorts them."""
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval.

    Attributes:
        value: the mean over the seeds.
        low: lower end of the interval.
        high: upper end.
        over_seeds: whether the interval speaks of seeds; otherwise of users, by bootstrap.
    """

    value: float
    low: float
    high: float
    over_seeds: bool


Estimates = Mapping[str, Mapping[str, Estimate]]
"""By recommender, then by metric."""


@dataclasses.dataclass(frozen=True)
class SettingRow:
    """A setting and what its runs reached.

    Attributes:
        fields: the settings of the sweep's fields.
        name: what a person calls it; "" where nothing was said.
        num_seeds: runs that are finished.
        num_wanted: runs that were asked for.
        users: users of the evaluation; 0 where no run is finished.
        estimates: of the recommenders that were trained.
        baselines: of the others.
        errors: of runs that failed, one each.
        commits: what the runs were made with, where it is known: commits of the code, short, and
            whether files differed from them.
        chosen_on: by recommender, how many of the users chose what it is; see `Report`.
    """

    fields: Mapping[str, Any]
    name: str
    num_seeds: int
    num_wanted: int
    users: int
    estimates: Estimates
    baselines: Estimates
    errors: Sequence[str] = ()
    commits: Sequence[str] = ()
    chosen_on: Mapping[str, int] = dataclasses.field(default_factory=dict)


def seed_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Returns the interval of the mean by Student's t: mean -/+ t_{n-1} * s / sqrt(n).

    Args:
        values: a metric of n runs that differ in their seed, n >= 2.
        level: coverage wanted, where runs' values are about normal.

    Raises:
        ValueError: fewer than two values, which say nothing of their spread, or a level outside
            (0, 1).
    """
    if len(values) < 2:
        raise ValueError(f"values: {len(values)} of them; an interval over seeds needs two or more")
    if not 0 < level < 1:
        raise ValueError(f"level: {level}; must lie between 0 and 1")
    count = len(values)
    t = float(special.stdtrit(count - 1, (1 + level) / 2))
    half = t * float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    return mean - half, mean + half


def setting_row(
    results: Sequence[Mapping[str, Any]],
    *,
    fields: Mapping[str, Any],
    name: str = "",
    num_wanted: int,
    errors: Sequence[str] = (),
) -> SettingRow:
    """Returns the row of a setting's finished runs.

    With two seeds or more a trained recommender's interval is `seed_interval`; with one it is the
    run's bootstrap interval over users, as a baseline's is whose values do not depend on the seed.

    Args:
        results: of each run `users`, `metrics` and `intervals` as in `report.json`; `commit` and
            `uncommitted_changes` where they are known; `chosen_on`, which lines of old sweeps lack
            (all their validation users count as having chosen).
        fields: the settings.
        name: what the table calls it.
        num_wanted: how many runs were asked for.
        errors: of the runs that failed.
    """
    names = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    estimates = {
        recommender: {metric: _estimate(results, recommender, metric) for metric in METRICS}
        for recommender in names
    }
    return SettingRow(
        fields=fields,
        name=name,
        num_seeds=len(results),
        num_wanted=num_wanted,
        users=results[0]["users"] if results else 0,
        estimates={name: estimates[name] for name in names if name not in BASELINES},
        baselines={name: estimates[name] for name in names if name in BASELINES},
        errors=tuple(errors),
        chosen_on={name: max(numbers) for name, numbers in _chosen_on(results).items()},
        commits=tuple(sorted({_code(result) for result in results if result.get("commit")})),
    )


def _chosen_on(results: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for result in results:
        trained = [name for name in result["metrics"] if name not in BASELINES]
        every = dict.fromkeys(trained, result["users"]) if result.get("split") == "valid" else {}
        for name, number in result.get("chosen_on", every).items():
            found.setdefault(name, []).append(number)
    return found


def _code(result: Mapping[str, Any]) -> str:
    return result["commit"][:7] + " with changes" * bool(result.get("uncommitted_changes"))


def best_first(rows: Sequence[SettingRow], by: str = "model") -> list[SettingRow]:
    """Returns the rows by NDCG@10 of a recommender; rows without it come last, as they stood.

    Raises:
        ValueError: rows have recommenders, but none has this one; the message lists those there
            are.
    """
    known = recommenders(rows)
    if known and by not in known:
        raise ValueError(f"{by!r} is not among the trained recommenders, which are {known}")

    def key(row: SettingRow) -> float:
        return -row.estimates[by][METRICS[-1]].value if by in row.estimates else math.inf

    return sorted(rows, key=key)


def recommenders(rows: Sequence[SettingRow]) -> list[str]:
    """Returns the trained recommenders of all rows."""
    return list(dict.fromkeys(name for row in rows for name in row.estimates))


def distinct_baselines(rows: Sequence[SettingRow]) -> list[tuple[str, Mapping[str, Estimate]]]:
    """Returns each baseline once for every different value that it has among the rows.

    There are several where settings differ in the data, the users or what is left out of lists.
    """
    found: dict[tuple[Any, ...], tuple[str, Mapping[str, Estimate]]] = {}
    for row in rows:
        for name, metrics in row.baselines.items():
            values = tuple(round(metrics[metric].value, 12) for metric in METRICS)
            found.setdefault((name, *values), (name, metrics))
    return sorted(found.values(), key=lambda pair: -pair[1][METRICS[-1]].value)


def _estimate(results: Sequence[Mapping[str, Any]], recommender: str, metric: str) -> Estimate:
    having = [result for result in results if recommender in result["metrics"]]
    values = [float(result["metrics"][recommender]["item"][metric]) for result in having]
    counted = recommender in BASELINES and len(set(values)) == 1
    if len(values) > 1 and not counted:
        return Estimate(float(np.mean(values)), *seed_interval(values), over_seeds=True)
    low, high = having[0]["intervals"][recommender]["item"][metric]
    return Estimate(values[0], float(low), float(high), over_seeds=False)
