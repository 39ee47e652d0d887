import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from minirec.sids.kmeans import Centroids, assign, lloyd, plus_plus
from minirec.sids.rq_kmeans import rq_kmeans
from tests.bounds import gamma

WIDTH = 8


@pytest.fixture(scope="module")
def cloud():
    """600 points without structure."""
    return np.random.default_rng(0).normal(size=(600, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def result(cloud):
    return rq_kmeans(cloud, num_levels=3, codebook_size=16, seed=1)


def test_every_level_lowers_the_error(cloud, result):
    errors = (result.variance, *result.reconstruction_error)
    assert all(later < 0.75 * earlier for earlier, later in itertools.pairwise(errors))
    assert result.variance == pytest.approx(cloud.var(axis=0).sum(), rel=2 * gamma(cloud.size))


def test_shapes_and_counts_describe_the_codes(result):
    assert result.codes.shape == (600, 3)
    assert result.codes.dtype == np.int32
    assert result.codebook_sizes == (16, 16, 16)
    for level, count in enumerate(result.counts):
        assert np.array_equal(count, np.bincount(result.codes[:, level], minlength=16))
        assert (count > 0).all()


def test_the_reported_error_is_that_of_the_decoded_codes(cloud, result):
    error = np.square(cloud - result.decode(result.codes)).sum(axis=1).mean()
    assert result.reconstruction_error[-1] == pytest.approx(error, rel=2 * gamma(cloud.size))


def test_each_level_takes_the_nearest_code(cloud, result):
    residual = cloud.astype(np.float64)
    for level, codebook in enumerate(result.codebooks):
        distance = np.square(residual[:, None] - codebook).sum(axis=-1)
        chosen = distance[np.arange(600), result.codes[:, level]]
        assert (chosen <= distance.min(axis=1) + 1e-5).all()
        residual -= codebook[result.codes[:, level]]


def test_encode_gives_the_same_codes_again_and_codes_to_new_items(cloud, result):
    assert np.array_equal(result.encode(cloud), result.codes)
    assert np.array_equal(result.encode(cloud[70:75]), result.codes[70:75])
    with pytest.raises(ValueError, match="3 wide; the codebooks are 8 wide"):
        result.encode(np.zeros((1, 3)))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(cloud, result):
    again = rq_kmeans(cloud, 3, 16, seed=1)
    assert np.array_equal(again.codes, result.codes)
    assert again.reconstruction_error == result.reconstruction_error
    for one, other in zip(again.codebooks, result.codebooks, strict=True):
        assert one.tobytes() == other.tobytes()
    assert not np.array_equal(rq_kmeans(cloud, 3, 16, seed=2).codes, result.codes)


def test_levels_of_one_size_and_further_calls_share_one_compilation(cloud, result):
    before = [function._cache_size() for function in (plus_plus, lloyd, assign)]
    rq_kmeans(cloud + 1, 5, 16, seed=3, num_iterations=4, tolerance=0.0)
    assert [function._cache_size() for function in (plus_plus, lloyd, assign)] == before


def test_the_first_level_is_as_good_as_scikit_learns_kmeans(cloud, result):
    oracle = KMeans(16, n_init=1, random_state=0).fit(cloud)
    assert result.reconstruction_error[0] < 1.05 * oracle.inertia_ / len(cloud)


def test_planted_clusters_are_found(cloud):
    centres = 10 * np.eye(WIDTH, dtype=np.float32)
    centres = np.concatenate([centres, -centres])
    label = np.arange(600) % 16
    found = rq_kmeans(centres[label] + 0.1 * cloud, 1, 16, seed=0)
    pairs = {(int(one), int(other)) for one, other in zip(label, found.codes[:, 0], strict=True)}
    assert len(pairs) == 16
    assert len({code for _, code in pairs}) == 16


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0.0), (1.0, 1000.0)])
def test_scale_and_offset_do_not_matter(cloud, result, scale, offset):
    moved = rq_kmeans(cloud.astype(np.float64) * scale + offset, 3, 16, seed=1)
    error = moved.reconstruction_error[-1] / moved.variance
    assert error == pytest.approx(result.reconstruction_error[-1] / result.variance, rel=0.05)


def test_more_codes_than_distinct_vectors_leaves_codes_unused(cloud):
    distinct = cloud[:5]
    vectors = distinct[np.arange(600) % 5]
    found = rq_kmeans(vectors, 2, 16, seed=0)
    assert len(np.unique(found.codes[:, 0])) == 5
    assert np.array_equal(found.codes, found.codes[np.arange(600) % 5])
    assert (found.codes[:, 1] == found.codes[0, 1]).all()
    assert found.reconstruction_error[-1] < 1e-10
    assert all(
        (codebook[count == 0] == 0).all()
        for codebook, count in zip(found.codebooks, found.counts, strict=True)
    )
    # What is near an unused code's zeros still gets a code that is in use.
    assert found.counts[0][found.encode(np.zeros((1, WIDTH)))[0, 0]] > 0


