import numpy as np
import pytest
import scipy.sparse

from minirec.sids.item_vectors import (
    _truncated_svd,
    combine_vectors,
    cooccurrence_vectors,
    load_vectors,
    text_vectors,
)

TEXTS = ["red hair dye", "hair dye, blue", "steel bolt M8", "M8 nut of steel", "", None]


def sequences(*rows):
    item = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return item, np.cumsum([0, *map(len, rows)])


def lengths(vectors):
    return np.linalg.norm(vectors, axis=1)


def two_worlds(num_sequences=60, length=8):
    """Items 0-9 and 10-19 are never in one sequence; 20 and 21 are in none."""
    random = np.random.default_rng(0)
    return sequences(
        *(10 * (row % 2) + random.integers(0, 10, length) for row in range(num_sequences))
    )


def test_items_of_like_text_lie_close():
    vectors = text_vectors(TEXTS, dim=4)
    assert vectors.shape == (6, 4)
    assert vectors.dtype == np.float32
    near = vectors @ vectors.T
    assert near[0, 1] > 0.9
    assert near[2, 3] > 0.9
    assert abs(near[0, 2]) < 1e-6


def test_items_without_text_get_zeros_and_all_others_length_one():
    vectors = text_vectors(TEXTS, dim=4)
    assert not vectors[4:].any()
    np.testing.assert_allclose(lengths(vectors[:4]), 1, rtol=1e-6)


def test_attributes_alone_are_enough_and_are_wholes():
    attributes = [["Hair Care"], ["Hair Care"], ["Hair"], ["Care", "Hair"], []]
    vectors = text_vectors([""] * 5, attributes, dim=3)
    near = vectors @ vectors.T
    assert near[0, 1] == pytest.approx(1)
    assert near[2, 3] == pytest.approx(1)
    assert abs(near[0, 2]) < 1e-6
    assert not vectors[4].any()


def test_an_attribute_is_not_the_word_of_the_same_spelling():
    vectors = text_vectors(["steel", "steel", "", ""], [[], [], ["steel"], ["steel"]], dim=2)
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert abs(vectors[0] @ vectors[2]) < 1e-6


def test_attribute_weight_moves_the_balance():
    texts = ["red", "red", "blue", "blue"]
    attributes = [["x"], ["y"], ["x"], ["y"]]
    by_text = text_vectors(texts, attributes, dim=4, attribute_weight=0.1)
    by_attribute = text_vectors(texts, attributes, dim=4, attribute_weight=10.0)
    assert by_text[0] @ by_text[1] > 0.9 > 0.1 > by_text[0] @ by_text[2]
    assert by_attribute[0] @ by_attribute[2] > 0.9


def test_a_catalogue_that_says_nothing_gives_zeros():
    assert not text_vectors(["", "only", "singles"], [[], ["once"], []], dim=5).any()


@pytest.mark.parametrize("num_items", [40, 700])
def test_more_columns_than_rank_are_zeros(num_items):
    """Below and above the size from which the decomposition is iterative."""
    texts = [
        f"w{row % 7} {' '.join(f'v{row % 7}x{i}' for i in range(100))}" for row in range(num_items)
    ]
    vectors = text_vectors(texts, dim=12)
    assert vectors.shape == (num_items, 12)
    assert not vectors[:, 7:].any()
    near = vectors @ vectors.T
    same = np.arange(num_items)[:, None] % 7 == np.arange(num_items) % 7
    np.testing.assert_allclose(near, same, atol=1e-5)


def test_items_of_like_company_lie_close():
    vectors = cooccurrence_vectors(*two_worlds(), num_items=22, dim=4)
    near = vectors @ vectors.T
    assert near[:10, :10].mean() > 0.5
    assert near[10:20, 10:20].mean() > 0.5
    assert abs(near[:10, 10:20]).max() < 0.2


def test_items_that_never_occur_or_have_no_neighbour_get_zeros():
    item, offsets = sequences([0, 1, 2, 0, 1], [3], [], [4, 4, 4])
    vectors = cooccurrence_vectors(item, offsets, num_items=6, dim=3)
    assert not vectors[3:].any()
    np.testing.assert_allclose(lengths(vectors[:3]), 1, rtol=1e-6)


