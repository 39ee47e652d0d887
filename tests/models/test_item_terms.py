"""Items' terms: which are kept, and that a model's rows are own rows plus weighted terms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from flax import nnx

from minirec.models import ItemDecoder, ItemReader, ItemTerms, WholeRows
from minirec.models.item_terms import summed_terms
from minirec.recommend.content import content_rows
from tests.bounds import assert_close
from tests.models.test_item_decoder import CONFIG, READ, SIDS, N, prompts

T, W, D = 9, 4, CONFIG.trunk.width
HISTORIES = [[3, 1, 4], [5], [2, 6, 0, 7]]
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
ROUNDINGS = READ + W + 1  # A sum of an item's terms and its own row more.


def drawn_weights():
    """`[N, T]`, some four terms an item, of which the last has none."""
    rng = np.random.default_rng(2)
    weights = rng.random((N, T)) * (rng.random((N, T)) < 0.4)
    weights[np.arange(T), np.arange(T)] += 0.1  # Every term is some item's.
    weights[-1] = 0
    return weights


def dense(terms):
    """`[N, T]`, the weights of an item's terms."""
    weights = np.zeros((terms.num_items, terms.num_terms))
    np.add.at(weights, (np.arange(terms.num_items)[:, None], terms.term), terms.weight)
    return weights


TERMS = ItemTerms.of(scipy.sparse.csr_array(drawn_weights()), per_item=W)


@pytest.fixture(scope="module")
def model():
    model = ItemDecoder(dataclasses.replace(CONFIG, num_terms=T), rngs=nnx.Rngs(0))
    for parameter in (model.embedding, model.items, model.terms):
        parameter[...] = parameter[...] * 20
    return model


@pytest.fixture(scope="module")
def plain(model):
    """A model without terms whose own rows are the sums, made by NumPy."""
    plain = ItemDecoder(CONFIG, rngs=nnx.Rngs(0))
    plain.embedding[...] = model.embedding[...]
    rows = np.asarray(model.items[...], np.float64)
    rows += dense(TERMS) @ np.asarray(model.terms[...], np.float64)
    plain.items[...] = jnp.asarray(rows, jnp.float32)
    return plain


@fast_jit
def read(model, item, lengths, terms=None, sids=SIDS):
    return model.read(item, lengths, sids, terms)


def test_an_item_keeps_its_heaviest_terms_at_length_one():
    rows = np.array([[0.1, 0.4, 0.2, 0, 0.4], [0, 0, 0.6, 0.8, 0], [0, 0, 0, 0, 0]])
    terms = ItemTerms.of(scipy.sparse.csr_array(rows), per_item=2)
    np.testing.assert_array_equal(terms.term, [[0, 3], [1, 2], [0, 0]])
    expected = [[0.5**0.5, 0.5**0.5], [0.6, 0.8], [0, 0]]
    np.testing.assert_allclose(terms.weight, expected, rtol=1e-6)
    assert (terms.num_items, terms.num_terms) == (3, 4)  # The first column is nobody's any more.
    assert terms.term.dtype == np.int32
    assert terms.weight.dtype == np.float32


def test_of_too_many_terms_those_of_most_items_stay():
    rows = np.array([[1.0, 0, 5, 1], [1, 1, 0, 1], [0, 1, 0, 1]])
    terms = ItemTerms.of(scipy.sparse.csr_array(rows), max_terms=2)
    assert terms.num_terms == 2  # The last column, then of two with as many items the first.
    np.testing.assert_array_equal(terms.term, [[0, 1], [0, 1], [1, 0]])
    np.testing.assert_array_equal(terms.weight[2], [1, 0])


def test_later_items_have_the_terms_of_the_first_by_their_titles():
    titles = ["red wool hat", "red silk hat", "blue silk scarf", "blue wool scarf"]
    later = ["", "red scarf unheard"]
    rows = content_rows(titles, [[]] * 4, later)
    first = content_rows(titles, [[]] * 4)
    np.testing.assert_array_equal(rows[:4].toarray(), first.toarray())
    terms = ItemTerms.of(rows, num_items=4)
    alone = ItemTerms.of(first)
    assert terms.num_terms == alone.num_terms == 6
    np.testing.assert_array_equal(terms.term[:4], alone.term)
    assert not terms.weight[4].any()
    assert (terms.weight[5] > 0).sum() == 2  # "red" and "scarf"
    assert content_rows([""] * 2, [["a=b"], ["a=b", "c=d"]], later).shape[0] == 4
    assert content_rows(["", ""], [[], []], later).nnz == 0


def test_nothing_known_of_any_item_is_no_terms():
    assert ItemTerms.of(content_rows(["", ""], [[], []])) is None


def test_impossible_bounds_are_errors():
    rows = scipy.sparse.csr_array(np.eye(2))
    with pytest.raises(ValueError, match=r"per_item=0: must be at least 1"):
        ItemTerms.of(rows, per_item=0)
    with pytest.raises(ValueError, match=r"max_terms=0"):
        ItemTerms.of(rows, max_terms=0)


