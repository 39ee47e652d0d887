"""Ids that differ in how they are written alone find each other."""

import pytest

from pipelines.prepare.alike_ids import alike, plain_id


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("007", "7", True),
        (" 7 ", "007", True),
        ("7.0", "7", True),
        ("7.10", "7.1", False),
        ("b00A", "B00a", True),
        ("0", "000", True),
        ("0", "", False),
        ("70", "7", False),
        ("a.0", "a", False),
    ],
)
def test_what_counts_as_the_same(one, other, same):
    assert (plain_id(one) == plain_id(other)) is same


def test_the_first_known_id_is_given():
    assert alike(["07", "x", "A"], ["7", "007", "a"]) == {"07": "7", "A": "a"}
    assert alike(["1"], []) == {}
