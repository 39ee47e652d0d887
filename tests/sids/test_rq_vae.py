import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import blocks
from minirec.sids import rq_vae_training
from minirec.sids.append import append_sids
from minirec.sids.codebooks import Codebooks
from minirec.sids.collisions import resolve_collisions
from minirec.sids.latent_codebooks import LatentCodebooks, load_codebooks
from minirec.sids.rq_vae import rq_vae
from minirec.sids.rq_vae_codebooks import revive, update_running_sums
from minirec.sids.rq_vae_config import RQVAEConfig
from minirec.sids.rq_vae_model import Codebook, losses, rotate, straight_through
from tests.bounds import gamma

WIDTH, SIZES = 8, (16, 16)
CONFIG = RQVAEConfig(hidden_widths=(32,), latent_dim=8, num_steps=250, batch_size=128)


@pytest.fixture(scope="module")
def clusters():
    """400 points around 16 centres; the last 10 repeat the first 10."""
    random = np.random.default_rng(0)
    centres = 3 * random.normal(size=(16, WIDTH))
    points = centres[np.arange(400) % 16] + 0.3 * random.normal(size=(400, WIDTH))
    points[390:] = points[:10]
    return points.astype(np.float32)


@pytest.fixture(scope="module")
def result(clusters):
    return rq_vae(clusters, 2, SIZES, seed=1, config=CONFIG)


def test_clusters_are_reconstructed_far_better_than_by_the_mean(clusters, result):
    variance = clusters.var(axis=0).sum()
    assert result.variance == pytest.approx(variance, rel=2 * gamma(clusters.size))
    assert result.reconstruction_error[-1] < 0.1 * result.variance
    assert result.reconstruction_error[-1] < result.reconstruction_error[0]
    assert len(np.unique(result.codes[:, 0])) == 16


def test_the_reported_error_is_that_of_the_decoded_codes(clusters, result):
    error = np.square(clusters - result.decode(result.codes)).sum(axis=1).mean()
    assert result.reconstruction_error[-1] == pytest.approx(error, rel=1e-4)
    assert result.history.loss.shape == (CONFIG.num_steps,)
    # The last batches' error, before their own steps, is near that of all items after them.
    trained = result.history.reconstruction[-20:].mean()
    assert trained == pytest.approx(error / result.variance, rel=0.3)


def test_codes_and_counts_describe_each_other(result):
    assert result.codes.shape == (400, 2)
    assert result.codes.dtype == np.int32
    assert result.codebook_sizes == SIZES
    for level, (count, codebook) in enumerate(zip(result.counts, result.codebooks, strict=True)):
        assert np.array_equal(count, np.bincount(result.codes[:, level], minlength=16))
        assert codebook.shape == (16, CONFIG.latent_dim)
        assert (codebook[count == 0] == 0).all()


def test_a_kept_quantiser_gives_the_same_codes_and_says_what_is_wrong_with_a_file(
    clusters, result, tmp_path
):
    path = tmp_path / "codebooks.npz"
    result.save(path, {"source": "test"}, {"other": np.arange(3)})
    kept, about, arrays = load_codebooks(path)
    assert isinstance(kept, LatentCodebooks)
    assert about["source"] == "test"
    assert list(arrays) == ["other"]
    np.testing.assert_array_equal(kept.encode(clusters), result.codes)
    np.testing.assert_array_equal(kept.decode(result.codes), result.decode(result.codes))
    # A model may start its token embeddings from the plain codebooks in the same file.
    plain, _, _ = Codebooks.load(path)
    for codebook, exported in zip(result.codebooks, plain.codebooks, strict=True):
        np.testing.assert_array_equal(codebook, exported)

    narrow = dataclasses.replace(result, mean=result.mean[:3])
    narrow.save(path, {})
    with pytest.raises(
        ValueError, match=r"codebooks.npz: encoder_kernel_0: holds float32 \[8, 32\]"
    ):
        load_codebooks(path)
    dataclasses.replace(result, decoder=result.decoder[:1]).save(path, {})
    with pytest.raises(ValueError, match=r"codebooks.npz: it has no array 'decoder_kernel_1'"):
        load_codebooks(path)
    Codebooks(codebooks=plain.codebooks, counts=plain.counts).save(path, {})
    assert type(load_codebooks(path)[0]) is Codebooks