def test_equal_vectors_get_one_sid_and_weigh_by_their_number(cloud):
    vectors = np.concatenate([cloud, np.repeat(cloud[:1], 40, axis=0), -0.0 * cloud[:3] + 0.0])
    found = rq_kmeans(vectors, 2, 16, seed=0)
    assert (found.codes[600:640] == found.codes[0]).all()
    assert (found.codes[640:] == found.codes[640]).all()
    assert sum(found.counts[0]) == len(vectors)


@pytest.mark.parametrize("vectors", [np.ones((7, WIDTH)), np.zeros((1, WIDTH), np.int64)])
def test_vectors_without_any_difference_get_one_sid(vectors):
    found = rq_kmeans(vectors, 2, 16, seed=0)
    assert len(np.unique(found.codes, axis=0)) == 1
    assert found.reconstruction_error == (0.0, 0.0)


def test_levels_may_differ_in_size(cloud):
    found = rq_kmeans(cloud, 3, [4, 1, 16], seed=0)
    assert found.codebook_sizes == (4, 1, 16)
    assert (found.codes.max(axis=0) < (4, 1, 16)).all()
    assert (found.codes[:, 1] == 0).all()


def test_catalogues_of_several_blocks_match_the_plain_assignment(cloud):
    random = np.random.default_rng(3)
    vectors = random.normal(size=(9_000, WIDTH)).astype(np.float32)
    found = rq_kmeans(vectors, 1, 16, seed=0, num_iterations=3)
    distance = np.square(vectors[:, None] - found.codebooks[0]).sum(axis=-1)
    chosen = distance[np.arange(9_000), found.codes[:, 0]]
    assert (chosen <= distance.min(axis=1) + 1e-5).all()
    assert found.counts[0].sum() == 9_000


def _run_lloyd(points, start, iterations, rows=4096):
    blocks = np.zeros((1, rows, WIDTH), np.float32)
    blocks[0, : len(points)] = points
    weights = np.zeros((1, rows), np.float32)
    weights[0, : len(points)] = 1
    found, used = lloyd(
        jnp.asarray(blocks), jnp.asarray(weights), start, jnp.float32(1e-12),
        jnp.int32(iterations), jnp.float32(1e-4),
    )  # fmt: skip
    codes = np.asarray(assign(jnp.asarray(blocks), found)).reshape(-1)[: len(points)]
    return found, codes, int(used)


def test_dead_centroids_are_revived_at_the_worst_points(cloud):
    """All start in one place, so that all but the first have nothing."""
    start = Centroids(jnp.full((16, WIDTH), 0.5), jnp.ones(16, bool))
    found, codes, _ = _run_lloyd(cloud, start, 1)
    assert np.asarray(found.alive).all()
    worst = np.argsort(-np.square(cloud - 0.5).sum(axis=1))[:15]
    assert np.array_equal(np.asarray(found.vectors)[1:], cloud[worst])
    found, codes, _ = _run_lloyd(cloud, start, 50)
    assert len(np.unique(codes)) == 16


def test_a_centroid_with_nothing_left_to_represent_stays_dead(cloud):
    start = Centroids(jnp.full((16, WIDTH), 0.5), jnp.ones(16, bool))
    found, codes, used = _run_lloyd(cloud[:3], start, 50)
    assert np.asarray(found.alive).sum() == 3
    assert len(np.unique(codes)) == 3
    assert used < 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.array([[0.0], [np.nan]])}, "row 1 holds NaN"),
        ({"vectors": np.array([[np.inf]])}, "row 0 holds NaN, an infinity"),
        ({"vectors": np.array([[1e16]])}, "beyond 1e\\+15"),
        ({"vectors": np.zeros((0, 4))}, "filled real array"),
        ({"vectors": np.zeros(4)}, "filled real array"),
        ({"vectors": np.zeros((4, 1), complex)}, "filled real array"),
        ({"num_levels": 0}, "num_levels: 0"),
        ({"num_levels": 17}, "num_levels: 17"),
        ({"codebook_size": 0}, "codebook_size: 0 at level 0"),
        ({"codebook_size": [4, 65_537]}, "codebook_size: 65537 at level 1"),
        ({"codebook_size": [4]}, "1 given for 2 levels"),
        ({"num_iterations": 0}, "num_iterations: 0"),
        ({"tolerance": float("nan")}, "tolerance: nan"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(changes, message):
    arguments = {"vectors": np.zeros((3, 2)), "num_levels": 2, "codebook_size": 4} | changes
    with pytest.raises(ValueError, match=message):
        rq_kmeans(**arguments)
