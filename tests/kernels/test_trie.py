"""The trie's layout: any catalogue in, the same prefixes and items out."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.bench import tpu_specs
from kernels.trie import DEAD_NODE, build_trie
from kernels.trie.layout import LINE, MaskCapacities, RowCapacities, TrieCapacities
from tests.kernels.layouts import LAYOUTS, layout


# Jitted: each is one program, where its operations one by one are a dozen.
@functools.partial(jax.jit, static_argnames="level")
def children(trie, node, level):
    return trie.children(node, level), trie.num_children(node, level)


@jax.jit
def items_of(trie, leaf):
    return trie.items(leaf)


@jax.jit
def node_of(trie, prefix):
    return trie.node_of(prefix)


def walk(trie):
    """Returns every (sid, items) of a trie, by its public functions alone, root to leaves."""
    nodes = {(): 0}
    for level in range(trie.num_levels):
        above = list(nodes)
        rows = np.resize(list(nodes.values()), max(len(above), 256)).astype(np.int32)
        token, node, valid = jax.device_get(children(trie, rows, level)[0])
        nodes = {}
        for row, column in np.argwhere(valid[: len(above)]):
            nodes[(*above[row], int(token[row, column]))] = int(node[row, column])
    items = np.asarray(items_of(trie, np.array(list(nodes.values()), np.int32)))
    return [(sid, tuple(row[row >= 0].tolist())) for sid, row in zip(nodes, items, strict=True)]


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
        (50, (2**29, 2, 2**29)),
        (600, (300, 300, 4)),
        (1200, (2, 700, 3)),
    ],
)
def test_walking_the_trie_gives_back_the_catalogue(num_rows, sizes):
    random = np.random.default_rng(num_rows)
    sids = np.stack([random.integers(0, size, num_rows) for size in sizes], axis=1)
    assert walk(build_trie(sids)) == grouped(sids)


@pytest.mark.parametrize("kinds", LAYOUTS)
def test_every_layout_gives_back_the_catalogue(kinds):
    random = np.random.default_rng(2)
    for codes, rows in ((5, 60), (5, 1), (300, 500)):
        sids = random.integers(0, codes, (rows, 3))
        sids[rows // 2 :, :2] = sids[0, :2]  # A crowded node among lonely ones.
        if rows > LINE and any(num_levels > 1 for _, _, num_levels in LAYOUTS[kinds]):
            continue  # A run of levels in one table needs all rows below a node in one line.
        sizes = layout(LAYOUTS[kinds], rows, codes)
        assert walk(build_trie(sids, capacities=sizes)) == grouped(sids)


def test_large_catalogues_are_bits_above_and_sorted_rows_below():
    sids = np.random.default_rng(0).integers(0, 256, (100_000, 4))
    trie = build_trie(sids)
    kinds = [(type(table).__name__, table.capacities.level) for table in trie.tables]
    assert kinds == [("MaskTable", 0), ("MaskTable", 1), ("RowTable", 2)]
    assert sum(array.nbytes for array in jax.tree.leaves(trie)) < 30 * len(sids)
    leaf = np.asarray(trie.leaf_of(np.arange(len(sids))))
    assert np.array_equal(leaf, np.asarray(node_of(trie, sids)))


def test_twenty_million_sids_take_less_than_thirty_bytes_each():
    """By the sizes that such a build gives, which are written down for the TPU's compiler."""
    _, (_, _, trie) = tpu_specs.youtube_narrow()
    num_bytes = sum(4 * math.prod(array.shape) for array in jax.tree.leaves(trie))
    assert num_bytes < 30 * 20_000_000


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (lambda: MaskCapacities(0, 1, 5, 128, 128), "MaskCapacities.first_token: 5"),
        (lambda: MaskCapacities(0, 1, 0, 100, 128), "MaskCapacities.span: 100"),
        (lambda: MaskCapacities(0, 1, 0, 128, 0), "MaskCapacities.edges: 0"),
        (lambda: RowCapacities(0, 1, (4, 4), (200, 9)), r"columns: \(200, 9\); more than 128"),
        (lambda: RowCapacities(0, 1, (4, 4), (9,)), "one for each of the levels"),
        (lambda: RowCapacities(0, 1, (30,), (9,)), r"bits: \(30,\)"),
        (
            lambda: TrieCapacities((RowCapacities(1, 1, (4,), (9,)),), 1, 1, 1),
            r"tables\[0\]: starts at level 1; it must go on at level 0",
        ),
        (lambda: TrieCapacities((), 1, 1, 1), "tables: empty"),
    ],
)
def test_impossible_capacities_are_an_error_that_names_the_field(sizes, message):
    with pytest.raises(ValueError, match=message):
        sizes()


