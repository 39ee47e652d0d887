"""Several ways to make SIDs of one catalogue, side by side in figures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from minirec.evaluation.sid_information import Information, standard_error
from minirec.sids.statistics import sid_report


@dataclasses.dataclass(frozen=True, eq=False)
class QuantiserScores:
    """What is known of one way to make SIDs.

    Attributes:
        settings: what makes it differ from the experiment's config, as JSON knows it.
        codes: `[N, L]`, SIDs by item id.
        codebook_sizes: K of each level.
        relative_error: mean squared distance of the item vectors from what the codes up to each
            level stand for, divided by the vectors' variance.
        information: for each prefix length, and for the items below whole SIDs, what it saves.
        seconds: how long it took to make the SIDs of the vectors.
        kept: by kind of neighbourhood, the share of it that each prefix length keeps together.
        by_chance: the share of random items that each prefix length keeps together.
    """

    settings: Mapping[str, Any]
    codes: Int[np.ndarray, "N L"]
    codebook_sizes: Sequence[int]
    relative_error: Sequence[float]
    information: Sequence[Information]
    seconds: float
    kept: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    by_chance: Sequence[float] = ()

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """Codebook use, perplexity and collisions (`minirec.sids.sid_report`)."""
        return sid_report(self.codes, self.codebook_sizes)

    @property
    def whole(self) -> Information:
        """What whole SIDs save."""
        return self.information[-2]


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a comparison found; `minirec.reports.sid_page` makes files of it.

    Attributes:
        name: of the experiment.
        vectors: what the item vectors were made from, for people.
        quantisers: by name, in the order to show.
        item_level: what counts of item pairs save, without SIDs.
        num_transitions: how many training transitions were counted.
        config: the experiment's configuration, as JSON knows it.
        seed: of vectors and codebooks.
        ndcg: by quantiser, NDCG@10 on validation users of models that were trained on such SIDs;
            of those alone for which somebody has.
    """

    name: str
    vectors: str
    quantisers: Mapping[str, QuantiserScores]
    item_level: Information
    num_transitions: int
    config: Any
    seed: int
    ndcg: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that the parts belong together.

        Raises:
            ValueError: nothing to compare, or quantisers of different catalogues.
        """
        if not self.quantisers:
            raise ValueError("quantisers: none given; at least one is needed")
        if unknown := sorted(set(self.ndcg) - set(self.quantisers)):
            raise ValueError(f"ndcg: {unknown[0]!r} is none of {list(self.quantisers)}")
        numbers = {name: len(scores.codes) for name, scores in self.quantisers.items()}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"quantisers: numbers of items differ: {numbers}")
        for name, scores in self.quantisers.items():
            num_levels = scores.codes.shape[1]
            found = len(scores.relative_error), len(scores.information)
            if found != (num_levels, num_levels + 1):
                raise ValueError(
                    f"quantisers: {name} has {num_levels} levels, {found[0]} errors and "
                    f"{found[1]} entries of information, which should be {num_levels + 1}"
                )
            wrong = {
                kind: len(shares)
                for kind, shares in {**scores.kept, "by_chance": scores.by_chance}.items()
                if len(shares) != (num_levels if scores.kept else 0)
            }
            if wrong:
                raise ValueError(
                    f"quantisers: {name} has {num_levels} levels, and shares of neighbourhoods "
                    f"for {wrong}"
                )

    @property
    def num_items(self) -> int:
        """N, the size of the catalogue."""
        return len(next(iter(self.quantisers.values())).codes)

    @property
    def num_held_out(self) -> int:
        """How many held-out transitions the information was measured on."""
        return len(self.item_level.saved)

    @property
    def measures(self) -> dict[str, dict[str, float]]:
        """By name of what is known before training, its value for each quantiser.

        Of neighbourhoods, what the first code keeps beyond chance: longer prefixes keep little.
        """
        kinds = dict.fromkeys(kind for one in self.quantisers.values() for kind in one.kept)
        found = {
            "bits, first code": {n: one.information[0].bits for n, one in self.quantisers.items()},
            "bits, whole SID": {n: one.whole.bits for n, one in self.quantisers.items()},
            "error": {n: one.relative_error[-1] for n, one in self.quantisers.items()},
        }
        for kind in kinds:
            found[f"{kind} kept"] = {
                name: one.kept[kind][0] - one.by_chance[0]
                for name, one in self.quantisers.items()
                if kind in one.kept
            }
        return found

    def correlations(self) -> dict[str, float]:
        """Returns how each of `measures` goes with NDCG@10 over the quantisers that have both.

        Pearson's correlation; measures that do not vary, or of less than three quantisers, are
        left out.
        """
        found = {}
        for measure, values in self.measures.items():
            names = [name for name in values if name in self.ndcg]
            x, y = (np.array([by[name] for name in names]) for by in (values, self.ndcg))
            if len(names) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0:
                found[measure] = float(np.corrcoef(x, y)[0, 1])
        return found

    def difference(self, one: str, other: str) -> tuple[float, float]:
        """Returns by how many bits whole SIDs of `one` save more than those of `other`.

        Returns:
            The mean over the same transitions, and its standard error.
        """
        gap = self.quantisers[one].whole.saved - self.quantisers[other].whole.saved
        return float(gap.mean()), standard_error(gap)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the content of `compare.json`.

    `quantisers` holds by name what `sid_report` tells, without the count of each code; each of its
    `levels` has `relative_error`, `information` and `neighbourhood_kept` besides. An
    `information` is `bits`, `standard_error`, `of_item_level` (its ratio to the item-level model's
    bits, None if that saves none), `alpha` and `num_groups`.
    """
    quantisers = {}
    for name, scores in comparison.quantisers.items():
        entry = {key: value for key, value in scores.report.items() if key != "code_counts"}
        for level, row in enumerate(entry["levels"]):
            row["relative_error"] = float(scores.relative_error[level])
            row["information"] = _information(scores.information[level], comparison)
            row["neighbourhood_kept"] = {
                kind: float(shares[level]) for kind, shares in scores.kept.items()
            }
            if scores.kept:
                row["neighbourhood_kept"]["by_chance"] = float(scores.by_chance[level])
        quantisers[name] = {
            "settings": dict(scores.settings),
            "seconds": round(scores.seconds, 3),
            **entry,
            "information_with_items": _information(scores.information[-1], comparison),
        }
    return {
        "name": comparison.name,
        "vectors": comparison.vectors,
        "items": comparison.num_items,
        "training_transitions": comparison.num_transitions,
        "held_out_transitions": comparison.num_held_out,
        "item_level": _information(comparison.item_level, comparison),
        "quantisers": quantisers,
        "ndcg@10": dict(comparison.ndcg),
        "correlation_with_ndcg@10": comparison.correlations(),
        "config": comparison.config,
        "seed": comparison.seed,
    }


def additive_error(
    vectors: Float[np.ndarray, "N D"], codes: Int[np.ndarray, "N L"]
) -> tuple[float, ...]:
    """Returns the relative error of SIDs that came without codebooks, a number a level.

    Each level gets the codebook that fits best what the levels before left over: a code's row is
    the mean of its items' residuals.
    """
    residual = vectors - vectors.mean(axis=0, dtype=np.float64)
    variance, errors = np.square(residual).sum(), []
    for code in codes.T:
        count = np.bincount(code)
        ones = np.ones(len(code))
        of_code = scipy.sparse.csr_array(
            (ones, (code, np.arange(len(code)))), shape=(len(count), len(code))
        )
        residual = residual - ((of_code @ residual) / np.maximum(count, 1)[:, None])[code]
        errors.append(float(np.square(residual).sum() / variance) if variance else 0.0)
    return tuple(errors)


def _information(information: Information, comparison: Comparison) -> dict[str, Any]:
    reference = comparison.item_level.bits
    return {
        "bits": information.bits,
        "standard_error": information.standard_error,
        "of_item_level": information.bits / reference if reference > 0 else None,
        "alpha": information.alpha,
        "num_groups": information.num_groups,
    }
