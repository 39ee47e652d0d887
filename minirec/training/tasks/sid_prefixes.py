"""Which codes may follow each prefix of a catalogue's SIDs, as bits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, UInt32

_WORD = 32
_MAX_BYTES = 2**31


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SidPrefixes:
    """A catalogue's SIDs as codes, and for every prefix the codes behind it; a pytree.

    Attributes:
        item_tokens: int32 `[N, L]`, the tokens of every item's SID.
        tokens: by level, the tokens that occur there, ascending; a code is a place in it.
        codes: int32 `[N, L]`, each item's SID in such codes.
        nodes: int32 `[N, L]`, the number of each item's prefix before every level.
        following: by level, uint32 `[prefixes, words]`, a bit for each code behind a prefix; the
            first level has none, since every code of it may begin a SID.
    """

    item_tokens: Int32[Array | np.ndarray, "N L"]
    tokens: tuple[Int32[Array | np.ndarray, " K"], ...]
    codes: Int32[Array | np.ndarray, "N L"]
    nodes: Int32[Array | np.ndarray, "N L"]
    following: tuple[UInt32[Array | np.ndarray, "prefixes words"], ...]

    @classmethod
    def of(cls, item_tokens: Int[np.ndarray, "N L"]) -> SidPrefixes:
        """Returns the prefixes of the items' SIDs.

        Args:
            item_tokens: the tokens of every item's SID.

        Raises:
            ValueError: no items, or tables of more than 2 GiB (number of prefixes times codes).
        """
        N, L = item_tokens.shape
        if not N or not L:
            raise ValueError(f"item_tokens {list(item_tokens.shape)}: needs items and levels")
        node = np.zeros(N, np.int64)
        tokens, codes, nodes, following = [], [], [], []
        for level in range(L):
            present, code = np.unique(item_tokens[:, level], return_inverse=True)
            tokens.append(present.astype(np.int32))
            codes.append(code)
            nodes.append(node)
            if level:
                following.append(_bits(node, code, len(present), level))
            _, node = np.unique(node * len(present) + code, return_inverse=True)
        return cls(
            item_tokens.astype(np.int32),
            tuple(tokens),
            np.stack(codes, axis=1).astype(np.int32),
            np.stack(nodes, axis=1).astype(np.int32),
            tuple(following),
        )

    @property
    def num_items(self) -> int:
        """`N`, items of the catalogue."""
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        """`L`, levels of a SID."""
        return len(self.tokens)

    def allowed(self, item: Int[Array, "*batch"], level: int) -> Bool[Array, "*batch K"] | None:
        """Returns the codes that may stand at a level of some items' SIDs; `None`: every code."""
        if level == 0:
            return None
        words = self.following[level - 1][self.nodes[item, level]]
        bits = (words[..., None] >> jnp.arange(_WORD, dtype=jnp.uint32)) & 1
        bits = bits.reshape(*words.shape[:-1], -1)
        return bits[..., : len(self.tokens[level])] == 1


def _bits(
    node: Int[np.ndarray, " N"], code: Int[np.ndarray, " N"], num_codes: int, level: int
) -> UInt32[np.ndarray, "prefixes words"]:
    shape = (int(node.max()) + 1, -(-num_codes // _WORD))
    if 4 * shape[0] * shape[1] > _MAX_BYTES:
        raise ValueError(
            f"level {level} has {shape[0]} prefixes and {num_codes} codes, a table of "
            f"{4 * shape[0] * shape[1] / 2**30:.1f} GiB: 2 GiB at most; use smaller codebooks, or "
            "config.model.positions='tokens'"
        )
    bits = np.zeros(shape, np.uint32)
    one = np.uint32(1) << (code % _WORD).astype(np.uint32)
    np.bitwise_or.at(bits, (node, code // _WORD), one)
    return bits