def test_a_start_from_kept_codebooks_goes_on_where_they_were(clusters, result, tmp_path):
    result.save(tmp_path / "codebooks.npz", {})
    start, _, _ = LatentCodebooks.load(tmp_path / "codebooks.npz")
    gentle = dataclasses.replace(CONFIG, num_steps=20, learning_rate=1e-4)
    grown = np.concatenate([clusters, clusters[:40] + 0.1])
    found = rq_vae(grown, 2, SIZES, seed=9, config=gentle, start=start)
    anew = rq_vae(grown, 2, SIZES, seed=9, config=gentle)
    assert found.history.reconstruction[0] < 0.2 * anew.history.reconstruction[0]
    assert (found.codes[:400, 0] == result.codes[:, 0]).mean() > 0.9
    assert (anew.codes[:400, 0] == result.codes[:, 0]).mean() < 0.5
    np.testing.assert_array_equal(found.mean, result.mean)
    # The earlier quantiser is left as it was.
    np.testing.assert_array_equal(start.encode(clusters), result.codes)

    wide = dataclasses.replace(CONFIG, latent_dim=9)
    for arguments, message in (
        ((clusters, 2, (16, 8), 0), r"start: codebooks of \(16, 16\); here \(16, 8\)"),
        ((clusters[:, :5], 2, SIZES, 0), r"layers are \(8, 32, 8\) wide; here they are \(5, 32"),
    ):
        with pytest.raises(ValueError, match=message):
            rq_vae(*arguments, config=CONFIG, start=start)
    with pytest.raises(ValueError, match=r"here they are \(8, 32, 9\)"):
        rq_vae(clusters, 2, SIZES, config=wide, start=start)


@pytest.mark.parametrize("policy", ["extra_level", "spare_capacity", "keep"])
def test_items_that_collide_and_items_that_come_later_get_sids(clusters, result, policy):
    some = clusters[:150]
    codes, _ = resolve_collisions(
        result.codes[:150], policy, codebook_sizes=SIZES, quantiser=result, vectors=some
    )
    later = clusters[150:153]
    new = append_sids(codes, result, later, policy)
    for level in range(codes.shape[1]):
        assert set(new[:, level]) <= set(codes[:, level]), "a code without a token"
    if policy != "keep":
        assert len(np.unique(np.concatenate([codes, new]), axis=0)) == 153
    else:
        assert (new == result.codes[150:153]).mean() > 0.5
    # Where a SID goes is as near as can be in the space of the codebooks.
    near = np.square(result.latent(later) - latent_of(result, new)).sum(axis=1)
    far = np.square(result.latent(later) - latent_of(result, codes[:3])).sum(axis=1)
    assert near.mean() < 0.5 * far.mean()


def latent_of(result, codes):
    return sum(book[codes[:, level]] for level, book in enumerate(result.codebooks))


def test_encode_gives_the_same_codes_again_and_codes_to_new_items(clusters, result):
    assert np.array_equal(result.encode(clusters), result.codes)
    assert np.array_equal(result.encode(clusters[70:75]), result.codes[70:75])
    assert np.array_equal(result.codes[390:], result.codes[:10])
    far = result.encode(100 * np.eye(WIDTH))
    assert all((result.counts[level][far[:, level]] > 0).all() for level in range(2))
    with pytest.raises(ValueError, match="3 wide; the codebooks are 8 wide"):
        result.encode(np.zeros((1, 3)))


def test_a_seed_gives_the_same_bits_on_any_scale_and_another_seed_others(clusters, result):
    again = rq_vae(clusters, 2, SIZES, seed=1, config=CONFIG)
    assert np.array_equal(again.codes, result.codes)
    assert again.reconstruction_error == result.reconstruction_error
    assert again.history.loss.tobytes() == result.history.loss.tobytes()
    moved = rq_vae(clusters.astype(np.float64) * 1e-3 + 5, 2, SIZES, seed=1, config=CONFIG)
    error = moved.reconstruction_error[-1] / moved.variance
    assert error == pytest.approx(result.reconstruction_error[-1] / result.variance, rel=0.5)
    other = rq_vae(clusters, 2, SIZES, seed=2, config=CONFIG)
    assert not np.array_equal(other.codes, result.codes)


def test_a_kmeans_start_lowers_the_first_loss(clusters, result):
    short = dataclasses.replace(CONFIG, num_steps=1, kmeans_start=False)
    random_start = rq_vae(clusters, 2, SIZES, seed=1, config=short)
    # Weights and the first batch are the same; only the codebooks differ.
    parts = result.history, random_start.history
    commitment = [history.loss[0] - history.reconstruction[0] for history in parts]
    assert commitment[0] < 0.3 * commitment[1]
    assert result.history.loss[0] < random_start.history.loss[0]