def test_a_node_of_few_rows_stands_in_one_line():
    """What lets a kernel fetch a node's children with one copy of a line."""
    random = np.random.default_rng(1)
    sids = np.stack([random.integers(0, 40, 3000), random.integers(0, 900, 3000)], axis=1)
    trie = build_trie(sids)
    table = trie.table_at(1)
    node = np.asarray(node_of(trie, np.unique(sids[:, :1], axis=0)))
    count = np.asarray(children(trie, node, 1)[1])
    assert table.lines_per_node == 1
    assert count.max() > 60
    assert np.all(node // LINE == (node + count - 1) // LINE)


def test_the_last_node_of_a_full_table_ends_with_it():
    sids = [(0, i) for i in range(4)] + [(1 + i // 2, i % 2) for i in range(124)]
    trie = build_trie(sids)
    assert trie.table_at(0).capacities.edges == len(sids)
    assert walk(trie) == grouped(sids)


def test_duplicates_share_a_leaf_and_keep_the_order_of_the_rows():
    sids = [(1, 2), (0, 5), (1, 2), (1, 0), (1, 2), (0, 5)]
    items = [9, 4, 3, 0, 7, 2]
    trie = build_trie(sids, items)
    assert walk(trie) == [((0, 5), (4, 2)), ((1, 0), (0,)), ((1, 2), (9, 3, 7))]
    assert trie.max_items_per_leaf >= 3
    leaf = trie.leaf_of(jnp.array([[9, 4, 0], [1, -1, 1000]]))
    nodes = trie.node_of([(1, 2), (0, 5), (1, 0)])
    assert leaf.tolist() == [nodes.tolist(), [DEAD_NODE, DEAD_NODE, DEAD_NODE]]


def test_the_order_of_the_rows_does_not_change_the_prefixes():
    random = np.random.default_rng(3)
    sids = random.integers(0, 4, (50, 3))
    order = random.permutation(50)
    one, other = build_trie(sids), build_trie(sids[order], order)
    assert one.capacities == other.capacities
    for a, b in zip(jax.tree.leaves(one.tables), jax.tree.leaves(other.tables), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("kinds", ["masks", "rows", "lists"])
def test_children_are_sorted_by_token(kinds):
    sids = np.random.default_rng(5).integers(0, 6, (80, 3))
    trie = build_trie(sids, capacities=layout(LAYOUTS[kinds], 80, 6))
    for level in range(3):
        nodes = np.asarray(node_of(trie, np.unique(sids[:, :level], axis=0)))
        (token, node, valid), count = jax.device_get(children(trie, nodes, level))
        assert token.shape == (len(nodes), trie.max_children(level))
        assert valid.sum(-1).tolist() == count.tolist()
        for row in range(len(nodes)):
            assert np.all(np.diff(token[row][valid[row]]) > 0)
        assert len(np.unique(node[valid])) == valid.sum()
        assert np.all(token[~valid] == 0)
        assert np.all(node[~valid] == DEAD_NODE)


@pytest.mark.parametrize("kinds", ["masks", "rows", "lists"])
def test_what_is_no_node_has_no_children_and_no_items(kinds):
    trie = build_trie([(0, 1, 1), (0, 2, 1), (3, 1, 1)], capacities=layout(LAYOUTS[kinds], 3, 4))
    strange = np.array([DEAD_NODE, -5, 2**31 - 1, 10**6], np.int32)
    for level in range(3):
        assert not np.asarray(children(trie, strange, level)[0].valid).any()
    assert np.all(np.asarray(items_of(trie, strange)) == -1)


def test_a_prefix_that_no_sid_has_is_no_node():
    trie = build_trie([(0, 1, 1), (0, 2, 1), (3, 1, 1)])
    found = trie.node_of([[0, 1], [1, 1], [3, 1], [3, 2]])
    assert (np.asarray(found) == DEAD_NODE).tolist() == [False, True, False, True]
    assert int(trie.node_of(np.zeros(0, int))) == 0
    with pytest.raises(ValueError, match="prefix: shape"):
        trie.node_of([0, 1, 1, 0])


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
        (None, "sids: a NoneType"),
        (np.zeros((0, 3), int), "empty"),
        ([(1, 2), (1, 2, 3)], "row 1 has 3 codes, row 0 has 2"),
        ([(1, 2), 3], "row 1 is 3"),
        ([(1, 2), (1, -2)], "row 1 has code -2 at level 1"),
        ([(1, 2**29)], "row 0 has code 536870912 at level 1"),
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
    with pytest.raises(ValueError, match="codebook_sizes: 1073741824 codes at level 1"):
        build_trie([(0, 3)], codebook_sizes=(2, 2**30))
    with pytest.raises(ValueError, match="1 sizes for SIDs of 2 levels"):
        build_trie([(0, 3)], codebook_sizes=(4,))
    kept = build_trie([(0, 3)], codebook_sizes=(2, 4)).capacities
    with pytest.raises(ValueError, match="row 0 has code 2 at level 0"):
        build_trie([(2, 3)], capacities=kept)


def test_capacities_that_do_not_suffice_are_an_error_that_names_the_field():
    small = build_trie([(0, 1), (0, 2)]).capacities
    with pytest.raises(ValueError, match=r"tables\[0\].columns\[0\]: 2 is too small"):
        build_trie([(i, j) for i in range(9) for j in range(9)], capacities=small)
    with pytest.raises(ValueError, match=r"tables\[0\].bits\[1\]: 2 is too small for code 4"):
        build_trie([(0, 4)], capacities=small)
    masks = layout(LAYOUTS["masks"], 4, 128)
    with pytest.raises(ValueError, match=r"tables\[1\]: for tokens 0 to 127; level 1 .* 3 to 128"):
        build_trie([(0, 3, 0), (0, 128, 0)], capacities=masks)
    with pytest.raises(ValueError, match=r"tables\[1\].nodes: 4 is too small; the SIDs need 5"):
        build_trie([(i, 0, 0) for i in range(5)], capacities=masks)
    run = layout(LAYOUTS["rows"], 4, 4, lines=1)
    with pytest.raises(ValueError, match=r"tables\[0\].columns\[0\]"):
        build_trie(np.indices((4, 4, 4)).reshape(3, -1).T, capacities=run)
    lists = layout(LAYOUTS["lists"], 300, 4, lines=1)
    with pytest.raises(ValueError, match=r"tables\[1\].lines: 1 is too small"):
        build_trie(
            np.indices((4, 64, 1)).reshape(3, -1).T,
            capacities=dataclasses.replace(
                lists,
                tables=tuple(
                    dataclasses.replace(t, columns=(300,), bits=(8,)) for t in lists.tables
                ),
            ),
        )
    with pytest.raises(ValueError, match="items"):
        build_trie([(0, 1)], [50], capacities=small)
    with pytest.raises(ValueError, match="items_per_leaf"):
        build_trie([(0, 1), (0, 1)], capacities=small)
    with pytest.raises(ValueError, match="made for 2 levels"):
        build_trie([(0, 1, 2)], capacities=small)


def test_ids_and_nodes_may_be_lists_but_no_floats():
    trie = build_trie([(0, 1), (0, 2), (3, 1)])
    assert trie.leaf_of([2, 9]).tolist() == [int(trie.node_of([3, 1])), DEAD_NODE]
    assert trie.items([1]).shape == (1, trie.max_items_per_leaf)
    for wrong in ([0.5], np.array([True]), jnp.zeros(2)):
        for call in (trie.leaf_of, trie.items, lambda node: trie.children(node, 0)):
            with pytest.raises(ValueError, match="it must be integers"):
                call(wrong)


def test_a_width_cuts_the_items_of_a_leaf_to_the_first():
    trie = build_trie([(0, 0), (1, 1), (1, 1), (1, 1)], [7, 3, 9, 1])
    leaf = [*trie.node_of([(0, 0), (1, 1)]).tolist(), DEAD_NODE]
    assert trie.items(leaf, width=2).tolist() == [[7, -1], [3, 9], [-1, -1]]
    assert trie.items([1], width=999).shape == (1, trie.max_items_per_leaf)
    with pytest.raises(ValueError, match="width: 0"):
        trie.items([1], width=0)
