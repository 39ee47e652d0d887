"""Item vectors to make SIDs from: of what is written about items, and of who comes near whom."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import threadpoolctl
from jaxtyping import Float, Float32, Int

from minirec import files
from minirec.cores import num_threads
from minirec.sids.text_transform import TermWeights, TextTransform, split_words, unit_rows

# Up to this many rows or columns a dense decomposition is quick, and finds all of the rank.
_DENSE_SIDE = 512
# From so many rows and columns on a decomposition is sketched: the exact one takes minutes.
_SKETCHED_SIDE = 50_000
_OVERSAMPLED, _POWER_ITERATIONS = 16, 4
_PART_ROWS = 65_536
_BLOCK_ENTRIES = 1_000_000
# Directions weaker than this, beside the strongest, are rounding.
_RANK_TOLERANCE = 1e-6


def text_vectors(
    texts: Sequence[str | None],
    attributes: Sequence[Sequence[str]] | None = None,
    dim: int = 64,
    seed: int = 0,
    *,
    attribute_weight: float = 1.0,
) -> Float32[np.ndarray, "N D"]:
    """Returns vectors of items' words and attributes: TF-IDF, then a truncated SVD.

    This is latent semantic analysis (Deerwester et al., 1990). Attributes are a vocabulary of
    their own, each a whole ("Hair Care" is not "hair" and "care"), so that they are not drowned
    by long texts. Words and attributes of a single item say nothing of its neighbours and are
    left out.

    Args:
        texts: a text an item; empty or None where there is none.
        attributes: attributes of each item, in any number; None if the catalogue has none.
        dim: D.
        seed: of the decomposition's start.
        attribute_weight: how much attributes count beside words, which count 1.

    Returns:
        Rows of length one, or of zeros for items about which nothing is known. Columns beyond
        the rank are zeros.

    Raises:
        ValueError: lengths that differ, or an empty catalogue.
    """
    return fit_text(texts, attributes, dim, seed, attribute_weight=attribute_weight)[0]


def fit_text(
    texts: Sequence[str | None],
    attributes: Sequence[Sequence[str]] | None = None,
    dim: int = 64,
    seed: int = 0,
    *,
    attribute_weight: float = 1.0,
) -> tuple[Float32[np.ndarray, "N D"], TextTransform]:
    """Returns the vectors of `text_vectors`, and what makes such vectors of other items.

    Raises:
        ValueError: as `text_vectors` does.
    """
    if len(texts) == 0:
        raise ValueError("texts: the catalogue has no items; it needs at least one")
    if attributes is not None and len(attributes) != len(texts):
        raise ValueError(f"attributes: {len(attributes)} given for {len(texts)} texts")
    if not attribute_weight >= 0:
        raise ValueError(f"attribute_weight: {attribute_weight}; must be 0 or more")
    words = TermWeights.fit(split_words(texts))
    blocks, names = [words.table], None
    if attributes is not None:
        names = TermWeights.fit(map(str, entries) for entries in attributes)
        blocks.append(names.table * attribute_weight)
    table = scipy.sparse.csr_array(scipy.sparse.hstack(blocks))
    vectors = _truncated_svd(table, dim, seed, 1.0)
    # A direction's vectors are left singular vectors times its strength.
    squares = np.square(vectors).sum(axis=0)
    directions = table.T @ np.divide(
        vectors, squares, out=np.zeros_like(vectors), where=squares > 0
    )
    return unit_rows(vectors), TextTransform.of(words, names, attribute_weight, directions)


def cooccurrence_vectors(
    item: Int[np.ndarray, " E"],
    offsets: Int[np.ndarray, " S1"],
    num_items: int,
    dim: int = 64,
    seed: int = 0,
    window: int = 5,
    *,
    smoothing: float = 0.75,
) -> Float32[np.ndarray, "N D"]:
    """Returns vectors of which items come near which: PPMI, then a truncated SVD.

    Items `d <= window` places apart in a sequence count 1/d for each other, in both directions;
    an item's repeats say nothing about it and are left out. Positive pointwise mutual
    information with a smoothed context distribution, and the root of the singular values, follow
    Levy, Goldberg and Dagan (2015).

    Args:
        item: items of the TRAINING sequences, one sequence after the other. What is passed here
            is what the SIDs will know: nothing of validation or test belongs in it.
        offsets: `[S + 1]`; sequence `s` is `item[offsets[s]:offsets[s + 1]]`.
        num_items: N.
        dim: D.
        seed: of the decomposition's start.
        window: how far apart two items may be.
        smoothing: power of the contexts' frequencies; below 1 it tempers rare items.

    Returns:
        Rows of length one, or of zeros for items that have no neighbour. Columns beyond the rank
        are zeros.

    Raises:
        ValueError: an item outside `[0, N)`, offsets that do not cover `item`, or parameters out
            of range.
    """
    item, sequence = _check_sequences(item, offsets, num_items)
    if window < 1:
        raise ValueError(f"window: {window}; must be at least 1")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing: {smoothing}; must lie in [0, 1]")
    counts = scipy.sparse.csr_array((num_items, num_items), dtype=np.float64)
    for distance in range(1, min(window, len(item) - 1) + 1):
        left, right = item[:-distance], item[distance:]
        pair = (sequence[:-distance] == sequence[distance:]) & (left != right)
        weights = np.full(int(pair.sum()), 1.0 / distance)
        near = scipy.sparse.coo_array((weights, (left[pair], right[pair])), shape=counts.shape)
        counts = counts + near.tocsr()
    return unit_rows(_truncated_svd(_ppmi(counts + counts.T, smoothing), dim, seed, 0.5))


def combine_vectors(
    blocks: Sequence[Float[np.ndarray, "N _"]], weights: Sequence[float] | None = None
) -> Float32[np.ndarray, "N D"]:
    """Returns vectors of several kinds side by side, as rows of length one.

    Every kind's rows are brought to length one first, so that `weights` alone say how much a kind
    counts in a squared distance. An item that one kind knows nothing of (a row of zeros) is
    described by the others, at full length.

    Args:
        blocks: vectors of the same items, of any widths.
        weights: a positive number a kind; None makes all equal.

    Raises:
        ValueError: nothing to combine, numbers of items that differ, or weights out of range.
    """
    if not blocks:
        raise ValueError("blocks: nothing to combine; expected at least one array of vectors")
    arrays = [np.asarray(block, dtype=np.float32) for block in blocks]
    shapes = [list(array.shape) for array in arrays]
    if any(array.ndim != 2 or len(array) != len(arrays[0]) for array in arrays):
        raise ValueError(f"blocks: shapes {shapes}; expected [N, D] each, of one N")
    weights = [1.0] * len(arrays) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(arrays):
        raise ValueError(f"weights: {len(weights)} given for {len(arrays)} blocks")
    if not all(0 < weight < np.inf for weight in weights):
        raise ValueError(f"weights: {weights}; every weight must be positive")
    scaled = [unit_rows(array) * weight**0.5 for array, weight in zip(arrays, weights, strict=True)]
    return unit_rows(np.concatenate(scaled, axis=1))


def load_vectors(path: str | os.PathLike[str], num_items: int) -> Float32[np.ndarray, "N D"]:
    """Returns the vectors in a `.npy` file as they are: row `i` belongs to item `i`.

    Raises:
        ValueError: the file is not a real array `[N, D]` of N items, or holds NaN or infinities;
            the message names file and row.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the item vectors are read from it")
    vectors = files.read_npy(path)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: holds {vectors.dtype} {list(vectors.shape)}; expected real numbers "
            f"[{num_items}, D]"
        )
    if len(vectors) != num_items:
        raise ValueError(f"{path}: {len(vectors)} rows; the catalogue has {num_items} items")
    with np.errstate(over="ignore"):  # what overflows is refused below
        vectors = vectors.astype(np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(f"{path}: row {int(finite.argmin())} holds NaN or an infinity")
    return vectors


def _ppmi(counts: scipy.sparse.csr_array, smoothing: float) -> scipy.sparse.csr_array:
    """Returns positive pointwise mutual information of a symmetric table of counts."""
    total = counts.sum()
    if total == 0:
        return counts
    frequency = counts.sum(axis=1)
    context = np.where(frequency > 0, frequency, 1.0) ** smoothing * (frequency > 0)
    context /= context.sum()
    pairs = counts.tocoo()
    information = np.log(pairs.data) - np.log(frequency[pairs.row]) - np.log(context[pairs.col])
    kept = information > 0
    return scipy.sparse.csr_array(
        (information[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape
    )


def _truncated_svd(
    matrix: scipy.sparse.csr_array, dim: int, seed: int, power: float
) -> Float[np.ndarray, "N D"]:
    """Returns left singular vectors times the singular values' `power`, strongest first.

    Each direction's sign is such that its largest entry is positive: a decomposition leaves it
    open, and codes would depend on it. Always `dim` columns; those beyond the rank are zeros.
    """
    if dim < 1:
        raise ValueError(f"dim: {dim}; must be at least 1")
    num_items, width = _shape(matrix)
    vectors = np.zeros((num_items, dim))
    if matrix.nnz == 0:
        return vectors
    # One thread a product: one always adds in the same order, so that codes do not depend on how
    # many cores a machine has. What a sketch shares among cores, it cuts alike on any of them.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        if min(num_items, width) <= max(_DENSE_SIDE, dim + 1):
            left, strength = _svd_by_gram(matrix)
        elif min(num_items, width) > _SKETCHED_SIDE:
            left, strength = _svd_by_sketch(matrix, dim, seed)
        else:
            start = np.random.default_rng(seed).normal(size=min(num_items, width))
            left, strength, _ = scipy.sparse.linalg.svds(
                matrix, k=dim, v0=start, return_singular_vectors="u"
            )
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] > _RANK_TOLERANCE * strength.max()][:dim]
    left, strength = left[:, order], strength[order]
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    vectors[:, : len(order)] = left * np.sign(largest) * strength**power
    return vectors


def _svd_by_sketch(
    matrix: scipy.sparse.csr_array, dim: int, seed: int
) -> tuple[Float[np.ndarray, "N R"], Float[np.ndarray, " R"]]:
    """Returns left singular vectors and singular values, nearly, of a matrix with long sides.

    A randomised range finder (Halko, Martinsson and Tropp, 2011) looks at the matrix a few times,
    where Lanczos' iterations look at it hundreds of times, a vector at a time. scikit-learn's takes
    most of its time for QR decompositions of tall blocks, which their Gram matrices stand in for.
    """
    matrix = scipy.sparse.csr_array(matrix, dtype=np.float32)
    rows, columns = _row_blocks(matrix), _row_blocks(scipy.sparse.csr_array(matrix.T))
    random = np.random.default_rng(seed)
    draw = random.standard_normal((_shape(matrix)[1], dim + _OVERSAMPLED), np.float32)
    basis = _orthonormal(_times(rows, draw))
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(_times(rows, _orthonormal(_times(columns, basis))))
    basis = _orthonormal(basis)  # What one time leaves is of the size of a rounding's root.
    squares, turn = np.linalg.eigh(_gram(_times(columns, basis)))
    return basis @ turn.astype(np.float32), np.sqrt(np.maximum(squares, 0.0))


def _row_blocks(matrix: scipy.sparse.csr_array) -> list[scipy.sparse.csr_array]:
    """Returns a matrix as runs of its rows with about as many entries each."""
    starts = np.searchsorted(matrix.indptr, np.arange(0, matrix.nnz + 1, _BLOCK_ENTRIES))
    starts = np.unique([0, *starts.tolist(), _shape(matrix)[0]]).tolist()
    return [
        scipy.sparse.csr_array(matrix[first:last]) for first, last in itertools.pairwise(starts)
    ]


def _times(
    blocks: Sequence[scipy.sparse.csr_array], factor: Float32[np.ndarray, "K k"]
) -> Float32[np.ndarray, "N k"]:
    """Returns the product of a matrix, as runs of its rows, with a dense one.

    Each row is summed by itself, in its own order, however many cores share the rows.
    """
    with ThreadPoolExecutor(num_threads()) as pool:
        return np.concatenate(list(pool.map(lambda block: block @ factor, blocks)))


def _orthonormal(block: Float32[np.ndarray, "N k"]) -> Float32[np.ndarray, "N k2"]:
    """Returns an orthonormal basis, nearly, of a tall block's columns, but for mere roundings."""
    squares, turn = np.linalg.eigh(_gram(block))
    kept = squares > _RANK_TOLERANCE**2 * squares.max(initial=0.0)
    turn = (turn[:, kept] / np.sqrt(squares[kept])).astype(np.float32)
    with ThreadPoolExecutor(num_threads()) as pool:
        return np.concatenate(list(pool.map(lambda part: part @ turn, _parts(block))))


def _gram(block: Float32[np.ndarray, "N k"]) -> Float[np.ndarray, "k k"]:
    """Returns the products of a tall block's columns with each other, summed in float64."""

    def gram(part: np.ndarray) -> np.ndarray:
        part = part.astype(np.float64)
        return part.T @ part

    with ThreadPoolExecutor(num_threads()) as pool:
        return sum(pool.map(gram, _parts(block)), np.zeros((block.shape[1],) * 2))


def _parts(block: np.ndarray) -> list[np.ndarray]:
    """Returns a tall block as runs of its rows: the same ones on any number of cores."""
    return [block[start : start + _PART_ROWS] for start in range(0, len(block), _PART_ROWS)]


def _svd_by_gram(
    matrix: scipy.sparse.csr_array,
) -> tuple[Float[np.ndarray, "N R"], Float[np.ndarray, " R"]]:
    """Returns left singular vectors and singular values of a matrix with one short side.

    From the products of the short side's rows or columns with each other, which fit in memory
    however long the other side is. Directions of strength nought are left out.
    """
    num_items, width = _shape(matrix)
    gram = (matrix @ matrix.T if num_items <= width else matrix.T @ matrix).toarray()
    squares, directions = np.linalg.eigh(gram)
    kept = squares > _RANK_TOLERANCE**2 * squares.max()
    strength, directions = np.sqrt(squares[kept]), directions[:, kept]
    return (directions if num_items <= width else matrix @ directions / strength), strength


def _shape(matrix: scipy.sparse.csr_array) -> tuple[int, int]:
    num_rows, num_columns = cast(tuple[int, int], matrix.shape)  # scipy's own is untyped
    return num_rows, num_columns


def _check_sequences(
    item: Int[np.ndarray, " E"], offsets: Int[np.ndarray, " S1"], num_items: int
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Returns items as int64 and the sequence that each belongs to."""
    item, offsets = np.asarray(item), np.asarray(offsets)
    for name, array in (("item", item), ("offsets", offsets)):
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(
                f"{name}: expected integers in one axis, got {array.dtype} {list(array.shape)}"
            )
    if num_items < 1:
        raise ValueError(f"num_items: {num_items}; must be at least 1")
    wrong = (item < 0) | (item >= num_items)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(f"item[{place}]: {item[place]}; must lie in [0, {num_items})")
    lengths = np.diff(offsets)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(item) or (lengths < 0).any():
        raise ValueError(
            f"offsets: must rise from 0 to the number of events, {len(item)}; got "
            f"{offsets[:3].tolist()} … {offsets[-3:].tolist()}"
        )
    return item.astype(np.int64), np.repeat(np.arange(len(lengths)), lengths)
