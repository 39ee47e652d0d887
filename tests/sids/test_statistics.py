import json

import numpy as np
import pytest

from minirec.sids import SidTable, sid_report


def test_a_report_counts_use_perplexity_and_collisions_a_level():
    report = sid_report(np.array([[0, 0], [0, 0], [1, 3], [1, 2]]), (2, 8))
    assert report["num_items"] == 4
    assert report["codebook_sizes"] == [2, 8]
    assert (report["distinct_sids"], report["items_sharing_sid"]) == (3, 2)
    assert (report["largest_group"], report["collision_rate"]) == (2, 0.25)
    first, second = report["levels"]
    assert (first["used"], first["fraction_used"]) == (2, 1.0)
    assert first["perplexity"] == pytest.approx(2.0)
    assert (first["distinct_prefixes"], first["items_sharing_prefix"]) == (2, 4)
    assert (second["used"], second["fraction_used"], second["largest_share"]) == (3, 3 / 8, 0.5)
    assert second["perplexity"] == pytest.approx(2**1.5)
    assert (second["distinct_prefixes"], second["largest_group"]) == (3, 2)
    assert report["code_counts"] == [[2, 2], [2, 0, 1, 1, 0, 0, 0, 0]]


def test_a_report_is_plain_json():
    report = sid_report(np.random.default_rng(0).integers(0, 4, (30, 3)))
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_one_item_uses_one_code_alone():
    report = sid_report(np.zeros((1, 2), np.int32))
    assert report["levels"][0]["perplexity"] == 1.0
    assert report["items_sharing_sid"] == 0


def test_a_report_needs_codes_that_fit():
    with pytest.raises(ValueError, match="filled integer array"):
        sid_report(np.zeros((0, 2), np.int32))
    with pytest.raises(ValueError, match="codebook_sizes: 1 at level 1"):
        sid_report(np.array([[0, 1]]), (1, 1))


def test_the_real_industrial_sids_collide_as_their_readme_says(real_data):
    (path,) = (real_data / "amazon_industrial" / "index").glob("*.index.json")
    report = sid_report(SidTable.load(path).codes)
    assert report["distinct_sids"] == 3_670
    assert report["items_sharing_sid"] == 31
