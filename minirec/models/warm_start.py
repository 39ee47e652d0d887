"""First rows for the tokens of SID codes, by ridge regression from codes to the items' text."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Float64, Int

_MOST_ITERATIONS = 200
_TOLERANCE = 1e-6  # of a residual's norm, relative to the right side's


def ridge_rows(
    old: Float[np.ndarray, "V D"],
    codes: Int[np.ndarray, "n 2"],
    item_codes: Int[np.ndarray, "N L"],
    text: Float[np.ndarray, "N D"],
    *,
    seed: int,
    ridge_lambda: float = 1e-3,
    max_fit_samples: int = 50_000,
) -> Float32[np.ndarray, "n D"]:
    """Returns new tokens' rows, such that a SID's add up to what its item's text says.

    The text embeddings, less their mean, are fitted as sums of one row a code: `min |X W - Y|² +
    λ N |W|²` with `X` [N, codes] the codes' indicators, solved by conjugate gradients. `W` is then
    scaled to the old rows' deviation and put around their mean. A code that no item has, and a
    token that is no code (level -1), is drawn from a normal of that mean and deviation.

    Args:
        old: the rows that are trained already.
        codes: each new token's level and code; level -1 for what is no code.
        item_codes: the SIDs.
        text: each item's text embedding, in the space of `old`.
        seed: of what is drawn.
        ridge_lambda: λ, above 0.
        max_fit_samples: items to fit on at most, drawn.

    Raises:
        ValueError: a number is not above 0, or items and texts differ in number.
    """
    if not ridge_lambda > 0 or max_fit_samples < 1:
        raise ValueError(
            f"ridge_lambda={ridge_lambda!r}, max_fit_samples={max_fit_samples!r}: both must be "
            "above 0"
        )
    if len(item_codes) != len(text):
        raise ValueError(f"item_codes: {len(item_codes)} items, but {len(text)} texts")
    random = np.random.default_rng(seed)
    old = np.asarray(old, np.float32)
    mean, deviation = old.mean(axis=0), old.std(axis=0)
    rows = random.standard_normal((len(codes), len(mean)), np.float32)
    chosen = np.arange(len(item_codes))
    if len(chosen) > max_fit_samples:
        chosen = np.sort(random.permutation(len(chosen))[:max_fit_samples])
    column: dict[tuple[int, int], int] = {}
    place = np.array(
        [
            [column.setdefault((level, code), len(column)) for level, code in enumerate(row)]
            for row in item_codes[chosen].tolist()
        ]
    )
    target = np.asarray(text, np.float64)[chosen]
    fitted = _solve(place, len(column), target - target.mean(axis=0), ridge_lambda)
    spread = np.sqrt(np.mean(np.square(fitted)))
    if spread > 0:
        for token, (level, code) in enumerate(codes.tolist()):
            if (found := column.get((level, code))) is not None:
                rows[token] = fitted[found] / spread
    return (mean + deviation * rows).astype(np.float32)


def _solve(
    place: Int[np.ndarray, "N L"], size: int, target: Float64[np.ndarray, "N D"], ridge: float
) -> Float64[np.ndarray, "codes D"]:
    """Returns the rows that fit best, all columns of the target at once."""
    num_items, levels = place.shape
    indicators = scipy.sparse.csr_array(
        (np.ones(place.size), place.reshape(-1), np.arange(0, place.size + 1, levels)),
        shape=(num_items, size),
    )
    transposed = scipy.sparse.csr_array(indicators.T)
    right = transposed @ target
    found, residual = np.zeros_like(right), right.copy()
    direction, norm = residual.copy(), np.square(residual).sum(axis=0)
    enough = _TOLERANCE**2 * np.maximum(norm, np.finfo(float).tiny)
    for _ in range(_MOST_ITERATIONS):
        if (norm <= enough).all():
            break
        image = transposed @ (indicators @ direction) + ridge * num_items * direction
        along = (direction * image).sum(axis=0)
        step = np.where(norm > enough, norm / np.where(along > 0, along, 1.0), 0.0)
        found += step * direction
        residual -= step * image
        after = np.square(residual).sum(axis=0)
        direction = (
            residual + np.where(norm > 0, after / np.where(norm > 0, norm, 1.0), 0) * direction
        )
        norm = after
    return found
