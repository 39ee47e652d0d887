"""Rows by ridge regression: they add up to the text, and what nobody has is drawn."""

import numpy as np
import pytest

from minirec.models.warm_start import _solve, ridge_rows


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (200, 3))
    own = rng.standard_normal((3, 6, 5))
    text = sum(own[level, codes[:, level]] for level in range(3))
    old = rng.standard_normal((40, 5)).astype(np.float32) * 0.3 + 1
    return codes, text, old


def test_it_solves_the_normal_equations(items):
    codes, text, _ = items
    place = codes + np.arange(3) * 6
    target = text - text.mean(axis=0)
    dense = np.zeros((200, 18))
    dense[np.arange(200)[:, None], place] = 1
    expected = np.linalg.solve(dense.T @ dense + 0.01 * 200 * np.eye(18), dense.T @ target)
    np.testing.assert_allclose(_solve(place, 18, target, 0.01), expected, atol=1e-5)


def test_rows_add_up_to_what_the_text_says_and_are_spread_like_the_old(items):
    codes, text, old = items
    tokens = np.array([(level, code) for level in range(3) for code in range(6)])
    rows = ridge_rows(old, tokens, codes, text, seed=0)
    assert rows.dtype == np.float32
    normal = (rows - old.mean(axis=0)) / old.std(axis=0)
    assert np.sqrt(np.mean(normal**2)) == pytest.approx(1, rel=1e-4)
    added = sum(normal.reshape(3, 6, 5)[level, codes[:, level]] for level in range(3))
    centred = text - text.mean(axis=0)
    assert np.corrcoef(added.ravel(), centred.ravel())[0, 1] > 0.99


def test_what_no_item_has_is_drawn_and_few_items_are_fitted(items):
    codes, text, old = items
    tokens = np.array([(-1, -1), (0, 99), (0, 1)])
    rows = ridge_rows(old, tokens, codes, text, seed=0)
    other = ridge_rows(old, tokens, codes, text, seed=1)
    assert not np.array_equal(rows[:2], other[:2])
    np.testing.assert_array_equal(rows[2], other[2])
    few = ridge_rows(old, tokens, codes, text, seed=0, max_fit_samples=50)
    assert not np.array_equal(few[2], rows[2])
    for options in ({"ridge_lambda": 0.0}, {"max_fit_samples": 0}):
        with pytest.raises(ValueError, match="both must be above 0"):
            ridge_rows(old, tokens, codes, text, seed=0, **options)
    with pytest.raises(ValueError, match="200 items, but 3 texts"):
        ridge_rows(old, tokens, codes, text[:3], seed=0)
