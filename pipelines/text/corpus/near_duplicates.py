"""Passages that are almost the same, by MinHash (Broder 1997) and bands of its values.

Shingles are runs of letters, not of words, so that scripts without blanks have them as well.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import UInt32, UInt64

from minirec.files.schema import require_whole

_NO_LETTERS = re.compile(r"[\W_]+")
_SHINGLE = 12  # letters: two or three words
_BANDS, _ROWS = 16, 4  # what shares .7 of its shingles meets in a band with probability .99
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, and odd
_SHIFT = np.uint64(32)
_SAMPLED = np.uint64(3)


class MinHash:
    """Signatures of texts: the share of equal values is Jaccard's coefficient, give or take .06."""

    def __init__(self, seed: int = 0):
        """Draws the hashes.

        Args:
            seed: of the draw.
        """
        require_whole("seed", seed, least=0)
        rng = np.random.default_rng(seed)
        size = _BANDS * _ROWS
        self._factor = rng.integers(2**64, size=(size, 1), dtype=np.uint64) | np.uint64(1)
        self._shift = rng.integers(2**64, size=(size, 1), dtype=np.uint64)

    def signature(self, text: str) -> UInt32[np.ndarray, " hashes"]:
        """Returns the least value of each hash over a text's shingles."""
        plain = _NO_LETTERS.sub(" ", text.casefold()).strip()
        codes = np.frombuffer(plain.encode("utf-32-le"), np.uint32).astype(np.uint64)
        count = max(len(codes) - _SHINGLE + 1, 1)
        shingles = np.zeros(count, np.uint64)
        for place in range(min(_SHINGLE, len(codes))):
            shingles = shingles * _PRIME + codes[place : place + count]
        shingles ^= shingles >> _SHIFT
        # A fixed quarter of all shingles says as much, in a quarter of the time.
        some = shingles[shingles & _SAMPLED == 0]
        shingles = some if len(some) else shingles[:1]
        values = self._factor * shingles + self._shift
        return (values.min(axis=1) >> _SHIFT).astype(np.uint32)


class NearDuplicates:
    """Finds whether one of some passages is almost the same as another one."""

    def __init__(self, signatures: UInt32[np.ndarray, "n hashes"], least: float):
        """Sorts the bands of signatures.

        Args:
            signatures: of the passages that are compared with.
            least: share of equal values from which two are almost the same.
        """
        self._signatures = signatures
        self._least = least
        bands = _bands(signatures)
        self._order = np.argsort(bands, axis=0, kind="stable")
        self._sorted = np.take_along_axis(bands, self._order, axis=0).T.copy()

    def has(self, signature: UInt32[np.ndarray, " hashes"]) -> bool:
        """Returns whether one of the passages is almost that of this signature."""
        for band, value in enumerate(_bands(signature[None])[0]):
            first, last = np.searchsorted(self._sorted[band], [value, value + np.uint64(1)])
            others = self._signatures[self._order[first:last, band]]
            if len(others) and (others == signature).mean(axis=1).max() >= self._least:
                return True
        return False


def _bands(signatures: UInt32[np.ndarray, "n hashes"]) -> UInt64[np.ndarray, "n bands"]:
    parts = signatures.reshape(len(signatures), _BANDS, _ROWS).astype(np.uint64)
    values = np.zeros(parts.shape[:2], np.uint64)
    for row in range(_ROWS):
        values = values * _PRIME + parts[:, :, row]
    return values >> np.uint64(1)  # One more must not begin again at 0.