def test_sums_of_all_items_never_hold_every_term_of_every_item():
    shape = (2000, 24)
    terms = ItemTerms(np.zeros(shape, np.int32), np.ones(shape, np.float32), 5)
    program = fast_jit(summed_terms).lower(jnp.ones((5, 64)), terms).compile()
    assert program.memory_analysis().temp_size_in_bytes < 0.2 * 2000 * 24 * 64 * 4


def test_rows_at_the_output_are_own_rows_and_weighted_terms(model, plain):
    expected = np.asarray(plain.items[...])
    assert_close(model.item_rows(terms=TERMS), expected, W + 3, scale=4)
    some = np.array([[3, N - 1], [0, 3]])
    assert_close(model.item_rows(some, TERMS), expected[some], W + 3, scale=4)
    states = read(plain, *prompts(HISTORIES))
    logits = fast_jit(lambda m, s: m.item_logits(s, TERMS))(model, states)
    assert_close(logits, states @ expected.T, W + D + 5, scale=60)


def test_what_is_read_of_an_item_is_its_own_row_and_weighted_terms(model, plain):
    expected = read(plain, *prompts(HISTORIES))
    assert_close(read(model, *prompts(HISTORIES), TERMS), expected, ROUNDINGS)


def test_a_reader_makes_the_rows_once_and_reads_and_scores_by_them(model, plain):
    reader, other = ItemReader(model, SIDS, TERMS), ItemReader(plain, SIDS)
    assert_close(reader.rows[...], plain.items[...], W + 3, scale=4)
    states = fast_jit(lambda r, *prompt: r.read(*prompt))(reader, *prompts(HISTORIES))
    assert_close(states, read(plain, *prompts(HISTORIES)), ROUNDINGS)
    items = np.array([[1, 4, -1], [0, N, 2], [19, 3, 3]])
    for found, expected in (
        (reader.item_logits(states), other.item_logits(states)),
        (reader.item_scores(states, items), other.item_scores(states, items)),
    ):
        np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
        finite = np.isfinite(found)
        assert_close(found[finite], expected[finite], W + D + 5, scale=60)


def test_items_of_one_text_that_nobody_took_score_alike(model):
    same = drawn_weights()
    same[7] = same[11]
    terms = ItemTerms.of(scipy.sparse.csr_array(same), per_item=W)
    untaken = nnx.clone(model)
    untaken.items[...] = untaken.items[...].at[jnp.array([7, 11])].set(0.0)
    reader = ItemReader(untaken, SIDS, terms)
    logits = np.asarray(reader.item_logits(read(model, *prompts(HISTORIES), TERMS)))
    np.testing.assert_array_equal(logits[:, 7], logits[:, 11])
    assert np.abs(logits[:, 7]).min() > 0


def test_an_item_that_came_later_is_read_by_its_sid_and_terms(model):
    item, lengths = prompts([HISTORIES[2]])
    later = item.copy()
    later[0, 0] = N
    first = int(item[0, 0])
    sids = np.concatenate([SIDS, SIDS[[first]]])
    more = ItemTerms(
        np.concatenate([TERMS.term, TERMS.term[[first]]]),
        np.concatenate([TERMS.weight, TERMS.weight[[first]]]),
        T,
    )
    without = nnx.clone(model)
    without.items[...] = without.items[...].at[first].set(0.0)
    expected = read(without, item, lengths, TERMS)
    assert_close(read(model, later, lengths, more, sids), expected, ROUNDINGS)
    whole = model.whole_rows(more)
    assert whole.rows.shape == (N + 1, D)
    assert_close(read(model, later, lengths, whole, sids), expected, ROUNDINGS)
    assert model.item_rows(terms=whole).shape == (N, D)


def test_without_terms_a_model_has_the_parameters_that_it_had(model):
    old = nnx.to_flat_state(nnx.state(ItemDecoder(CONFIG, rngs=nnx.Rngs(0))))
    config = dataclasses.replace(CONFIG, num_terms=T)
    new = dict(nnx.to_flat_state(nnx.state(ItemDecoder(config, rngs=nnx.Rngs(0)))))
    assert new.keys() - dict(old).keys() == {("terms",)}
    for path, value in old:
        np.testing.assert_array_equal(value[...], new[path][...])
    assert ItemReader(ItemDecoder(CONFIG, rngs=nnx.Rngs(0)), SIDS).rows is None
    assert model.terms.out_sharding == model.items.out_sharding


def test_terms_that_the_model_has_no_rows_for_are_errors(model, plain):
    with pytest.raises(ValueError, match=r"terms: none were given, but .*num_terms is 9"):
        model.item_rows()
    with pytest.raises(ValueError, match=r"those of 20 items were given, .*num_terms is 0"):
        plain.item_rows(terms=TERMS)
    with pytest.raises(ValueError, match=r"num_terms is 8, but ItemDecoderConfig.num_terms is 9"):
        ItemReader(model, SIDS, dataclasses.replace(TERMS, num_terms=8))
    with pytest.raises(ValueError, match=r"those of 3 items were given, .*num_items is 20"):
        model.item_rows(terms=WholeRows(jnp.zeros((3, D))))
    with pytest.raises(ValueError, match=r"ItemDecoderConfig.num_terms=-1"):
        dataclasses.replace(CONFIG, num_terms=-1)
