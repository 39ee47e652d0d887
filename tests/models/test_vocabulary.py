"""A vocabulary that grows, and rows that are trained apart."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.models.layers import AddedParam
from minirec.models.vocabulary import NEW_ROWS, grow, merged, new_rows, split_rows
from tests.bounds import assert_close
from tests.models.language import TO_LOGITS, VOCAB, logits, make_language_model, shifted

RANDOM = np.random.default_rng(0)
CODEBOOKS = [RANDOM.normal(size=(8, 3)) * scale for scale in (5.0, 0.1)]
CODES = np.array([(level, code) for level in range(3) for code in range(8)])


def old_rows():
    mean = np.linspace(-2, 2, 256)
    return jnp.asarray(RANDOM.normal(mean, np.linspace(0.1, 0.5, 256), (400, 256)), jnp.float32)


def test_old_tokens_keep_rows_and_logits_and_new_ones_have_theirs():
    model = make_language_model()
    rows, head = RANDOM.normal(size=(2, 5, 16)).astype(np.float32)
    grown = grow(model, VOCAB + 5, rows, head)
    assert grown.config == dataclasses.replace(model.config, vocab_size=VOCAB + 5)
    for name, new in (("embedding", rows), ("head", head)):
        found, old = getattr(grown, name)[...], getattr(model, name)[...]
        np.testing.assert_array_equal(found, np.concatenate([old, new]))
    assert_close(logits(grown)[..., :VOCAB], logits(model), TO_LOGITS)


def test_new_tokens_take_unused_rows_first_and_rows_that_stay_unused_are_cut():
    model = make_language_model(tied=True)
    rows = np.ones((3, 16), np.float32)
    within = grow(model, VOCAB - 4, rows)
    assert within.embedding.shape == (within.config.vocab_size, 16) == (VOCAB - 4, 16)
    np.testing.assert_array_equal(within.embedding[:-3], model.embedding[: VOCAB - 7])
    np.testing.assert_array_equal(within.embedding[-3:], rows)
    assert grow(model, VOCAB + 1, rows).embedding.shape == (VOCAB + 1, 16)


def test_what_does_not_fit_is_an_error():
    untied, tied = make_language_model(), make_language_model(tied=True)
    rows = np.ones((3, 16), np.float32)
    with pytest.raises(ValueError, match="untied: head_rows is needed"):
        grow(untied, VOCAB + 3, rows)
    with pytest.raises(ValueError, match="tied: head_rows must be None"):
        grow(tied, VOCAB + 3, rows, rows)
    with pytest.raises(ValueError, match="34 old tokens"):
        grow(tied, VOCAB + 7, rows)
    with pytest.raises(ValueError, match=r"shape \(3, 15\), must be \(3, 16\)"):
        grow(tied, VOCAB + 3, rows[:, :15])
    with pytest.raises(ValueError, match="first=30"):
        split_rows(tied, VOCAB)


def test_mean_rows_are_the_mean():
    old = old_rows()
    rows = new_rows("mean", old, CODES, seed=0)
    assert_close(rows, np.tile(np.mean(old, axis=0), (24, 1)), len(old))


@pytest.mark.parametrize("kind", ["random", "codebooks"])
def test_drawn_rows_have_the_mean_and_the_spread_of_the_old(kind):
    old = old_rows()
    rows = new_rows(kind, old, CODES, seed=0, codebooks=CODEBOOKS)
    np.testing.assert_array_equal(
        rows, new_rows(kind, old, CODES, seed=0, codebooks=CODEBOOKS), "one seed, one draw"
    )
    units = (rows - np.mean(old, axis=0)) / np.std(old, axis=0)
    for level in range(3):
        of_level = units[CODES[:, 0] == level]
        assert abs(of_level.mean()) < 0.1
        assert abs(of_level.std() - 1) < 0.15, "whatever the codebook's own scale"


def test_codes_that_are_alike_start_alike_and_levels_apart():
    codebook = np.array([[1.0, 0, 0], [1.01, 0, 0], [-1, 0.5, 2], [0, -3, 1]])
    codes = np.array([(level, code) for level in range(2) for code in range(4)])
    old = old_rows()
    rows = new_rows("codebooks", old, codes, seed=0, codebooks=[codebook, codebook])
    units = (rows - np.mean(old, axis=0)) / np.std(old, axis=0)
    distance = np.linalg.norm(units[:, None] - units[None], axis=-1)
    assert distance[0, 1] < 0.05 * distance[0, 2]
    assert distance[0, 4] > 0.5 * distance[0, 2]


def test_a_start_that_is_none_or_lacks_its_codebooks_is_an_error():
    with pytest.raises(ValueError, match="must be one of mean, random, codebooks"):
        new_rows("zeros", old_rows(), CODES, seed=0)
    with pytest.raises(ValueError, match="needs the codebooks"):
        new_rows("codebooks", old_rows(), CODES, seed=0)
    assert len(NEW_ROWS) == 3


@pytest.mark.parametrize("tied", [False, True])
def test_rows_apart_compute_the_same_and_merge_back(tied):
    model = make_language_model(tied)
    before = logits(model)
    split_rows(model, 22)
    assert_close(logits(model), before, TO_LOGITS)
    added = nnx.to_flat_state(nnx.state(model, AddedParam))
    assert [v.shape for _, v in added] == [(8, 16)] * (1 if tied else 2)
    shifted(model, AddedParam)
    plain = merged(model)
    assert_close(logits(plain), logits(model), TO_LOGITS)
    assert np.abs(logits(plain)[..., 22:] - before[..., 22:]).max() > 0.1
    np.testing.assert_array_equal(
        plain.embedding[:22], make_language_model(tied).embedding[:22], "old rows stay"
    )