def test_neighbours_end_where_a_sequence_ends():
    """With one sequence, 1 and 2 meet; with two, they do not."""
    together = cooccurrence_vectors(*sequences([0, 1, 2, 3]), num_items=4, dim=4, window=1)
    apart = cooccurrence_vectors(*sequences([0, 1], [2, 3]), num_items=4, dim=4, window=1)
    assert abs(apart[0] @ apart[3]) < 1e-6
    assert not np.allclose(together @ together.T, apart @ apart.T, atol=1e-3)


def test_a_windows_width_decides_who_meets_whom():
    item, offsets = sequences([0, 1, 2], [0, 3, 2])
    narrow = cooccurrence_vectors(item, offsets, num_items=4, dim=4, window=1, smoothing=1.0)
    # Items 1 and 3 have the same neighbours, and never meet themselves.
    assert narrow[1] @ narrow[3] == pytest.approx(1, abs=1e-5)


def test_ppmi_matches_the_plain_formula():
    """The products of vectors before scaling to length one are |M|: the root of M Mᵀ."""
    rows = ([0, 1, 2, 1], [2, 0, 3])
    counts = np.zeros((4, 4))
    for row in rows:
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                if a != b and 0 < abs(i - j) <= 2:
                    counts[a, b] += 1 / abs(i - j)
    context = counts.sum(axis=0) ** 0.75
    with np.errstate(divide="ignore"):
        information = np.log(
            counts
            / counts.sum()
            / np.outer(counts.sum(axis=1) / counts.sum(), context / context.sum())
        )
    left, strength, _ = np.linalg.svd(np.maximum(information, 0))
    expected = left * np.sqrt(strength)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = cooccurrence_vectors(*sequences(*rows), num_items=4, dim=4, window=2)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_both_kinds_are_deterministic_to_the_bit_even_where_iterative():
    random = np.random.default_rng(0)
    item = random.zipf(1.3, 20_000) % 900
    offsets = np.arange(0, 20_001, 10)
    texts = [" ".join(f"w{word}" for word in random.zipf(1.3, 20) % 2_000) for _ in range(900)]
    for make in (
        lambda: cooccurrence_vectors(item, offsets, 900, dim=16, seed=3),
        lambda: text_vectors(texts, dim=16, seed=3),
    ):
        assert make().tobytes() == make().tobytes()


def test_the_iterative_decomposition_agrees_with_the_dense_one(monkeypatch):
    random = np.random.default_rng(1)
    item, offsets = random.integers(0, 60, 3_000), np.arange(0, 3_001, 10)
    dense = cooccurrence_vectors(item, offsets, 60, dim=6)
    monkeypatch.setattr("minirec.sids.item_vectors._DENSE_SIDE", 8)
    iterative = cooccurrence_vectors(item, offsets, 60, dim=6, seed=5)
    np.testing.assert_allclose(iterative, dense, atol=1e-4)


def test_a_sketched_decomposition_keeps_nearly_all_that_the_exact_one_does(monkeypatch):
    # A matrix of rank 20 whose strengths fall slowly, and noise.
    rng = np.random.default_rng(5)
    factors = rng.normal(size=(700, 20)) * 0.9 ** np.arange(20)
    dense = factors @ rng.normal(size=(20, 600)) + 0.05 * rng.normal(size=(700, 600))
    matrix = scipy.sparse.csr_array(np.where(rng.random(dense.shape) < 0.5, dense, 0.0))
    exact = _truncated_svd(matrix, 12, 0, 1.0)
    monkeypatch.setattr("minirec.sids.item_vectors._SKETCHED_SIDE", 512)
    sketched = _truncated_svd(matrix, 12, 0, 1.0)
    assert sketched.shape == exact.shape
    captured = np.square(sketched).sum() / np.square(exact).sum()
    assert 0.995 < captured <= 1 + 1e-5
    lengths = np.linalg.norm(sketched, axis=0)
    directions = sketched / lengths
    np.testing.assert_allclose(directions.T @ directions, np.eye(12), atol=1e-4)
    np.testing.assert_array_equal(sketched, _truncated_svd(matrix, 12, 0, 1.0))
    # Directions that are weak beside the first are directions still.
    left, _ = np.linalg.qr(rng.normal(size=(700, 40)))
    right, _ = np.linalg.qr(rng.normal(size=(600, 40)))
    for strength in (0.6 ** np.arange(40), np.r_[1.0, np.full(39, 0.004)]):
        falling = scipy.sparse.csr_array((left * strength) @ right.T)
        found = np.linalg.norm(_truncated_svd(falling, 12, 0, 1.0), axis=0)
        np.testing.assert_allclose(found, strength[:12], rtol=0.02)
    # Columns beyond the rank are zeros, as those of the exact one.
    low = scipy.sparse.csr_array(factors[:, :3] @ rng.normal(size=(3, 600)))
    assert (_truncated_svd(low, 12, 0, 1.0)[:, 3:] == 0).all()


