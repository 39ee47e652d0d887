"""With `jax_enable_x64` every step returns the same bits, and computes nothing 64 bits wide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.beam_step import Beams, beam_select, beam_step
from kernels.head_beam_step import IMPLEMENTATIONS as HEAD_IMPLEMENTATIONS
from kernels.head_beam_step import head_beam_step
from kernels.trie import build_trie
from tests.kernels.layouts import LAYOUTS, layout

B, M, V, L, NUM_BEAMS = 2, 4, 8, 3, 6
SIDS = np.random.default_rng(0).integers(0, V, (24, L))
# Rows above a mask above rows: a level of each kind, and an edge into each.
CAPACITIES = layout(LAYOUTS["mixed"], len(SIDS), V)
EXCLUDED = np.array([[0, 1, 2], [3, -1, -1]])


def steps(what, level, normalize=None, implementation=None):
    """Returns a function of the drawn numbers, what it is given, and all that a step is made of."""
    given = {"num_beams": NUM_BEAMS, "implementation": implementation}

    def run(values, normalizer, trie, allowed):
        live = trie.live_excluding(EXCLUDED, allowed)
        prefixes = jnp.asarray(SIDS[: B * M, :level].reshape(B, M, level), jnp.int32)
        beams = Beams(trie.node_of(prefixes), values[:, :, 0])
        arguments = given | {"live": live}
        if what == "select":
            values = values[..., : trie.max_children(level)]
            return beam_select(values, beams, trie, level, **arguments), live
        if what == "head":
            head = np.eye(V, dtype=np.float32)
            step = head_beam_step(
                values, head, beams, trie, level, normalize=normalize, **arguments
            )
        elif normalize == "given":
            step = beam_step(values, beams, trie, level, log_normalizer=normalizer, **arguments)
        else:
            step = beam_step(values, beams, trie, level, normalize=normalize, **arguments)
        leaf = trie.leaf_of(trie.items(step.node)) if level == L - 1 else None
        return step, live, leaf, trie.num_children(beams.node, level)

    return run


def drawn(what="step"):
    random = np.random.default_rng(1)
    width = 128 if what == "select" else V
    values = random.normal(size=(B, M, width)).astype(np.float32)
    return values, random.normal(size=(B, M)).astype(np.float32)


def with_x64(enabled, function, *arguments):
    """Returns what the function gives a trie that is built, and used, with or without."""
    with jax.enable_x64(enabled):
        trie = build_trie(SIDS, capacities=CAPACITIES)
        return jax.device_get(function(*arguments, trie, np.arange(len(SIDS)) != 5))


def wide_values(jaxpr):
    """Returns every array of 64 bits that a program makes, in the programs inside it as well.

    Python's numbers, which take another dtype where they meet an array, do not count.
    """
    found = []
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            number = getattr(value.aval, "shape", ()) and not value.aval.weak_type
            if number and value.aval.dtype in (np.int64, np.uint64, np.float64):
                found.append(f"{equation.primitive.name}: {value.aval}")
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                found += wide_values(inner)
    return found


def assert_narrow(function, *arguments):
    program = with_x64(True, lambda *a: [jax.make_jaxpr(function)(*a)], *arguments)
    assert wide_values(program[0].jaxpr) == []


@pytest.mark.parametrize(
    ("what", "level", "normalize"),
    [("step", 1, "vocab"), ("step", 2, "children"), ("select", 1, None)],
)
def test_a_step_makes_nothing_wide(implementation, what, level, normalize):
    assert_narrow(steps(what, level, normalize, implementation), *drawn(what))


@pytest.mark.parametrize(("level", "normalize"), [(1, "vocab"), (2, "vocab"), (2, "children")])
@pytest.mark.parametrize("head_implementation", HEAD_IMPLEMENTATIONS)
def test_a_fused_head_makes_nothing_wide(head_implementation, level, normalize):
    assert_narrow(steps("head", level, normalize, head_implementation), *drawn())


def gradient(what, normalize):
    def loss(values, normalizer, trie, allowed):
        step, *_ = steps(what, 1, normalize)(values, normalizer, trie, allowed)
        return jnp.sum(jnp.where(jnp.isfinite(step.score), step.score, 0.0))

    return jax.grad(loss, argnums=(0, 1))


@pytest.mark.parametrize(("what", "normalize"), [("step", "children"), ("select", None)])
def test_a_gradient_makes_nothing_wide(what, normalize):
    assert_narrow(gradient(what, normalize), *drawn(what))


def test_a_gradient_has_the_same_bits():
    narrow, wide = (
        with_x64(x64, jax.jit(gradient("step", "children")), *drawn()) for x64 in (False, True)
    )
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == other.dtype == np.float32
        assert one.tobytes() == other.tobytes()


@functools.cache
def without_x64():
    return with_x64(False, jax.jit(steps("step", 1, "given", "reference")), *drawn())


def test_every_implementation_returns_the_same_integers(implementation):
    plain = without_x64()
    found = with_x64(True, jax.jit(steps("step", 1, "given", implementation)), *drawn())
    # Scores are exact: the normaliser is given.
    assert jax.tree.all(jax.tree.map(np.array_equal, found, plain))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, found, plain))


def test_a_root_is_narrow():
    with jax.enable_x64(True):
        assert jax.tree.map(lambda a: a.dtype.name, Beams.root(2, 3)) == Beams("int32", "float32")
