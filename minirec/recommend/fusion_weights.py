"""How much each recommender counts in a fused ranking, what chose it, and its file."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from minirec import files

_SUM_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class FusionWeights:
    """The weights of the sources, and how good they were on the users that chose them.

    The metrics flatter: they are the best of all weightings tried, on the very users that decided
    which one is best. Another split's figures say how good the fusion is.

    Attributes:
        weights: by source, at least 0, together 1.
        metrics: `{"hr@10": …, "ndcg@10": …}` of the fused ranking.
        sources: the same metrics of each source's lists alone, by its probabilities.
        num_users: how many users the weights were chosen on.
        step: distance of two neighbouring weightings that were tried.
        k: the weights are those of the best NDCG@k.
    """

    weights: dict[str, float]
    metrics: dict[str, float]
    sources: dict[str, dict[str, float]]
    num_users: int
    step: float
    k: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Returns the weights of `to_json`'s object.

        Args:
            value: the JSON value.
            where: what the value comes from, for errors.

        Raises:
            ValueError: a field that is missing, unknown or not as described; the message names
                `where`, the field and the value.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(value, dict):
            raise ValueError(
                f"{where}: holds {value!r:.60}; expected an object with {', '.join(fields)}"
            )
        for name in fields:
            if name not in value:
                raise ValueError(f"{where}: field {name!r} is missing; expected {fields}")
        for name in value:
            if name not in fields:
                raise ValueError(f"{where}: unknown field {name!r}; expected {fields}")
        weights = value["weights"]
        if not isinstance(weights, dict) or not weights:
            raise ValueError(f"{where}: weights: {weights!r:.60}; expected a number a source")
        check_weights(weights, weights, where=f"{where}: weights")
        k = _integer(value["k"], f"{where}: k")
        step = _number(value["step"], f"{where}: step")
        steps_to_one(step, where=f"{where}: step")
        sources = value["sources"]
        if not isinstance(sources, dict) or set(sources) != set(weights):
            raise ValueError(
                f"{where}: sources: {sources!r:.60}; expected the metrics of each of "
                f"{', '.join(weights)}"
            )
        return cls(
            weights={name: float(weight) for name, weight in weights.items()},
            metrics=_metrics(value["metrics"], k, f"{where}: metrics"),
            sources={
                name: _metrics(sources[name], k, f"{where}: sources: {name}") for name in weights
            },
            num_users=_integer(value["num_users"], f"{where}: num_users"),
            step=step,
            k=k,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fields as JSON to `path`, whole or not at all."""
        files.write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the weights that `save` wrote to `path`.

        Raises:
            ValueError: the file is not what `save` writes; the message names file, field and value.
            FileNotFoundError: there is no such file.
        """
        return cls.from_json(files.read_json(path), where=str(path))


def check_weights(
    weights: Mapping[str, Any], sources: Iterable[str], *, where: str = "weights"
) -> None:
    """Raises ValueError unless there is a weight of every source, each >= 0, together 1."""
    sources = list(sources)
    for name in sources:
        if name not in weights:
            raise ValueError(f"{where}: none for source {name!r}; expected one of each: {sources}")
    for name, weight in weights.items():
        if name not in sources:
            raise ValueError(f"{where}: {name!r} is no source; the sources are {sources}")
        if not _is_number(weight) or weight < 0:
            raise ValueError(f"{where}: {name} has {weight!r}; expected a finite number >= 0")
    total = math.fsum(weights.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(f"{where}: {dict(weights)} sum to {total:g}; they must sum to 1")


def steps_to_one(step: float, *, where: str = "step") -> int:
    """Returns how many steps lead from weight 0 to weight 1.

    Raises:
        ValueError: the step does not divide 1.
    """
    steps = round(1 / step) if _SUM_TOLERANCE < step <= 1 else 0
    if steps < 1 or abs(steps * step - 1) > _SUM_TOLERANCE:
        raise ValueError(f"{where}: {step}; must divide 1, such as 0.1 or 0.05")
    return steps


def _metrics(value: Any, k: int, where: str) -> dict[str, float]:
    names = [f"hr@{k}", f"ndcg@{k}"]
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"{where}: {value!r:.60}; expected {names}")
    for name in names:
        if not 0 <= _number(value[name], f"{where}: {name}") <= 1:
            raise ValueError(f"{where}: {name}: {value[name]!r}; expected a number in [0, 1]")
    return {name: float(value[name]) for name in names}


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{where}: {value!r:.60}; expected a whole number >= 1")
    return value


def _number(value: Any, where: str) -> float:
    if not _is_number(value):
        raise ValueError(f"{where}: {value!r:.60}; expected a finite number")
    return float(value)


def _is_number(value: Any) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)