def test_combined_rows_have_length_one_and_unknown_kinds_are_filled_by_others():
    one = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    other = np.array([[0.0, 0.0, 2.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    combined = combine_vectors([one, other], [1.0, 3.0])
    np.testing.assert_allclose(combined[0], [0.3, 0.4, 0, 0, 0.75**0.5], rtol=1e-6)
    np.testing.assert_allclose(combined[1], [0, 0, 0, 1, 0], rtol=1e-6)
    assert not combined[2].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: text_vectors([]), "texts: the catalogue has no items"),
        (lambda: text_vectors(["a"], []), "attributes: 0 given for 1 texts"),
        (lambda: text_vectors(["a", "a"], dim=0), "dim: 0"),
        (lambda: text_vectors(["a"], [["b"]], attribute_weight=-1.0), "attribute_weight: -1.0"),
        (lambda: cooccurrence_vectors([0, 9], [0, 2], 3), r"item\[1\]: 9; must lie in \[0, 3\)"),
        (lambda: cooccurrence_vectors([0, -1], [0, 2], 3), r"item\[1\]: -1"),
        (lambda: cooccurrence_vectors([0.5], [0, 1], 3), "item: expected integers"),
        (lambda: cooccurrence_vectors([0, 1], [0, 1], 3), "offsets: must rise from 0 to .* 2"),
        (lambda: cooccurrence_vectors([0, 1], [0, 2, 1, 2], 3), "offsets: must rise"),
        (lambda: cooccurrence_vectors([0, 1], [], 3), "offsets: must rise"),
        (lambda: cooccurrence_vectors([0, 1], [0, 2], 3, window=0), "window: 0"),
        (lambda: cooccurrence_vectors([0, 1], [0, 2], 3, smoothing=2.0), "smoothing: 2.0"),
        (lambda: combine_vectors([]), "nothing to combine"),
        (lambda: combine_vectors([np.ones((2, 1)), np.ones((3, 1))]), r"shapes \[\[2, 1\], "),
        (lambda: combine_vectors([np.ones((2, 1))], [1.0, 2.0]), "2 given for 1 blocks"),
        (lambda: combine_vectors([np.ones((2, 1))], [0.0]), "must be positive"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_given_vectors_are_taken_as_they_are(tmp_path):
    vectors = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.save(tmp_path / "vectors.npy", vectors)
    loaded = load_vectors(tmp_path / "vectors.npy", 2)
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, vectors)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 2)), "3 rows; the catalogue has 2 items"),
        (np.zeros(2), r"expected real numbers \[2, D\]"),
        (np.zeros((2, 2), complex), "expected real numbers"),
        (np.array([["a"], ["b"]]), "not a readable .npy file of numbers: it holds <U1"),
        (np.array([[0.0], [np.inf]]), "row 1 holds NaN or an infinity"),
        (np.array([[0.0], [1e300]]), "row 1 holds NaN or an infinity"),
        (np.array([[{}], [{}]]), "not a readable .npy file"),
    ],
)
def test_wrong_given_vectors_are_refused_and_the_file_named(tmp_path, value, message):
    np.save(tmp_path / "vectors.npy", value)
    with pytest.raises(ValueError, match=rf"vectors\.npy: .*{message}"):
        load_vectors(tmp_path / "vectors.npy", 2)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_refused(tmp_path, content):
    (tmp_path / "vectors.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"vectors\.npy: not a readable"):
        load_vectors(tmp_path / "vectors.npy", 2)
