"""The beam step's TPU kernel over row tables: no races, every mode, odd sizes, and it compiles."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.mesh import abstract_device_from
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step import Beams, UnsupportedError, reference
from kernels.beam_step.pallas_tpu import rows as rows_kernel
from kernels.beam_step.pallas_tpu import rows_plan
from kernels.beam_step.pallas_tpu import step as pallas_tpu
from kernels.beam_step.shapes import SHAPES, random_sids
from kernels.beam_step.types import BeamStep
from kernels.bench import tpu_specs
from kernels.trie import TrieCapacities, build_trie
from kernels.trie.layout import RowCapacities
from tests.bounds import assert_close, log_softmax_roundings
from tests.kernels.layouts import layout, nodes_of

RACES = pltpu.InterpretParams(detect_races=True)


def case(*, sids, vocab, beams, level, batch=2, dtype=jnp.float32, kinds=None, seed=0):
    """Returns logits, beams and a trie; small whole numbers, so that ties are everywhere."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, vocab, (sids, 3))
    rows[:, 0] %= 4
    if kinds is not None:
        rows[:, 1] = random.permutation(sids) % vocab
    capacities = None if kinds is None else layout(kinds, sids, vocab)
    trie = build_trie(rows, capacities=capacities)
    (node,) = nodes_of(trie, rows[random.integers(0, sids, batch * beams), :level])
    node = np.where(random.random((batch, beams)) < 0.1, -1, node.reshape(batch, beams))
    score = random.integers(-9, 0, (batch, beams)).astype(np.float32)
    logits = random.integers(-9, 9, (batch, beams, vocab)).astype(dtype)
    return logits, Beams(node.astype(np.int32), score), trie


def run(logits, beams, trie, level, num_beams, *, mode="vocab", given=None, live=None, interpret):
    """Calls the kernel itself, with an interpreter of choice."""
    table = trie.table_at(level)
    sizes = table.capacities
    last = level == sizes.level + sizes.num_levels - 1
    field = table.field(level)
    step = rows_kernel.row_step(
        logits,
        beams.node,
        beams.score,
        table.words[field.word],
        table.below if last else None,
        given,
        live,
        mode=mode,
        field=field,
        lines_per_node=table.lines_per_node,
        num_beams=num_beams,
        interpret=interpret,
    )
    return BeamStep(*step)


def expected(logits, beams, trie, level, num_beams, *, mode="vocab", given=None):
    step = functools.partial(
        reference.beam_step,
        level=level,
        num_beams=num_beams,
        normalize="vocab" if mode == "given" else mode,
        live=None,
    )
    return jax.jit(step)(logits, beams, trie, log_normalizer=given)