@pytest.mark.parametrize(
    "changes",
    [{"codebook_update": "gradient"}, {"estimator": "rotation"}],
)
def test_gradient_codebooks_and_the_rotation_trick_learn_too(clusters, changes):
    found = rq_vae(clusters, 2, SIZES, seed=1, config=dataclasses.replace(CONFIG, **changes))
    assert found.reconstruction_error[-1] < 0.15 * found.variance
    assert np.array_equal(found.encode(clusters), found.codes)


def test_vectors_without_any_difference_get_one_sid():
    found = rq_vae(np.ones((7, WIDTH)), 2, SIZES, seed=0, config=CONFIG)
    assert len(np.unique(found.codes, axis=0)) == 1
    assert found.variance == 0
    assert found.reconstruction_error[-1] < 1e-3


def test_a_loss_that_diverges_is_an_error_with_its_step(clusters):
    wild = dataclasses.replace(CONFIG, learning_rate=1e30, num_steps=30)
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step \d+ of 30"):
        rq_vae(clusters, 2, SIZES, config=wild)


@pytest.fixture(scope="module")
def pairs():
    """Encoder outputs and what they are quantised to: any, equal, opposite, zero."""
    random = np.random.default_rng(5)
    encoded, quantised = random.normal(size=(2, 5, 6)).astype(np.float32)
    quantised[1] = encoded[1]
    quantised[2] = -2 * encoded[2]
    encoded[3] = 0
    quantised[4] = 0
    return jnp.asarray(encoded), jnp.asarray(quantised)


def test_straight_through_copies_the_gradient(pairs):
    output, pull = jax.vjp(straight_through, *pairs)
    assert np.allclose(output, pairs[1], atol=1e-6)
    above = jnp.arange(30.0).reshape(5, 6)
    to_encoded, to_quantised = pull(above)
    assert np.array_equal(to_encoded, above)
    assert not np.asarray(to_quantised).any()


def test_the_rotation_tricks_gradient_is_that_of_its_definition(pairs):
    output, pull = jax.vjp(rotate, *pairs)
    assert np.allclose(output, pairs[1], atol=1e-5)
    above = jnp.asarray(np.random.default_rng(6).normal(size=(5, 6)), jnp.float32)
    to_encoded, to_quantised = pull(above)
    assert not np.asarray(to_quantised).any()
    for row in range(2):
        e, q = (np.asarray(side[row], np.float64) for side in pairs)
        size_e, size_q = np.linalg.norm(e), np.linalg.norm(q)
        # The rotation in the plane of e and q, built from the angle between them.
        first = e / size_e
        second = q - (q @ first) * first
        if np.linalg.norm(second) > 1e-6:
            second /= np.linalg.norm(second)
        cosine = q @ first / size_q
        sine = q @ second / size_q
        plane = np.stack([first, second])
        turn = np.array([[cosine - 1, -sine], [sine, cosine - 1]])
        rotation = np.eye(6) + plane.T @ turn @ plane
        assert np.allclose(size_q / size_e * rotation @ e, q, atol=1e-5)
        expected = size_q / size_e * rotation.T @ np.asarray(above[row])
        assert np.allclose(to_encoded[row], expected, atol=1e-4)
    # Opposite: turned over along their line, everything else kept; doubled in size.
    e = np.asarray(pairs[0][2], np.float64)
    mirror = np.eye(6) - 2 * np.outer(e, e) / (e @ e)
    assert np.allclose(to_encoded[2], 2 * mirror @ np.asarray(above[2]), atol=1e-4)
    # Where one of them is zero nothing turns.
    assert np.array_equal(to_encoded[3:], above[3:])


def test_the_loss_moves_encoder_and_codes_each_by_its_own_part(clusters):
    """At one batch: EMA codes get no gradient; with trained ones it is the codebook loss's."""
    config = dataclasses.replace(CONFIG, codebook_update="gradient")
    trained = rq_vae_training.RQVAE(WIDTH, SIZES, config, nnx.Rngs(0))
    random = np.random.default_rng(0)
    for codebook in trained.codebooks:
        codebook.vectors[...] = jnp.asarray(random.normal(size=(16, 8)), jnp.float32)
    batch = jnp.asarray(clusters[:32])
    graph, params, rest = nnx.split(trained, nnx.Param, ...)

    def loss(params):
        parts, quantised = losses(nnx.merge(graph, params, rest), batch, config)
        return parts.reconstruction + parts.codebook, quantised

    gradient, quantised = jax.grad(loss, has_aux=True)(params)
    for level in range(2):
        code = np.asarray(quantised.codes[level])
        difference = quantised.vectors[level] - quantised.residuals[level]
        expected = np.zeros((16, 8))
        np.add.at(expected, code, np.asarray(2 * difference / (32 * WIDTH)))
        assert np.allclose(gradient["codebooks"][level]["vectors"][...], expected, atol=1e-6)
    means = rq_vae_training.RQVAE(WIDTH, SIZES, CONFIG, nnx.Rngs(0))
    assert nnx.state(means, nnx.Param)["encoder"]
    assert "codebooks" not in nnx.state(means, nnx.Param)


