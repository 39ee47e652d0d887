"""The answers that a search may give: SIDs as the language model writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from minirec.sids import SidTable
from minirec.sids.table import token_string
from pipelines.text.tokenizer import TextTokenizer

RESPONSE = "{sid}\n"


def sid_tuples(table: SidTable) -> list[tuple[str, ...]]:
    """Returns every item's SID as its tokens' spellings, such as `("<a_12>", "<b_3>")`."""
    columns = [
        [token_string(level, code) for code in range(int(table.codes[:, level].max()) + 1)]
        for level in range(table.num_levels)
    ]
    return [
        tuple(column[code] for column, code in zip(columns, row, strict=True))
        for row in table.codes.tolist()
    ]


def sid_names(table: SidTable) -> list[str]:
    """Returns the spellings of all SID tokens that occur in the table, sorted."""
    return sorted({name for sid in sid_tuples(table) for name in sid})


def answer_tokens(
    tokenizer: TextTokenizer, sids: Sequence[tuple[str, ...]], response: str = RESPONSE
) -> Int32[np.ndarray, "N length"]:
    """Returns the tokens of each SID as an answer: what a trie of answers is built from.

    Args:
        tokenizer: has the SID tokens.
        sids: one a row, as spellings of tokens.
        response: the answer's wording, as in a prompt's template; the end token comes after it.

    Raises:
        ValueError: no SIDs, a SID token that the tokenizer lacks, or answers that differ in length.
    """
    if not sids:
        raise ValueError("sids: there are none; the answers need at least one")
    names = sorted({name for sid in sids for name in sid})
    tokenizer.ids(names)  # raises for one that it lacks
    ids, offsets = tokenizer.encode_flat([response.format(sid="".join(sid)) for sid in sids])
    lengths = np.diff(offsets) + 1
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd):
        row = int(odd[0])
        raise ValueError(
            f"sids: {''.join(sids[row])!r} (row {row}) has {lengths[row]} tokens as an answer, "
            f"{''.join(sids[0])!r} has {lengths[0]}: all must have as many"
        )
    end = np.full((len(sids), 1), tokenizer.eos_token_id, np.int32)
    return np.concatenate([ids.reshape(len(sids), -1), end], axis=1)
