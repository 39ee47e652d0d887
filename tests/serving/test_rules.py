import numpy as np
import pytest

from minirec.serving.refusals import BadRequestError
from minirec.serving.rules import Columns, Rule, parse_rules


@pytest.fixture
def columns():
    return Columns(
        [
            ["kind=lamp", "price=10", "tag=a", "tag=b"],
            ["kind=chair", "price=25.5", "tag=b"],
            ["kind=lamp", "price=unknown"],
            ["noise"],
        ]
    )


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (Rule("kind", "in", ("lamp",)), [0, 2]),
        (Rule("kind", "in", ("chair", "lamp")), [0, 1, 2]),
        (Rule("kind", "not_in", ("lamp",)), [1]),
        (Rule("tag", "in", ("b",)), [0, 1]),
        (Rule("tag", "not_in", ("a",)), [1]),
        (Rule("price", "<", 25.5), [0]),
        (Rule("price", "<=", 25.5), [0, 1]),
        (Rule("price", ">", 10.0), [1]),
        (Rule("price", ">=", 10.0), [0, 1]),
        (Rule("kind", "in", ()), []),
    ],
)
def test_a_rule_allows_the_items_whose_column_says_so(columns, rule, allowed):
    mask = columns.mask((rule,), 6)
    assert np.flatnonzero(mask).tolist() == allowed
    assert len(mask) == 6  # Nothing is known of later items: no rule allows them.


def test_several_rules_must_all_hold(columns):
    rules = (Rule("kind", "in", ("lamp",)), Rule("price", "<", 100.0))
    assert np.flatnonzero(columns.mask(rules, 4)).tolist() == [0]


def test_columns_of_numbers_and_texts_stand_beside_attributes():
    columns = Columns(
        [["kind=lamp"], [], ["kind=chair"]], {"price": [20.0, None, 7], "maker": [None, "a=b", "c"]}
    )
    assert columns.names == ("kind", "maker", "price")
    assert columns.of(0) == {"kind": ["lamp"], "price": ["20"]}
    assert columns.of(1) == {"maker": ["a=b"]}
    longer = columns.and_later([["kind=lamp"], []], [{"price": 1.5}, {"size": "L"}])
    for rule, allowed in (
        (Rule("price", "<", 20.0), [2, 3]),
        (Rule("price", "in", ("20",)), [0]),
        (Rule("maker", "in", ("a=b",)), [1]),
        (Rule("kind", "in", ("lamp",)), [0, 3]),
        (Rule("size", "in", ("L",)), [4]),
    ):
        assert np.flatnonzero(longer.mask((rule,), 6)).tolist() == allowed
    assert np.flatnonzero(columns.mask((Rule("price", "<", 20.0),), 3)).tolist() == [2]


def test_what_is_known_of_an_item(columns):
    assert columns.names == ("kind", "price", "tag")
    assert columns.of(0) == {"kind": ["lamp"], "price": ["10"], "tag": ["a", "b"]}
    assert columns.of(3) == {}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("kind", "allow"),
        ([1], "allow[0]"),
        ([{"column": "kind", "op": "in"}], "allow[0]"),
        ([{"column": 3, "op": "in", "value": ["a"]}], "allow[0].column"),
        ([{"column": "kind", "op": "is", "value": ["a"]}], "allow[0].op"),
        ([{"column": "price", "op": "<", "value": "3"}], "allow[0].value"),
        ([{"column": "price", "op": "<", "value": True}], "allow[0].value"),
        ([{"column": "price", "op": "<", "value": float("nan")}], "allow[0].value"),
        ([{"column": "kind", "op": "in", "value": [3]}], "allow[0].value"),
        ([{"column": "kind", "op": "in", "value": ["a"] * 2000}], "allow[0].value"),
    ],
)
def test_what_is_no_rule_is_refused_by_the_name_of_its_field(value, field):
    with pytest.raises(BadRequestError) as error:
        parse_rules(value)
    assert error.value.field == field


def test_the_order_of_rules_does_not_matter():
    one = {"column": "kind", "op": "in", "value": "lamp"}
    two = {"column": "price", "op": "<", "value": 3}
    assert parse_rules([one, two]) == parse_rules([two, one, one])


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (Rule("size", "in", ("L",)), "allow[0].column"),
        (Rule("kind", "<", 3.0), "allow[0].op"),
    ],
)
def test_a_rule_that_no_column_can_answer_is_refused(columns, rule, field):
    with pytest.raises(BadRequestError) as error:
        columns.mask((rule,), 4)
    assert error.value.field == field
