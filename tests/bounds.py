"""What rounding may change, from dtype and number of roundings; no bound is taken from a machine.

XLA makes other code for other processors: it adds in another order and fuses other products. So
two results of the same formula differ by what its roundings allow, and a test's bound says how many
they are. The facts are Higham's (Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 3):

- One operation changes a result by at most the unit roundoff `u` of what it is; `n` in a row by at
  most `n·u / (1 - n·u)`, in whatever order they come. Where they are many, that all point one way
  is next to impossible: rounding errors are nearly independent and have no mean, so that
  `λ·√n·u` is passed with a probability of at most `2n·exp(-λ²/2)` (Higham and Mary, A New
  Approach to Probabilistic Rounding Error Analysis, 2019). `gamma(n)` is the smaller of both,
  with `λ = 7`: for 10,000 roundings, 5 in 10 million.
- A sum or an inner product of `n` terms is off by at most `gamma(n) · Σ|terms|`. Against a sum made
  in another order twice that: both are off.
- Steps one behind the other add their `n`. Norms, softmax, gates and rotations of values about 1
  hand errors on as they are, and so does a product with weights that keep the size of what goes
  in. That is how models here are made, and it is the one thing that is not counted: a test
  that relies on it compares with the largest value, and not with each.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

# Of a function such as exp, log, cos or rsqrt: XLA's and NumPy's are within some units of it.
FUNCTION = 4
_LAMBDA = 7


def unit(dtype: Any = np.float32) -> float:
    """Returns the unit roundoff: half the gap above 1."""
    return float(jnp.finfo(dtype).eps) / 2


def gamma(roundings: int, dtype: Any = np.float32) -> float:
    """Returns the most that so many roundings in a row change a value, as a share of it."""
    lost = min(roundings, _LAMBDA * roundings**0.5) * unit(dtype)
    assert lost < 0.01, "a bound that leaves less than two digits tells nothing"
    return lost / (1 - lost)


def trunk_roundings(config: Any, length: int) -> int:
    """Returns the roundings between a trunk's input and its output, on the longest way.

    Args:
        config: a `TrunkConfig`.
        length: keys that a query attends to.
    """
    norm = config.width + FUNCTION + 3
    attention = (
        norm
        + config.width  # queries, keys, values
        + (config.head_dim + FUNCTION + 3 if config.qk_norm else 0)
        + FUNCTION + 3  # rotation
        + config.head_dim + 1  # scores
        + length + FUNCTION + 2  # softmax: a maximum, exponentials, their sum, a division
        + length  # values
        + config.num_heads * config.head_dim
        + 1  # what went in is added
    )  # fmt: skip
    gates = norm + config.width + FUNCTION + 3 + config.mlp_width + 1
    return config.num_layers * (attention + gates) + norm


def log_softmax_roundings(size: int) -> int:
    """Returns the roundings from logits to log-probabilities: exponentials, their sum, a log."""
    return size + 2 * FUNCTION + 3


def assert_close(found: Any, expected: Any, roundings: int, scale: Any = None) -> None:
    """Asserts that two results, each so many roundings from the truth, agree.

    Args:
        found: numbers; infinite ones must be the same.
        expected: as many.
        roundings: on the way to each of them.
        scale: the largest size of the terms on that way, one for all results or one for each;
            the largest result if None.
    """
    found, expected = (np.asarray(values, np.float64) for values in (found, expected))
    if scale is None:
        finite = np.abs(expected[np.isfinite(expected)])
        scale = finite.max(initial=0.0)
    assert found.shape == expected.shape, f"{found.shape} beside {expected.shape}"
    atol = 2 * gamma(roundings) * np.asarray(scale, np.float64)
    with np.errstate(invalid="ignore"):  # Infinity less infinity.
        same = (found == expected) | (np.abs(found - expected) <= atol)
    assert same.all(), (
        f"{found[~same][:3]} beside {expected[~same][:3]}: more than {atol} apart, which "
        f"{roundings} roundings explain"
    )
