"""What an evaluation found, and `report.json`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from minirec.evaluation import intervals
from minirec.evaluation.evaluate import LEVELS, Evaluation
from minirec.evaluation.strata import metrics_by_stratum
from minirec.recommend import BASELINES
from minirec.recommend.sources import SYSTEM
from minirec.reports.curves import Curves
from minirec.reports.log_health import health_notes

CHOSEN = "†"
"""Stands beside the names of those that the users of the figures chose."""


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One user, for people to look at.

    Attributes:
        user: what the log calls the user.
        history: titles of the newest items, oldest first.
        target: title of the item that came next.
        recommended: titles of the model's list, best first.
        rank: place of the target in the model's item list, from 0; -1 where it was not found.
    """

    user: str
    history: Sequence[str]
    target: str
    recommended: Sequence[str]
    rank: int


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """What a report says of the items.

    Attributes:
        codes: `[N, L]`, SID of every item.
        codebook_sizes: K of each level.
        train_count: `[N]`, training interactions of every item.
    """

    codes: Int[np.ndarray, "N L"]
    codebook_sizes: Sequence[int]
    train_count: Int[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Everything that an evaluation found; `minirec.reports.write_report` makes files of it.

    Attributes:
        name: name of the run.
        dataset: name of the data set.
        split: "valid" or "test".
        evaluations: by recommender, what the run is about first ("model", as a rule), then the
            others and the baselines; the same users in all.
        target: `[n]`, the item that came next.
        ranked_sids: `[n, M, L]`, the model's beams, best first; negative codes where dead.
        catalogue: the items.
        exclude_seen: whether items of the history were left out of all lists.
        config: the run's configuration, as JSON knows it.
        seed: seed of the run.
        seconds: how long the evaluation took.
        curves: training curves, if the run has them.
        examples: a few users.
        strata: by name, `[n]`, which users belong to it; see `minirec.evaluation.strata`.
        first_losses: by start of new tokens' rows, the losses of a fine-tuning's first steps.
        health: of the log, as `pipelines.prepare.log_health` counts it; None where nobody has.
        extra: more entries for `report.json`; they may not replace its own.
        num_resamples: resamples of the bootstrap of the differences to the baselines.
        chosen_on: by recommender, how many of these very users chose what it is: the checkpoint of
            what was trained, the weights of the system. Empty where none of them chose anything.
        users: whose each target is, where a user has several; see `bootstrap_intervals`.
    """

    name: str
    dataset: str
    split: str
    evaluations: Mapping[str, Evaluation]
    target: Int[np.ndarray, " n"]
    ranked_sids: Int[np.ndarray, "n M L"]
    catalogue: Catalogue
    exclude_seen: bool
    config: Any
    seed: int
    seconds: float
    curves: Curves = dataclasses.field(default_factory=Curves)
    examples: Sequence[Example] = ()
    strata: Mapping[str, Bool[np.ndarray, " n"]] = dataclasses.field(default_factory=dict)
    first_losses: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    health: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_resamples: int = 1000
    chosen_on: Mapping[str, int] = dataclasses.field(default_factory=dict)
    users: Int[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        """Checks that the parts belong together.

        Raises:
            ValueError: no model among the evaluations, or numbers of users that differ.
        """
        if next(iter(self.evaluations), None) in {None, SYSTEM, *BASELINES}:
            raise ValueError(
                f"evaluations: {list(self.evaluations)}; the first must be what was trained, then "
                "the baselines"
            )
        for name, evaluation in self.evaluations.items():
            if evaluation.num_users != len(self.target):
                raise ValueError(
                    f"evaluations: {name} has {evaluation.num_users} users, target has "
                    f"{len(self.target)}"
                )
        if len(self.ranked_sids) != len(self.target):
            raise ValueError(
                f"ranked_sids: {len(self.ranked_sids)} users, target has {len(self.target)}"
            )

    @property
    def model(self) -> Evaluation:
        """The model's evaluation."""
        return self.evaluations[self.main]

    @property
    def main(self) -> str:
        """The name of what the run is about."""
        return next(iter(self.evaluations))

    @property
    def notes(self) -> list[str]:
        """What a person should mind of the log before they trust a figure."""
        if self.health is None:
            return []
        return health_notes(self.health, [self.split], exclude_seen=self.exclude_seen)

    @property
    def num_users(self) -> int:
        """n, the number of users."""
        return len(self.target)

    @functools.cached_property
    def differences(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """By recommender, level and metric: the interval of the model's metric minus the other's.

        Users are paired. Computed once, when first asked for.
        """
        return self._differences(self.main)

    @functools.cached_property
    def system_differences(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """The same of the system, where there is one, minus each other's; else empty."""
        return self._differences(SYSTEM) if SYSTEM in self.evaluations else {}

    def _differences(self, of: str) -> dict[str, dict[str, dict[str, list[float]]]]:
        return {
            name: {
                level: intervals.difference_intervals(
                    self.evaluations[of].ranks[level],
                    evaluation.ranks[level],
                    common_ks(self, level),
                    seed=self.seed,
                    num_resamples=self.num_resamples,
                    users=self.users,
                )
                for level in LEVELS
            }
            for name, evaluation in self.evaluations.items()
            if name != of
        }

    @property
    def chosen_note(self) -> str:
        """What to say of users that are scored and have chosen as well; "" where there are none."""
        return chosen_note(self.chosen_on, f"Of these {self.num_users:,} users")

    @functools.cached_property
    def codebook_counts(self) -> list[Int[np.ndarray, " K"]]:
        """For each level, how many items have each code."""
        codes, sizes = self.catalogue.codes, self.catalogue.codebook_sizes
        return [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)]


def report_json(report: Report) -> dict[str, Any]:
    """Returns the content of `report.json`.

    The shape is fixed: `split`, `users`, `invalid`, `metrics` and `intervals` (by recommender, then
    level, then `"hr@10"`), `config`, `seed`, `seconds`. Beside these: `differences` (95 % interval
    of the model's metric minus each other's, users paired), `system_differences` (the same of the
    system; empty where there is none), `chosen_on` (by recommender, how many of these users chose
    its checkpoint or its weights, so that its metrics and differences flatter), `strata` (users
    and metrics of each), `coverage`, `dead_beams`, `codebook` a level, `first_losses` and `health`
    where there are any, and what `report.extra` holds.

    Raises:
        ValueError: `report.extra` names an entry that the report has itself.
    """
    evaluations = report.evaluations
    content: dict[str, Any] = {
        "name": report.name,
        "dataset": report.dataset,
        "split": report.split,
        "users": report.num_users,
        "items": len(report.catalogue.codes),
        "exclude_seen": report.exclude_seen,
        "invalid": report.model.invalid,
        "dead_beams": report.model.dead_beams,
        "metrics": {name: evaluation.metrics for name, evaluation in evaluations.items()},
        "intervals": {name: evaluation.intervals for name, evaluation in evaluations.items()},
        "differences": report.differences,
        "system_differences": report.system_differences,
        "chosen_on": dict(report.chosen_on),
        "strata": {
            name: dataclasses.asdict(stratum)
            for name, stratum in metrics_by_stratum(evaluations, report.strata).items()
        },
        "coverage": {name: evaluation.coverage for name, evaluation in evaluations.items()},
        "codebook": codebook_use(report),
        "config": report.config,
        "seed": report.seed,
        "seconds": round(report.seconds, 3),
    }
    if report.first_losses:
        content["first_losses"] = {name: list(line) for name, line in report.first_losses.items()}
    if report.health is not None:
        content["health"] = dict(report.health)
    taken = sorted(set(report.extra) & set(content))
    if taken:
        raise ValueError(f"extra: {taken} would replace the report's own entries; rename them")
    return content | dict(report.extra)


def chosen_note(chosen_on: Mapping[str, int], whom: str) -> str:
    """Returns in a sentence who chose what, and what that makes of the figures; "" for nobody.

    Args:
        chosen_on: see `Report`.
        whom: how the sentence begins.
    """
    weighted = [name for name in chosen_on if name == SYSTEM or name in BASELINES]
    trained = [name for name in chosen_on if name not in weighted]
    parts = []
    if trained:
        number = max(chosen_on[name] for name in trained)
        parts.append(f"{number:,} selected the checkpoint ({', '.join(trained)})")
    if weighted:
        number = max(chosen_on[name] for name in weighted)
        parts.append(f"{number:,} fitted weights ({', '.join(weighted)})")
    if not parts:
        return ""
    said = f"{whom} {' and '.join(parts)}"
    return f"{said}: figures marked {CHOSEN} flatter; users of test choose nothing."


def marked(name: str, chosen_on: Mapping[str, int]) -> str:
    """Returns a recommender's name, marked where users that are scored chose what it is."""
    return f"{name} {CHOSEN}" if name in chosen_on else name


def common_ks(report: Report, level: str) -> list[int]:
    """Returns the list lengths that every recommender of the report reaches at this level."""
    names = [set(evaluation.metrics[level]) for evaluation in report.evaluations.values()]
    shared = set.intersection(*names)
    return sorted(int(name.removeprefix("hr@")) for name in shared if name.startswith("hr@"))


def codebook_use(report: Report) -> list[dict[str, float]]:
    """Returns, a level, the codebook's size, how many codes occur, and their perplexity.

    Perplexity is the exponential of the entropy of the codes' shares of items: as many equally
    used codes would spread the items as widely.
    """
    levels = []
    for level, counts in enumerate(report.codebook_counts):
        shares = counts[counts > 0] / counts.sum()
        levels.append(
            {
                "level": level,
                "size": len(counts),
                "used": len(shares),
                "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
            }
        )
    return levels
