import numpy as np
import pytest

from minirec import files
from minirec.sids import SidTable
from minirec.sids.append import AppendedItems, append_sids
from minirec.sids.codebooks import Codebooks
from minirec.sids.collisions import resolve_collisions
from minirec.sids.item_vectors import fit_text
from minirec.sids.rq_kmeans import rq_kmeans
from minirec.sids.text_transform import TextTransform

TEXTS = ["red pan", "red lid", "blue pan", "blue lid", "red pan small", None, "green hat"]
ATTRIBUTES = [["a"], ["a", "b"], ["b"], [], ["a"], ["b"], ["c"]]


@pytest.fixture(scope="module")
def world():
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    return vectors, rq_kmeans(vectors, 2, 6, seed=0)


@pytest.mark.parametrize("policy", ["extra_level", "spare_capacity", "keep"])
def test_new_items_get_sids_of_known_codes_and_old_ones_stay(world, policy):
    vectors, result = world
    vectors, codes = vectors[:30], result.codes[:30]
    if policy == "spare_capacity":
        arguments = {"codebook_sizes": (6, 6), "quantiser": result, "vectors": vectors}
        codes, _ = resolve_collisions(codes, policy, **arguments)
    else:
        codes, _ = resolve_collisions(codes, policy, codebook_sizes=(6, 6))
    new = np.concatenate([vectors[:2], world[0][30:34]])
    sids = append_sids(codes, result, new, policy)
    for level in range(codes.shape[1]):
        assert set(sids[:, level]) <= set(codes[:, level]), "a code without a token"
    if policy == "keep":
        np.testing.assert_array_equal(sids[:2], codes[:2])
    else:
        both = np.concatenate([codes, sids])
        assert len(np.unique(both, axis=0)) == len(both)
    if policy == "extra_level":  # An item's twin stands beside it where a number is left.
        top = codes[:, -1].max()
        for twin, sid in zip(codes[:2], sids[:2], strict=True):
            group = (codes[:, :2] == twin[:2]).all(axis=1).sum()
            assert (sid[:2] == twin[:2]).all() == (group <= top)


def test_what_no_sid_is_left_for_is_refused(world):
    vectors, result = world
    codes, _ = resolve_collisions(result.codes, "extra_level", codebook_sizes=(6, 6))
    with pytest.raises(ValueError, match="SIDs over the codes that the model knows are free"):
        append_sids(codes, result, np.repeat(vectors, 20, axis=0), "extra_level")
    with pytest.raises(ValueError, match="3 levels, but the codebooks are of 2"):
        append_sids(codes, result, vectors, "keep")


def test_codebooks_come_back_as_they_were(world, tmp_path):
    vectors, result = world
    transform = fit_text(TEXTS, ATTRIBUTES, dim=3)[1]
    result.save(tmp_path / "codebooks.npz", {"source": "test"}, transform.arrays())
    codebooks, about, arrays = Codebooks.load(tmp_path / "codebooks.npz")
    assert about["source"] == "test"
    np.testing.assert_array_equal(codebooks.encode(vectors), result.encode(vectors))
    assert TextTransform.from_arrays(arrays, "x.npz").words == transform.words
    (tmp_path / "codebooks.npz").write_bytes((tmp_path / "codebooks.npz").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"codebooks.npz: not a readable .npz file"):
        Codebooks.load(tmp_path / "codebooks.npz")
    with pytest.raises(ValueError, match="no such file"):
        Codebooks.load(tmp_path / "nowhere.npz")


def test_text_of_old_items_gives_their_vectors_again():
    vectors, transform = fit_text(TEXTS, ATTRIBUTES, dim=4)
    kept = TextTransform.from_arrays(transform.arrays(), "x.npz")
    np.testing.assert_allclose(kept(TEXTS, ATTRIBUTES), vectors, atol=2e-5)
    assert not kept(["never seen"], [["z"]]).any()
    vectors, transform = fit_text(TEXTS, None, dim=4)
    np.testing.assert_allclose(transform(TEXTS, [[]] * len(TEXTS)), vectors, atol=2e-5)


def test_appended_items_are_kept_and_belong_to_their_sids(tmp_path):
    table = SidTable(("x", "y"), np.array([[0, 1], [1, 0]]), (2, 2))
    path = tmp_path / "appended.json"
    assert AppendedItems.load(path, table, "digest").raw_item_ids == ()
    added = AppendedItems("digest", ("new, 1", "ü"), ("A pan", ""), np.array([[0, 0], [1, 1]]))
    added.save(path)
    again = AppendedItems.load(path, table, "digest")
    assert (again.raw_item_ids, again.titles) == (added.raw_item_ids, added.titles)
    np.testing.assert_array_equal(again.codes, added.codes)
    with pytest.raises(ValueError, match=r"appended.json: sids_sha256 is 'digest'"):
        AppendedItems.load(path, table, "another")
    value = files.read_sealed(path, "")
    value["items"]["x"] = value["items"]["ü"]
    files.write_sealed(path, value)
    with pytest.raises(ValueError, match="item 'x' is among the others already"):
        AppendedItems.load(path, table, "digest")
    value["items"] = {"new": {"title": "A pan", "sid": ["<a_0>", "<b_9>"]}}
    files.write_sealed(path, value)
    with pytest.raises(ValueError, match=r"item 'new': '<b_9>' at level 1 lies outside"):
        AppendedItems.load(path, table, "digest")
