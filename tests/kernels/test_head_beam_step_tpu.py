"""The fused head's kernel: it has no races, and it compiles for the TPUs there are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.mesh import abstract_device_from
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from kernels.beam_step import Beams
from kernels.head_beam_step.pallas_tpu import step as pallas_tpu
from kernels.trie import build_trie
from tests.bounds import assert_close, log_softmax_roundings

B, M, V, D = 2, 50, 152_704, 1024


@pytest.mark.parametrize("rows", [20, 272])  # One tile of rows, and two of several rounds each.
@pytest.mark.parametrize("picks", [True, False])
def test_its_transfers_do_not_race(picks, rows, monkeypatch):
    monkeypatch.setattr(pallas_tpu, "_MOST_ROWS", (256,))
    random = np.random.default_rng(0)
    width, vocab, columns = 8, 1_500, 130
    hidden = jnp.asarray(random.normal(size=(rows, width)), jnp.float32)
    head = jnp.asarray(random.normal(size=(vocab, width)), jnp.float32)
    sizes = dataclasses.replace(pallas_tpu.sizes_of(rows, head, columns * picks), block=512)
    if picks:
        token = jnp.asarray(random.integers(0, vocab, (rows, columns)), jnp.int32)
    else:
        token, sizes = None, dataclasses.replace(sizes, first_block=1, span_blocks=1)
    interpreter.reset_tpu_interpret_mode_state()
    normalizer, picked = pallas_tpu.stream(
        sizes, hidden, head, token, interpret=pltpu.InterpretParams(detect_races=True)
    )
    assert not interpreter.races.races_found
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64).T
    expected = np.take_along_axis(logits, np.asarray(token), 1) if picks else logits[:, 512:1024]
    scale = np.abs(np.asarray(hidden)) @ np.abs(np.asarray(head)).T
    assert_close(picked, expected, width, scale.max())
    roundings = width + log_softmax_roundings(vocab)
    assert_close(normalizer, np.logaddexp.reduce(logits, 1), roundings, scale.max())


@functools.cache
def tries():
    """Returns a trie of rows and one of masks at level 1, on the last tokens of the vocabulary."""
    random = np.random.default_rng(0)
    few = V - 768 + random.integers(0, 256, (3_686, 3)) + 256 * np.arange(3)
    many = V - 512 + random.integers(0, 256, (20_000, 2)) + 256 * np.arange(2)
    return {"rows": build_trie(few), "masks": build_trie(many)}


# The compiler of a TPU that is not there cannot read JAX's cache.
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
@pytest.mark.parametrize(
    ("topology", "name", "dtype"),
    [
        ("v5e:2x2", "rows", "bfloat16"),
        ("v6e:2x2", "masks", "bfloat16"),
        ("v5p:2x2x1", "rows", "float32"),
    ],
)
def test_it_compiles_for(topology, name, dtype):
    pytest.importorskip("libtpu", reason="needs libtpu, from the test extra")
    device = topologies.get_topology_desc(topology, "tpu").devices[0]
    mesh = jax.sharding.AbstractMesh((1,), ("_",), abstract_device=abstract_device_from(device))
    sharding = jax.sharding.SingleDeviceSharding(device)

    def argument(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    def step(hidden, head, node, score, trie):
        beams = Beams(node=node, score=score)
        return pallas_tpu.head_beam_step(
            hidden, head, beams, trie, 1, num_beams=M, normalize="vocab", live=None
        )

    arguments = jax.tree.map(
        argument,
        (
            jax.ShapeDtypeStruct((B, M, D), dtype),
            jax.ShapeDtypeStruct((V, D), dtype),
            jax.ShapeDtypeStruct((B, M), jnp.int32),
            jax.ShapeDtypeStruct((B, M), jnp.float32),
            tries()[name],
        ),
    )
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = jax.jit(step).trace(*arguments).lower(lowering_platforms=("tpu",))
    compiled = lowered.compile()
    # The head's own kernel, and the beam step's behind it.
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2
    # Nothing of the logits' size is stored beside the arguments.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * B * M * V / 8
