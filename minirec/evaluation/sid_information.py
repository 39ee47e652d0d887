"""How much of the next item each level of a SID tells: bits a transition, held out.

A first-order model predicts the next item `b` from the last one, `a`, by what SIDs tell of the two.
`g(x)` is the group of the items that share their first `l` codes with `x`, and `n` counts the
training transitions between groups. The model of prefix length `l` shrinks its counts towards the
model of length `l - 1` by a Dirichlet prior, a hierarchical Dirichlet language model (MacKay and
Peto, 1995) over the SIDs' own hierarchy:

    P_l(g(b) | g(a)) = (n(g(a), g(b)) + alpha_l · Base) / (n(g(a)) + alpha_l)
    Base = P_{l-1}(h(b) | h(a)) · p(g(b)) / p(h(b))        h: the groups of length l - 1

with `P_0 = 1` and `p` the popularity of groups: `p(b) = (c(b) + 1/2) / (C + N/2)`, summed over a
group's items, where `c(b)` counts the training transitions into `b` and `C` all of them. Within a
group, items are drawn by popularity. The bits that the model saves over popularity alone, `r_l =
log2 P_l(b | a) / p(b)`, need no sum over items:

    2^r_l = (n(g(a), g(b)) / p(g(b)) + alpha_l · 2^r_{l-1}) / (n(g(a)) + alpha_l),        r_0 = 0

What is reported is the mean of `r_l` over held-out transitions. In expectation it is a lower bound
of the mutual information between the prefixes of neighbouring items, which by the data-processing
inequality is at most that between the items (Cover and Thomas, 2006, section 2.8); how near it
comes depends on the counts. `alpha_l` is the one that gives the training transitions the highest
likelihood, each judged by the counts of all others (leave-one-out, the popularities apart), so that
nothing held out is fitted; a level that tells nothing new gets a large one and changes nothing.

Two references stand beside the levels. The item-level model is the same with each item a group of
its own and no SIDs above: what counts of item pairs tell. Items below whole SIDs, as one more
level, give what is known with everything together. Where item pairs are rare, prefixes tell more
than item pairs do, since similar items share their counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int, Int64

from minirec.sids.collisions import check_codes, prefix_groups

# From groups that follow each other strictly to groups that tell nothing new.
_ALPHAS = 2.0 ** np.arange(-12, 41)


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions:
    """Which item came after which: what is counted, and what is predicted.

    Attributes:
        train: `[P, 2]`, neighbours of the training sequences, older item first.
        held_out: `[n, 2]`, the last item of a history and the target.
        num_items: N.
    """

    train: Int64[np.ndarray, "P 2"]
    held_out: Int64[np.ndarray, "n 2"]
    num_items: int

    def __post_init__(self) -> None:
        """Checks both tables.

        Raises:
            ValueError: a table is empty or of another shape, or an item outside the catalogue.
        """
        for name in ("train", "held_out"):
            pairs = np.asarray(getattr(self, name))
            if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
                raise ValueError(
                    f"{name}: expected integers [n, 2], got {pairs.dtype} {list(pairs.shape)}"
                )
            if not len(pairs):
                raise ValueError(f"{name}: no transitions; at least one is needed")
            if not 0 <= pairs.min() <= pairs.max() < self.num_items:
                wrong = pairs.min() if pairs.min() < 0 else pairs.max()
                raise ValueError(f"{name}: item {wrong} lies outside [0, {self.num_items})")
            object.__setattr__(self, name, pairs.astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class Information:
    """Bits that what is known of the last item saves on the next one.

    Attributes:
        saved: `[n]`, bits of each held-out transition, relative to popularity; below 0 where the
            model misleads.
        alpha: weight of the coarser model, in transitions.
        num_groups: how many groups of items this level tells apart.
    """

    saved: Float64[np.ndarray, " n"]
    alpha: float
    num_groups: int

    @property
    def bits(self) -> float:
        """Mean over the held-out transitions."""
        return float(self.saved.mean())

    @property
    def standard_error(self) -> float:
        """Of `bits`, transitions taken as independent."""
        return standard_error(self.saved)


def standard_error(values: Float64[np.ndarray, " n"]) -> float:
    """Returns the standard error of the mean of independent values; 0 of a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def hold_out_last(
    item: Int[np.ndarray, " E"], offsets: Int[np.ndarray, " S1"]
) -> tuple[Int[np.ndarray, " E2"], Int64[np.ndarray, " S1"], Int[np.ndarray, "n 2"]]:
    """Splits the last transition off every sequence of three items or more.

    Args:
        item: the items of all sequences, one after another, oldest first.
        offsets: sequence `s` is `item[offsets[s]:offsets[s + 1]]`.

    Returns:
        The items and offsets that are left, and the pairs of last item and target.
    """
    length = np.diff(offsets)
    last = np.asarray(offsets)[1:][length >= 3] - 1
    kept = np.ones(len(item), bool)
    kept[last] = False
    left = np.concatenate([[0], np.cumsum(length - (length >= 3))])
    return item[kept], left, np.stack([item[last - 1], item[last]], axis=1)