def assert_same(got, wanted, exact, vocab=0):
    got, wanted = jax.device_get((got, wanted))
    for name in ("token", "parent", "node"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
    if exact:
        assert np.array_equal(got.score, wanted.score)
    else:
        assert_close(got.score, wanted.score, log_softmax_roundings(vocab) + 2)


RUN = [("rows", 0, 3)]
LISTS = [("rows", 0, 1), ("rows", 1, 1), ("rows", 2, 1)]


@pytest.mark.parametrize("kinds", [RUN, LISTS], ids=["run", "lists"])
def test_its_transfers_do_not_race(monkeypatch, kinds):
    # A turn a user, so that the next one's lines come while one's are read.
    monkeypatch.setattr(rows_kernel, "_TILES_TOGETHER", 1)
    level = 1
    logits, beams, trie = case(sids=60, vocab=20, beams=4, level=level, batch=3, kinds=kinds)
    given = np.ones(beams.node.shape, np.float32)
    interpreter.reset_tpu_interpret_mode_state()
    got = run(logits, beams, trie, level, 6, mode="given", given=given, interpret=RACES)
    assert interpreter.races is not None
    assert not interpreter.races.races_found
    wanted = expected(logits, beams, trie, level, 6, mode="given", given=given)
    assert_same(got, wanted, exact=True)


ODD = {
    "more_beams_than_lanes": {"beams": 130, "num_beams": 200, "sids": 128, "vocab": 20},
    "several_lines_a_node": {"beams": 3, "num_beams": 20, "sids": 900, "vocab": 250, "level": 1},
    "streamed_bfloat16": {
        "beams": 9,
        "num_beams": 9,
        "sids": 128,
        "vocab": 4_500,
        "block": 1 << 13,
        "dtype": jnp.bfloat16,
    },
    "more_users_than_a_program": {"beams": 3, "num_beams": 5, "sids": 90, "vocab": 30, "batch": 19},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_equal_the_reference(monkeypatch, name):
    sizes = {"level": 2} | ODD[name]
    num_beams, level = sizes.pop("num_beams"), sizes["level"]
    if (block := sizes.pop("block", None)) is not None:
        monkeypatch.setattr(rows_plan, "_BLOCK_BYTES", block)
    kinds = LISTS if name == "several_lines_a_node" else RUN
    logits, beams, trie = case(**sizes, kinds=kinds)
    if name == "several_lines_a_node":
        assert trie.max_children(level) > 128
    given = np.zeros(beams.node.shape, np.float32)
    got = run(logits, beams, trie, level, num_beams, mode="given", given=given, interpret=True)
    wanted = expected(logits, beams, trie, level, num_beams, mode="given", given=given)
    assert_same(got, wanted, exact=True)


def test_a_streamed_normaliser_equals_the_reference(monkeypatch):
    monkeypatch.setattr(rows_plan, "_BLOCK_BYTES", 1 << 13)
    logits, beams, trie = case(sids=128, vocab=4_500, beams=9, level=2, kinds=RUN)
    logits += np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    got = run(logits, beams, trie, 2, 9, interpret=True)
    wanted = expected(logits, beams, trie, 2, 9)
    assert_same(got, wanted, exact=False, vocab=logits.shape[-1])


def test_more_beams_than_it_is_made_for_are_refused():
    logits, beams, trie = case(sids=60, vocab=20, beams=4, level=1)
    with pytest.raises(UnsupportedError, match="600"):
        run(logits, beams, trie, 1, 600, interpret=True)


TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5p": "v5p:2x2x1"}
# Every shape on one generation, both kernels on every generation: that of rows is compiled for a
# v5e by `test_a_vocabulary_that_does_not_fit_compiles`. A compilation takes up to 20 s.
COMPILED = (
    ("v5e", "youtube_wide"),
    ("v6e", "amazon_narrow"),
    ("v6e", "amazon_wide"),
    ("v5p", "youtube_narrow"),
    ("v5p", "youtube_wide"),
)


def compile_for(generation, function, arguments):
    """Compiles for a TPU that is not there."""
    pytest.importorskip("libtpu", reason="needs libtpu, from the test extra")
    device = topologies.get_topology_desc(TOPOLOGIES[generation], "tpu").devices[0]
    mesh = jax.sharding.AbstractMesh((1,), ("_",), abstract_device=abstract_device_from(device))
    sharding = jax.sharding.SingleDeviceSharding(device)

    def argument(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    arguments = jax.tree.map(argument, arguments)
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = function.trace(*arguments).lower(lowering_platforms=("tpu",))
    return lowered.compile()


# The compiler of a TPU that is not there cannot read JAX's cache.
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
@pytest.mark.parametrize(("generation", "name"), COMPILED)
def test_it_compiles_for(generation, name, record_property):
    function, arguments = getattr(tpu_specs, name)()
    compiled = compile_for(generation, function, arguments)
    (kernel,) = [line for line in compiled.as_text().splitlines() if "tpu_custom_call" in line]
    (vmem,) = re.findall(r'"used_scoped_memory_configs":\[{[^]]*"size":"(\d+)"', kernel)
    record_property("vmem_bytes", int(vmem))
    assert int(vmem) < 16 << 20
    memory = compiled.memory_analysis()
    # The logits may be copied into another layout, the tables are not.
    assert memory.temp_size_in_bytes < 2 << 20


def test_the_specs_have_the_arrays_of_the_catalogue_they_name():
    shape = SHAPES["amazon_narrow"]
    trie = build_trie(random_sids(shape))
    _, (logits, beams, specified) = tpu_specs.amazon_narrow()
    assert jax.tree.structure(specified) == jax.tree.structure(trie)
    for spec, array in zip(jax.tree.leaves(specified), jax.tree.leaves(trie), strict=True):
        assert (spec.shape, spec.dtype) == (array.shape, array.dtype)
    assert logits.shape == (shape.batch, shape.beams, shape.vocab)
    assert beams.node.shape == (shape.batch, shape.beams)


LANGUAGE_MODEL = TrieCapacities(
    tables=(RowCapacities(0, 64, (18, 18, 18), (100, 20, 2)),),
    items=4096,
    rows=4096,
    items_per_leaf=1,
)


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_a_vocabulary_that_does_not_fit_compiles():
    trie = tpu_specs.abstract_trie(LANGUAGE_MODEL)
    logits = jax.ShapeDtypeStruct((2, 512, 152_704), jnp.bfloat16)
    node: Any = jax.ShapeDtypeStruct((2, 512), jnp.int32)
    score: Any = jax.ShapeDtypeStruct((2, 512), jnp.float32)
    beams = Beams(node, score)

    @jax.jit
    def step(logits, beams, trie):
        return pallas_tpu.beam_step(
            logits,
            beams,
            trie,
            1,
            num_beams=512,
            normalize="vocab",
            log_normalizer=None,
            live=None,
        )

    compile_for("v5e", step, [logits, beams, trie])


def test_it_exports_for_tpu():
    function, arguments = tpu_specs.youtube_narrow()
    exported = jax.export.export(function, platforms=["tpu"])(*arguments)
    assert exported.mlir_module().count("stablehlo.custom_call @tpu_custom_call") == 1
