"""What goes into a beam step, what comes out, and what a backend says when it cannot."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from kernels.trie import DEAD_NODE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """The beams of a batch of users; a pytree.

    Nodes are numbers of one trie, and a beam does not know of which: after a catalogue is swapped,
    a search that has begun ends with the old trie or starts again at the root. (`minirec.decoding`
    keeps the trie's digest with its state and refuses another's.)

    Attributes:
        node: int32 `[B, M]`, each beam's node, all of one depth; `DEAD_NODE` for dead beams.
        score: float32 `[B, M]`, sum of log-probabilities; a beam whose score is `-inf`, `+inf` or
            NaN is dead.
    """

    node: Int32[Array, "B M"]
    score: Float32[Array, "B M"]

    @classmethod
    def root(cls, batch: int, num_beams: int = 1) -> Beams:
        """Returns the beams that a search starts from: beam 0 at the root, score 0, others dead."""
        first = jnp.arange(num_beams, dtype=jnp.int32) == 0
        return cls(
            node=jnp.broadcast_to(jnp.where(first, 0, DEAD_NODE), (batch, num_beams)).astype(
                jnp.int32
            ),
            score=jnp.broadcast_to(jnp.where(first, 0.0, -jnp.inf), (batch, num_beams)).astype(
                jnp.float32
            ),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamStep:
    """The best beams of each user, best first; a pytree.

    A dead beam has token 0, parent 0, node `DEAD_NODE`, score `-inf`.

    Attributes:
        token: int32 `[B, num_beams]`, the token that was appended.
        parent: int32 `[B, num_beams]`, the beam that it was appended to, in `[0, M)`.
        node: int32 `[B, num_beams]`, the new node, one depth further down.
        score: float32 `[B, num_beams]`, the parent's score plus the token's log-probability.
    """

    token: Int32[Array, "B num_beams"]
    parent: Int32[Array, "B num_beams"]
    node: Int32[Array, "B num_beams"]
    score: Float32[Array, "B num_beams"]

    @property
    def beams(self) -> Beams:
        """The beams to give to the next level's step."""
        return Beams(node=self.node, score=self.score)
