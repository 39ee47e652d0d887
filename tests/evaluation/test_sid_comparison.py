"""What a comparison of quantisers says, where the answer is known."""

import dataclasses
import json

import numpy as np
import pytest

from minirec.evaluation.sid_comparison import (
    Comparison,
    QuantiserScores,
    additive_error,
    comparison_json,
)
from minirec.evaluation.sid_information import Information
from minirec.reports.sid_page import write_comparison
from minirec.sids.rq_kmeans import rq_kmeans


def scores(codes, bits):
    codes = np.array(codes)
    information = [Information(np.array(saved, float), 1.0, 2) for saved in bits]
    return QuantiserScores(
        settings={"source": "given"},
        codes=codes,
        codebook_sizes=(2, 2),
        relative_error=(0.5, 0.25),
        information=information,
        seconds=1.0,
        kept={"content": [0.75, 0.5], "transitions": [0.25, 0.125]},
        by_chance=[0.3, 0.2],
    )


@pytest.fixture
def comparison():
    one = scores([[0, 0], [0, 0], [1, 1]], [[1, 1], [1, 2], [1, 2]])
    other = scores([[0, 0], [0, 1], [1, 1]], [[0, 0], [1, 0], [1, 1]])
    return Comparison(
        name="a <b>",
        vectors="text",
        quantisers={"one": one, "o<i>ther": other},
        item_level=Information(np.array([0.5, 1.5]), 1.0, 3),
        num_transitions=7,
        config={"a": 1},
        seed=0,
    )


def test_the_error_of_given_sids_is_that_of_codebooks_fitted_to_them():
    vectors = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) + 3
    result = rq_kmeans(vectors, 2, 8, num_iterations=100, tolerance=0.0)
    found = additive_error(vectors, result.codes)
    expected = [error / result.variance for error in result.reconstruction_error]
    assert found == pytest.approx(expected, rel=0.02)
    whole = additive_error(vectors, np.arange(200)[:, None])
    assert whole[0] == pytest.approx(0, abs=1e-9)
    assert additive_error(vectors, np.zeros((200, 1), int)) == pytest.approx((1.0,))
    assert additive_error(np.ones((3, 2)), np.array([[0], [1], [1]])) == (0.0,)


def test_the_file_holds_every_level_and_the_page_is_whole_and_escaped(comparison, tmp_path):
    path = write_comparison(tmp_path, comparison)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content == json.loads(json.dumps(comparison_json(comparison)))
    level = content["quantisers"]["one"]["levels"][1]
    assert level["relative_error"] == 0.25
    assert level["information"]["bits"] == 1.5
    assert level["information"]["of_item_level"] == 1.5
    kept = {"content": 0.5, "transitions": 0.125, "by_chance": 0.2}
    assert level["neighbourhood_kept"] == kept
    assert content["quantisers"]["one"]["items_sharing_sid"] == 2
    assert content["quantisers"]["o<i>ther"]["items_sharing_sid"] == 0
    page = path.read_text()
    assert "a &lt;b&gt;" in page
    assert "<i>ther" not in page
    assert "1.500 bits" in page
    assert "may have been made with these transitions" in page
    for words in ("Neighbours by text", "Neighbours by transitions", "75.0%", "12.5%"):
        assert words in page


def test_correlations_are_of_the_quantisers_that_models_were_trained_on(comparison, tmp_path):
    one = comparison.quantisers["one"]
    quantisers = {
        name: dataclasses.replace(one, kept={"content": [kept, 0.0]}, by_chance=[0.0, 0.0])
        for name, kept in (("a", 0.1), ("b", 0.2), ("c", 0.4), ("d", 0.9))
    }
    found = dataclasses.replace(
        comparison, quantisers=quantisers, ndcg={"a": 0.05, "b": 0.04, "c": 0.02}
    )
    # The others are alike in all of them, which tells nothing.
    assert found.correlations() == {"content kept": pytest.approx(-1.0)}
    write_comparison(tmp_path, found)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["correlation_with_ndcg@10"] == {"content kept": pytest.approx(-1.0)}
    assert "content kept, r = −1.00" in (tmp_path / "index.html").read_text().replace("-1", "−1")
    assert dataclasses.replace(found, ndcg={"a": 0.05, "b": 0.04}).correlations() == {}
    with pytest.raises(ValueError, match="ndcg: 'e' is none of"):
        dataclasses.replace(found, ndcg={"e": 0.5})


def test_a_kind_that_some_quantisers_lack_is_drawn_of_the_others(comparison, tmp_path):
    one, other = comparison.quantisers.values()
    lacking = dataclasses.replace(one, kept={"content": one.kept["content"]})
    nothing = dataclasses.replace(other, kept={}, by_chance=())
    found = dataclasses.replace(comparison, quantisers={"a": lacking, "b": other, "c": nothing})
    page = write_comparison(tmp_path, found).read_text()
    assert "Neighbours by transitions" in page
    assert "30.0%, 30.0%" in page


def test_differences_are_of_the_same_transitions(comparison):
    gap, error = comparison.difference("one", "o<i>ther")
    assert (gap, error) == pytest.approx((1.0, 1.0))


def test_parts_that_do_not_belong_together_are_named(comparison):
    one = comparison.quantisers["one"]
    for quantisers, message in (
        ({}, "none given"),
        ({"a": one, "b": dataclasses.replace(one, codes=one.codes[:2])}, "numbers of items differ"),
        ({"a": dataclasses.replace(one, relative_error=(0.5,))}, "a has 2 levels, 1 errors"),
        ({"a": dataclasses.replace(one, by_chance=[0.1])}, "neighbourhoods for {'by_chance': 1}"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(comparison, quantisers=quantisers)
