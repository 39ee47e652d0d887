"""The trie's layout: any catalogue in, the same prefixes and items out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.trie import DEAD_NODE, TrieCapacities, build_trie


def one_size(num_levels):
    """Returns capacities that make every level's arrays equally large, to share what compiles."""
    return TrieCapacities(
        nodes=(256,) * num_levels,
        children=(256,) * num_levels,
        items=256,
        rows=256,
        items_per_leaf=64,
    )


def walk(trie):
    """Returns every (sid, items) of a trie, by its public functions alone, root to leaves."""
    prefixes = [()]
    for level in range(trie.num_levels):
        nodes = np.resize(np.arange(len(prefixes), dtype=np.int32), max(len(prefixes), 256))
        token, node, valid = (np.asarray(array) for array in trie.children(nodes, level))
        longer = {}
        for row, column in np.argwhere(valid[: len(prefixes)]):
            longer[int(node[row, column])] = (*prefixes[row], int(token[row, column]))
        prefixes = [longer[node] for node in range(len(longer))]
    items = np.asarray(trie.items(np.arange(len(prefixes), dtype=np.int32)))
    return [(sid, tuple(row[row >= 0].tolist())) for sid, row in zip(prefixes, items, strict=True)]


def grouped(sids, items=None):
    """Returns the sorted (sid, items in row order) of a catalogue, without a trie."""
    leaves = {}
    for row, sid in enumerate(np.asarray(sids).tolist()):
        leaves.setdefault(tuple(sid), []).append(row if items is None else int(items[row]))
    return sorted((sid, tuple(below)) for sid, below in leaves.items())


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [
        (1, (1,)),
        (1, (5, 5, 5)),
        (40, (3, 3)),
        (250, (4, 200, 2, 7)),
        (200, (150_000, 3, 150_000)),
        (60, (2,) * 16),
        (100, (65_536,) * 16),
        (50, (2**31 - 1, 2, 2**31 - 1)),
    ],
)
def test_walking_the_trie_gives_back_the_catalogue(num_rows, sizes):
    random = np.random.default_rng(num_rows)
    sids = np.stack([random.integers(0, size, num_rows) for size in sizes], axis=1)
    assert walk(build_trie(sids, capacities=one_size(len(sizes)))) == grouped(sids)


def test_duplicates_share_a_leaf_and_keep_the_order_of_the_rows():
    sids = [(1, 2), (0, 5), (1, 2), (1, 0), (1, 2), (0, 5)]
    items = [9, 4, 3, 0, 7, 2]
    trie = build_trie(sids, items)
    assert walk(trie) == [((0, 5), (4, 2)), ((1, 0), (0,)), ((1, 2), (9, 3, 7))]
    assert trie.max_items_per_leaf >= 3
    leaf = trie.leaf_of(jnp.array([[9, 4, 0], [1, -1, 1000]]))
    assert leaf.tolist() == [[2, 0, 1], [DEAD_NODE, DEAD_NODE, DEAD_NODE]]


def test_the_order_of_the_rows_does_not_change_the_prefixes():
    random = np.random.default_rng(3)
    sids = random.integers(0, 4, (50, 3))
    order = random.permutation(50)
    one, other = build_trie(sids), build_trie(sids[order], order)
    assert one.capacities == other.capacities
    for a, b in zip(one.token + one.child_start, other.token + other.child_start, strict=True):
        assert np.array_equal(a, b)


def test_children_are_neighbours_sorted_by_token_and_know_their_parent():
    sids = np.random.default_rng(5).integers(0, 6, (80, 3))
    trie = build_trie(sids)
    for level in range(3):
        nodes = jnp.arange(trie.num_nodes(level), dtype=jnp.int32)
        token, node, valid = (np.asarray(array) for array in trie.children(nodes, level))
        assert token.shape == (trie.num_nodes(level), trie.max_children(level))
        for parent in range(len(token)):
            of_parent = valid[parent]
            assert np.all(np.diff(token[parent][of_parent]) > 0)
            assert np.all(np.diff(node[parent][of_parent]) == 1)
            assert np.all(np.asarray(trie.parent[level])[node[parent][of_parent]] == parent)
        assert np.all(token[~valid] == 0)
        assert np.all(node[~valid] == DEAD_NODE)


def test_what_is_no_node_has_no_children_and_no_items():
    trie = build_trie([(0, 1), (0, 2), (3, 1)])
    strange = [DEAD_NODE, -5, 2**31 - 1]
    inner = jnp.array([*strange, trie.num_nodes(1)], jnp.int32)
    assert not trie.children(inner, 1).valid.any()
    leaf = jnp.array([*strange, trie.num_nodes(2)], jnp.int32)
    assert np.all(np.asarray(trie.items(leaf)) == -1)


def test_a_catalogue_under_the_same_capacities_is_not_traced_again():
    traces = []

    @jax.jit
    def probe(trie, node, item):
        traces.append(trie.capacities)
        child = trie.children(node, 0)
        return trie.children(child.node, 1).token, trie.items(child.node), trie.leaf_of(item)

    random = np.random.default_rng(0)
    sids = random.integers(0, 9, (200, 2))
    capacities = dataclasses.replace(build_trie(sids).capacities, items_per_leaf=32)
    node, item = jnp.zeros((2,), jnp.int32), jnp.arange(3)
    for rows in (200, 150, 1):
        sids = random.integers(0, 9, (rows, 2))
        trie = build_trie(sids, capacities=capacities)
        probe(trie, node, item)
    assert len(traces) == 1
    larger = dataclasses.replace(capacities, rows=999, items=500)
    probe(build_trie(random.integers(0, 9, (5, 2)), capacities=larger), node, item)
    assert len(traces) == 2