def transitions_of(
    item: Int[np.ndarray, " E"],
    offsets: Int[np.ndarray, " S1"],
    held_out: Int[np.ndarray, "n 2"],
    num_items: int,
) -> Transitions:
    """Returns the neighbours of training sequences beside the held-out pairs.

    Args:
        item: the items of all training sequences, one after another, oldest first.
        offsets: sequence `s` is `item[offsets[s]:offsets[s + 1]]`.
        held_out: the last item of a history, and the item that came next.
        num_items: N.

    Raises:
        ValueError: as `Transitions`.
    """
    is_first = np.zeros(len(item) + 1, bool)
    is_first[np.asarray(offsets)] = True
    second = np.flatnonzero(~is_first[1 : len(item)]) + 1
    return Transitions(np.stack([item[second - 1], item[second]], axis=1), held_out, num_items)


def item_information(transitions: Transitions) -> Information:
    """Returns what counts of item pairs save: the model that prefixes are compared with."""
    return next(_chain([np.arange(transitions.num_items)], transitions))


def prefix_information(
    codes: Int[np.ndarray, "N L"], transitions: Transitions
) -> list[Information]:
    """Returns what the first code saves, what the first two save, …, and last, the items as well.

    Returns:
        `L + 1` entries: prefixes of 1 to L codes, then whole SIDs with the items below them.

    Raises:
        ValueError: `codes` is not a table of codes of as many items.
    """
    codes = check_codes(codes)
    if len(codes) != transitions.num_items:
        raise ValueError(f"codes: {len(codes)} items; the transitions have {transitions.num_items}")
    return list(_chain([*prefix_groups(codes), np.arange(len(codes))], transitions))


def _chain(
    groups: Sequence[Int64[np.ndarray, " N"]], transitions: Transitions
) -> Iterator[Information]:
    """Yields what each grouping saves on top of the coarser ones before it.

    Args:
        groups: of each item, numbered from 0 without gaps; each refines the one before.
        transitions: what is counted, and what is predicted.
    """
    num_items = transitions.num_items
    target_count = np.bincount(transitions.train[:, 1], minlength=num_items) + 0.5
    popularity = target_count / target_count.sum()
    coarse = np.zeros(num_items, np.int64)
    coarse_pair, left_out = np.zeros(1, np.int64), np.ones(1)  # 2^r of a pair without one of it
    ratio = np.ones(len(transitions.held_out))
    for group in groups:
        num_groups, num_coarse = int(group.max()) + 1, int(coarse.max()) + 1
        share = np.bincount(group, weights=popularity, minlength=num_groups)
        parent = np.empty(num_groups, np.int64)
        parent[group] = coarse
        before, after = group[transitions.train.T]
        left_count = np.bincount(before, minlength=num_groups)
        pair, count = np.unique(before * num_groups + after, return_counts=True)
        before, after = np.divmod(pair, num_groups)
        base = left_out[np.searchsorted(coarse_pair, parent[before] * num_coarse + parent[after])]
        alpha = _best_alpha(count, share[after], base, left_count)
        left_out = ((count - 1) / share[after] + alpha * base) / (left_count[before] - 1 + alpha)

        before, after = group[transitions.held_out.T]
        key = before * num_groups + after
        place = np.minimum(np.searchsorted(pair, key), len(pair) - 1)
        seen = np.where(pair[place] == key, count[place], 0)
        ratio = (seen / share[after] + alpha * ratio) / (left_count[before] + alpha)
        yield Information(np.log2(ratio), alpha, num_groups)
        coarse, coarse_pair = group, pair


def _best_alpha(
    count: Int64[np.ndarray, " n"],
    share: Float64[np.ndarray, " n"],
    base: Float64[np.ndarray, " n"],
    left_count: Int64[np.ndarray, " G"],
) -> float:
    """Returns the alpha of the highest leave-one-out likelihood of the training transitions.

    Args:
        count: of each pair of groups that occurs.
        share: popularity of the pair's second group.
        base: of the pair, 2^r of the coarser groups without one such transition.
        left_count: transitions out of each group.
    """
    # A transition seen once has no other to judge it by: its term is log(alpha) and a constant.
    repeated = count > 1
    weight = count[repeated].astype(np.float64)
    others = (weight - 1) / share[repeated]
    base = base[repeated]
    num_single = np.count_nonzero(~repeated)
    left, groups = np.unique(left_count[left_count > 0], return_counts=True)
    totals = (groups * left).astype(np.float64)
    likelihood = [
        num_single * np.log(alpha)
        + weight @ np.log(others + alpha * base)
        - totals @ np.log(left - 1 + alpha)
        for alpha in _ALPHAS
    ]
    return float(_ALPHAS[int(np.argmax(likelihood))])
