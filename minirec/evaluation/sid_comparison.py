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
    """

    settings: Mapping[str, Any]
    codes: Int[np.ndarray, "N L"]
    codebook_sizes: Sequence[int]
    relative_error: Sequence[float]
    information: Sequence[Information]
    seconds: float

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
    """

    name: str
    vectors: str
    quantisers: Mapping[str, QuantiserScores]
    item_level: Information
    num_transitions: int
    config: Any
    seed: int

    def __post_init__(self) -> None:
        """Checks that the parts belong together.

        Raises:
            ValueError: nothing to compare, or quantisers of different catalogues.
        """
        if not self.quantisers:
            raise ValueError("quantisers: none given; at least one is needed")
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

    @property
    def num_items(self) -> int:
        """N, the size of the catalogue."""
        return len(next(iter(self.quantisers.values())).codes)

    @property
    def num_held_out(self) -> int:
        """How many held-out transitions the information was measured on."""
        return len(self.item_level.saved)

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
    `levels` has `relative_error` and `information` besides. An
    `information` is `bits`, `standard_error`, `of_item_level` (its ratio to the item-level model's
    bits, None if that saves none), `alpha` and `num_groups`.
    """
    quantisers = {}
    for name, scores in comparison.quantisers.items():
        entry = {key: value for key, value in scores.report.items() if key != "code_counts"}
        for level, row in enumerate(entry["levels"]):
            row["relative_error"] = float(scores.relative_error[level])
            row["information"] = _information(scores.information[level], comparison)
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