def test_catalogues_of_about_the_same_size_share_capacities():
    random = np.random.default_rng(1)
    sids = random.permutation(4096)[:3500, None] // np.array([64, 1]) % 64
    assert build_trie(sids).capacities == build_trie(sids[:-20]).capacities


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        ([], "empty"),
        (np.zeros((0, 3), int), "empty"),
        ([(1, 2), (1, 2, 3)], "row 1 has 3 codes, row 0 has 2"),
        ([(1, 2), 3], "row 1 is 3"),
        ([(1, 2), (1, -2)], "row 1 has code -2 at level 1"),
        ([(1, 2**31)], "row 0 has code 2147483648 at level 1"),
        ([(0.5, 1.0)], "float64"),
        ([()], "0 levels"),
        ([(1,) * 17], "17 levels"),
        (np.zeros((2, 2, 2), int), r"shape \(2, 2, 2\)"),
    ],
)
def test_an_impossible_catalogue_is_an_error_that_names_the_row(sids, message):
    with pytest.raises(ValueError, match=message):
        build_trie(sids)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([0], "one integer for each of the 3"),
        ([0.0, 1.0, 2.0], "float64"),
        ([0, -1, 2], "row 1 is item -1"),
        ([4, 7, 4], "rows 0 and 2 are both item 4"),
    ],
)
def test_impossible_items_are_an_error_that_names_the_row(items, message):
    with pytest.raises(ValueError, match=message):
        build_trie([(0, 0), (0, 1), (1, 1)], items)


def test_a_code_past_its_codebook_is_an_error_that_names_the_row():
    with pytest.raises(ValueError, match="row 1 has code 4 at level 1, whose codebook has 4"):
        build_trie([(0, 3), (1, 4)], codebook_sizes=(2, 4))
    with pytest.raises(ValueError, match="1 sizes for SIDs of 2 levels"):
        build_trie([(0, 3)], codebook_sizes=(4,))
    kept = build_trie([(0, 3)], codebook_sizes=(2, 4)).capacities
    with pytest.raises(ValueError, match="row 0 has code 2 at level 0"):
        build_trie([(2, 3)], capacities=kept)


def test_capacities_that_do_not_suffice_are_an_error_that_names_the_field():
    small = build_trie([(0, 1), (0, 2)]).capacities
    with pytest.raises(ValueError, match="nodes"):
        build_trie([(i, j) for i in range(9) for j in range(9)], capacities=small)
    with pytest.raises(ValueError, match="children"):
        build_trie([(0, 1), (0, 2), (0, 3)], capacities=dataclasses.replace(small, nodes=(9, 9)))
    with pytest.raises(ValueError, match="items"):
        build_trie([(0, 1)], [50], capacities=small)
    with pytest.raises(ValueError, match="items_per_leaf"):
        build_trie([(0, 1), (0, 1)], capacities=small)
    with pytest.raises(ValueError, match="made for 2 levels"):
        build_trie([(0, 1, 2)], capacities=small)


def test_ids_and_nodes_may_be_lists_but_no_floats():
    trie = build_trie([(0, 1), (0, 2), (3, 1)])
    assert trie.leaf_of([2, 0, 9]).tolist() == [2, 0, DEAD_NODE]
    assert trie.items([1]).shape == (1, trie.max_items_per_leaf)
    for wrong in ([0.5], np.array([True]), jnp.zeros(2)):
        for call in (trie.leaf_of, trie.items, lambda node: trie.children(node, 0)):
            with pytest.raises(ValueError, match="it must be integers"):
                call(wrong)


def test_a_width_cuts_the_items_of_a_leaf_to_the_first():
    trie = build_trie([(0, 0), (1, 1), (1, 1), (1, 1)], [7, 3, 9, 1])
    assert trie.items([0, 1, DEAD_NODE], width=2).tolist() == [[7, -1], [3, 9], [-1, -1]]
    assert trie.items([1], width=999).shape == (1, trie.max_items_per_leaf)
    with pytest.raises(ValueError, match="width: 0"):
        trie.items([1], width=0)


def test_ranges_and_tokens_are_those_of_the_children():
    trie = build_trie(np.random.default_rng(9).integers(0, 6, (60, 3)))
    for level in range(3):
        nodes = jnp.arange(-1, trie.num_nodes(level) + 1, dtype=jnp.int32)
        child = trie.children(nodes, level)
        first, count = trie.child_range(nodes, level)
        assert count.tolist() == child.valid.sum(-1).tolist()
        assert trie.num_children(nodes, level).tolist() == count.tolist()
        some = np.asarray(count) > 0
        assert np.array_equal(np.asarray(first)[some], np.asarray(child.node)[some, 0])
        token = np.asarray(trie.token_of(child.node, level))
        assert np.array_equal(token[child.valid], child.token[child.valid])
    with pytest.raises(ValueError, match="level: 3; the trie's levels are 0 to 2"):
        trie.child_range([0], 3)
