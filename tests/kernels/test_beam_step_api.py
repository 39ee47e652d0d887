"""The beam step's front door: arguments are checked, and the right implementation runs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import dispatch
from kernels.beam_step import (
    IMPLEMENTATIONS,
    Beams,
    Implementation,
    UnsupportedError,
    beam_select,
    beam_step,
    default_implementation,
    record_implementations,
)
from kernels.beam_step import api as api_module
from kernels.trie import build_trie

TRIE = build_trie([(0, 1), (0, 2), (1, 1), (2, 0)], codebook_sizes=(3, 4))
BEAMS = Beams(jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3)))
GOOD = {"logits": jnp.zeros((2, 3, 4)), "beams": BEAMS, "trie": TRIE, "level": 1, "num_beams": 2}
OTHER = build_trie([(0, 1, 1)] * 9, capacities=None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": jnp.zeros((2, 3))}, r"logits: shape \(2, 3\); it must be \[B, M, V\]"),
        ({"logits": jnp.zeros((2, 3, 4), jnp.int32)}, "logits: .*int32.*float32 or bfloat16"),
        ({"logits": jnp.zeros((2, 3, 4), jnp.float16)}, "logits: .*float16"),
        ({"logits": np.zeros((2, 3, 4))}, "logits: .*float64"),
        ({"logits": [[[0.0]]]}, "logits: .*list"),
        ({"logits": jnp.zeros((2, 0, 4))}, "none of them 0"),
        ({"logits": jnp.zeros((2, 3, 3))}, "V=3, but the codebook of level 1 has 4"),
        ({"logits": jnp.zeros((3, 3, 4))}, r"beams.node: shape \(2, 3\)"),
        ({"beams": (1, 2)}, "beams: a tuple"),
        ({"beams": Beams(BEAMS.node[0], BEAMS.score)}, "beams.node: shape"),
        ({"beams": Beams(BEAMS.score, BEAMS.score)}, "beams.node: .*float32.*int32"),
        ({"beams": Beams(BEAMS.node, BEAMS.node)}, "beams.score: .*int32.*float32"),
        ({"beams": Beams(BEAMS.node, BEAMS.score[:, :2])}, r"beams.score: shape \(2, 2\)"),
        ({"trie": None}, "trie: a NoneType"),
        ({"level": 2}, "level: 2; the trie's levels are 0 to 1"),
        ({"level": -1}, "level: -1"),
        ({"level": 1.0}, "level: 1.0; it must be a static integer"),
        ({"level": True}, "level: True"),
        ({"num_beams": 0}, "num_beams: 0; it must be at least 1"),
        ({"num_beams": None}, "num_beams: None"),
        ({"normalize": "softmax"}, "normalize: 'softmax'; it must be one of vocab, children"),
        ({"log_normalizer": jnp.zeros((2, 2))}, r"log_normalizer: shape \(2, 2\)"),
        ({"log_normalizer": jnp.zeros((2, 3), jnp.int32)}, "log_normalizer: .*int32"),
        (
            {"log_normalizer": jnp.zeros((2, 3)), "normalize": "children"},
            "log_normalizer: given with normalize='children'",
        ),
        ({"live": jnp.ones(4, bool)}, "live: a"),
        ({"live": OTHER.live(jnp.ones(9, bool))}, "live: made for another"),
        ({"live": TRIE.live(jnp.ones((3, 4), bool))}, "live: made for another"),
        ({"live": TRIE.live_excluding(jnp.zeros((3, 1), jnp.int32))}, "another batch than B=2"),
        ({"implementation": "cuda"}, "implementation: 'cuda' is not known; there are .*reference"),
    ],
)
def test_a_wrong_argument_is_an_error_before_compilation(changed, message, monkeypatch):
    monkeypatch.setattr(dispatch, "run", None)  # Nothing may get as far as this.
    arguments = GOOD | changed
    logits = arguments.pop("logits")
    with pytest.raises(ValueError, match=message):
        beam_step(logits, **arguments)


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (jnp.zeros((2, 3, 9)), "C=9; level 1 of this trie has C=2"),
        (jnp.zeros((2, 3, 2), jnp.bfloat16), "bfloat16; it must be float32"),
        (jnp.zeros((3, 2)), "candidate_log_probs: shape"),
        (jnp.zeros((2, 4, 2)), "beams.node: shape"),
    ],
)
def test_wrong_candidates_are_an_error_before_compilation(log_probs, message):
    with pytest.raises(ValueError, match=message):
        beam_select(log_probs, BEAMS, TRIE, 1, num_beams=2)


def test_an_error_names_the_argument_under_jit_too():
    with pytest.raises(ValueError, match="num_beams: 0"):
        jax.jit(lambda x: beam_step(x, BEAMS, TRIE, 1, num_beams=0))(GOOD["logits"])


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS))
def test_the_implementation_asked_for_runs(name):
    with record_implementations() as ran:
        beam_step(GOOD["logits"], BEAMS, TRIE, 1, num_beams=2, implementation=name)
        beam_select(jnp.zeros((2, 3, 2)), BEAMS, TRIE, 1, num_beams=2, implementation=name)
    assert ran == [name, name]


def test_the_default_is_the_first_for_the_platform():
    with record_implementations() as ran:
        beam_step(**GOOD)
    assert ran == [default_implementation()] == ["xla"]
    assert default_implementation("tpu") in IMPLEMENTATIONS
    with pytest.raises(ValueError, match="no implementation is made for 'abacus'"):
        default_implementation("abacus")


def broken_backend(monkeypatch, error):
    """Puts a backend first in the registry that raises `error`."""

    def beam_step(*args, **kwargs):
        raise error

    module = types.SimpleNamespace(beam_step=beam_step)
    real = dispatch.importlib.import_module
    monkeypatch.setattr(
        dispatch.importlib,
        "import_module",
        lambda name: module if name == "broken_backend" else real(name),
    )
    first = {"broken": Implementation("broken_backend", platforms=("cpu",))}
    monkeypatch.setattr(api_module, "IMPLEMENTATIONS", first | IMPLEMENTATIONS)


def test_unsupported_falls_through_to_the_next(monkeypatch):
    broken_backend(monkeypatch, UnsupportedError("V must be a multiple of 128"))
    assert default_implementation("cpu") == "broken"
    with record_implementations() as ran:
        beam_step(**GOOD)
    assert ran == ["xla"]
    with pytest.raises(UnsupportedError, match="multiple of 128"):
        beam_step(**GOOD, implementation="broken")


# JAX raises NotImplementedError of its own: a backend's bug, which must not make a slow path.
@pytest.mark.parametrize(
    "error", [NotImplementedError, RuntimeError, ValueError, TypeError, ImportError]
)
def test_any_other_error_does_not_fall_through(monkeypatch, error):
    broken_backend(monkeypatch, error("a bug"))
    with pytest.raises(error, match="a bug"):
        beam_step(**GOOD)


def test_an_unknown_implementation_is_an_error_even_beside_a_wrong_argument():
    with pytest.raises(ValueError, match="not known"):
        beam_step(**(GOOD | {"num_beams": 0}), implementation="pallas")


def test_a_new_catalogue_under_the_same_capacities_is_not_traced_again():
    traces = []

    @jax.jit
    def step(logits, beams, trie, excluded):
        traces.append(trie.capacities)
        live = trie.live_excluding(excluded)
        return beam_step(logits, beams, trie, 1, num_beams=4, live=live)

    random = np.random.default_rng(0)
    capacities = build_trie(random.integers(0, 4, (30, 2))).capacities
    for rows in (30, 12, 1):
        trie = build_trie(random.integers(0, 4, (rows, 2)), capacities=capacities)
        for item in range(2):
            step(GOOD["logits"], BEAMS, trie, jnp.full((2, 3), item, jnp.int32))
    assert len(traces) == 1


def test_the_last_step_and_numpy_arrays_are_beams_too():
    logits = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    first = beam_step(logits[:, :1], Beams.root(2), TRIE, 0, num_beams=3)
    expected = beam_step(jnp.asarray(logits), first.beams, TRIE, 1, num_beams=3)
    numpy_beams = Beams(np.asarray(first.node), np.asarray(first.score))
    given = {"log_normalizer": np.zeros((2, 3), np.float32), "num_beams": 3}
    for beams in (first, numpy_beams):
        step = beam_step(logits, beams, TRIE, 1, num_beams=3)
        assert jax.tree.all(jax.tree.map(np.array_equal, step, expected))
        for name in IMPLEMENTATIONS:
            beam_step(logits, beams, TRIE, 1, implementation=name, **given)
            beam_select(logits[..., :2], beams, TRIE, 1, num_beams=3, implementation=name)