def test_running_means_follow_the_reference():
    random = np.random.default_rng(0)
    codebook = Codebook(4, 3, is_trained=False)
    counts, sums = np.ones(4), random.normal(size=(4, 3))
    vectors = sums.copy()
    codebook.vectors[...], codebook.sums[...] = jnp.asarray(vectors), jnp.asarray(sums)
    codebook.counts[...] = jnp.ones(4)
    for _ in range(3):
        codes, rows = random.integers(0, 3, 10), random.normal(size=(10, 3))
        update_running_sums(codebook, jnp.asarray(codes), jnp.asarray(rows), 0.9, move=True)
        for code in range(4):
            counts[code] = 0.9 * counts[code] + 0.1 * (codes == code).sum()
            sums[code] = 0.9 * sums[code] + 0.1 * rows[codes == code].sum(axis=0)
            if (codes == code).any():
                vectors[code] = sums[code] / counts[code]
    assert np.allclose(codebook.counts[...], counts, atol=1e-6)
    assert np.allclose(codebook.sums[...], sums, atol=1e-6)
    assert np.allclose(codebook.vectors[...], vectors, atol=1e-6)


def test_dead_codes_move_to_different_residuals_that_need_one():
    codebook = Codebook(4, 2, is_trained=False)
    codebook.vectors[...] = jnp.asarray([[1.0, 0], [9, 9], [8, 8], [0, 1]])
    codebook.counts[...] = jnp.asarray([3.0, 0, 0.01, 3])
    rows = jnp.asarray([[1.0, 0], [1, 0], [5, 0], [0, 7], [0, 1], [0, 1]])
    codes = jnp.asarray([0, 0, 0, 3, 3, 3])
    moved = revive(codebook, codes, rows, jax.random.key(0), 0.1)
    assert moved == 2
    # Only two of the residuals are not represented already.
    assert {tuple(row) for row in np.asarray(codebook.vectors[...])[1:3]} == {(5, 0), (0, 7)}
    assert np.array_equal(codebook.vectors[...][jnp.asarray([0, 3])], [[1, 0], [0, 1]])
    assert np.allclose(codebook.counts[...], [3, 1.5, 1.5, 3])
    assert np.allclose(codebook.sums[...][1:3], 1.5 * codebook.vectors[...][1:3])
    before = np.asarray(codebook.vectors[...])
    assert revive(codebook, codes, rows, jax.random.key(0), 0.1) == 0
    assert np.array_equal(codebook.vectors[...], before)


def test_codes_that_start_dead_come_to_life_in_training(clusters):
    """From a random start far off, one code takes everything; revival spreads the items."""
    changes = {"kmeans_start": False, "ema_decay": 0.8}
    used = [
        rq_vae(
            clusters,
            2,
            SIZES,
            seed=3,
            config=dataclasses.replace(CONFIG, **changes, revive_below=fraction),
        )
        for fraction in (0.0, 0.1)
    ]
    assert used[0].history.revived.sum() == 0
    assert used[1].history.revived.sum() > 0
    assert (used[0].counts[0] > 0).sum() < (used[1].counts[0] > 0).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_widths": (4, 0)}, r"hidden_widths\[1\]=0: must be a whole number of at least 1"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"num_steps": 1.5}, r"num_steps=1\.5"),
        ({"learning_rate": 0.0}, r"learning_rate: 0.0; must lie in \(0, inf\)"),
        ({"ema_decay": 1.0}, r"ema_decay: 1.0; must lie in \[0, 1\)"),
        ({"commitment": float("nan")}, "commitment: nan"),
        ({"estimator": "gumbel"}, "estimator: 'gumbel'; must be one of"),
        ({"codebook_update": "none"}, "codebook_update: 'none'"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RQVAEConfig(**changes)


def test_wrong_vectors_and_sizes_are_named_before_any_work():
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        rq_vae(np.array([[0.0], [np.nan]]), 2, 4)
    with pytest.raises(ValueError, match="codebook_size: 0 at level 1"):
        rq_vae(np.zeros((3, 2)), 2, [4, 0])


def test_the_config_files_defaults_are_those_of_the_library():
    assert RQVAEConfig(**blocks.sids().rq_vae.to_dict()) == RQVAEConfig()
