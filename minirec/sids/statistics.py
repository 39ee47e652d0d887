"""How well a SID table uses its codes, and how many items it cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from minirec.sids.collisions import check_codebook_sizes, check_codes, refine


def sid_report(
    codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int] | None = None
) -> dict[str, Any]:
    """Returns codebook use, perplexity and collisions, ready for JSON.

    Args:
        codes: SIDs by item id.
        codebook_sizes: K of each level; None takes the highest code plus one.

    Returns:
        A dict with
        - `num_items`, `num_levels`, `codebook_sizes`;
        - `distinct_sids`; `items_sharing_sid`, how many items have a SID that another item has
          too; `collision_rate`, 1 - distinct_sids / num_items; `largest_group`, how many items
          the most crowded SID has;
        - `levels`, a dict each: `level`, `codebook_size`, `used` (codes that occur),
          `fraction_used`, `perplexity` (exp of the entropy, in nats, of the codes' frequencies:
          K if all are used alike), `largest_share` (of the items, in the most frequent code) and,
          of the SIDs cut after this level, `distinct_prefixes`, `items_sharing_prefix`,
          `largest_group`;
        - `code_counts`, a list a level of how many items have each code.

    Raises:
        ValueError: `codes` is not a table of codes, or a codebook is too small for it.
    """
    codes = check_codes(codes)
    sizes = check_codebook_sizes(codes, codebook_sizes)
    num_items, num_levels = codes.shape
    levels: list[dict[str, Any]] = []
    code_counts: list[list[int]] = []
    group = np.zeros(num_items, dtype=np.int64)
    groups = np.array([num_items])
    for level, size in enumerate(sizes):
        counts = np.bincount(codes[:, level], minlength=size)
        share = counts[counts > 0] / num_items
        group = refine(group, codes[:, level])
        groups = np.bincount(group)
        levels.append(
            {
                "level": level,
                "codebook_size": size,
                "used": len(share),
                "fraction_used": len(share) / size,
                "perplexity": float(np.exp(-np.sum(share * np.log(share)))),
                "largest_share": float(share.max()),
                "distinct_prefixes": len(groups),
                "items_sharing_prefix": int(groups[groups > 1].sum()),
                "largest_group": int(groups.max()),
            }
        )
        code_counts.append(counts.tolist())
    return {
        "num_items": num_items,
        "num_levels": num_levels,
        "codebook_sizes": list(sizes),
        "distinct_sids": len(groups),
        "items_sharing_sid": int(groups[groups > 1].sum()),
        "collision_rate": 1.0 - len(groups) / num_items,
        "largest_group": int(groups.max()),
        "levels": levels,
        "code_counts": code_counts,
    }


def number_sids(sids: Int[np.ndarray, "*shape L"]) -> Int[np.ndarray, "*shape"]:
    """Returns one integer a SID, equal exactly where all codes are; the integers mean nothing."""
    flat = sids.reshape(-1, sids.shape[-1])
    numbers = np.zeros(len(flat), np.int64)
    count = 1
    for codes in flat.T:
        low = int(codes.min(initial=0))
        size = int(codes.max(initial=0)) - low + 1
        if count * size >= 2**62:
            # Too many possible SIDs for 64 bits: go on with those that occur.
            present, numbers = np.unique(numbers, return_inverse=True)
            count = len(present)
        numbers = numbers * size + (codes.astype(np.int64) - low)
        count *= size
    return numbers.reshape(sids.shape[:-1])
