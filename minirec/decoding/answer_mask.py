"""Which tokens may follow in an answer, by a dictionary of prefixes on the host.

It is the plainest form of a constrained search, in the shape in which MiniOneRec's evaluation has
it (AkaliKong/MiniOneRec, `evaluate.py` and its logits processor; the facts, not the code): a text
of marker, SID and newline is tokenised whole, a fixed number of leading tokens is taken for the
marker, the end token is appended, and each prefix after the marker knows the tokens that follow it.
Here people can hold it against their own, and against `kernels.trie`, which the search uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from kernels.trie import Trie, build_trie

MARKER = "### Response:\n"
"""What stands before an answer in MiniOneRec's prompts."""


@dataclasses.dataclass(frozen=True)
class Family:
    """How MiniOneRec cuts a tokenised answer, which it decides by the checkpoint's path.

    Attributes:
        name: "gpt2", "llama" or "other".
        prefix_index: leading tokens that are taken for the marker.
        strips_first: whether the first token, Llama's BOS, is dropped before that.
    """

    name: str
    prefix_index: int
    strips_first: bool


def family_of(base_model: str) -> Family:
    """Returns the family of a checkpoint's path or name; upper and lower case are the same."""
    lower = base_model.lower()
    name = "llama" if "llama" in lower else "gpt2" if "gpt2" in lower else "other"
    return Family(name, 4 if "gpt2" in lower else 3, name == "llama")


@dataclasses.dataclass(frozen=True)
class AnswerMask:
    """The tokens that may follow every prefix of some answers of any lengths.

    Attributes:
        marker: tokens before an answer.
        answers: tokens of each SID's answer, the end token last, marker left out.
        end: the end token.
        following: what may follow each prefix, sorted.
    """

    marker: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    end: int
    following: dict[tuple[int, ...], tuple[int, ...]]

    def key(self, generated: Sequence[int]) -> tuple[int, ...]:
        """Returns what is looked up: the marker at first, then all that was generated."""
        return tuple(generated) or self.marker

    def allowed(self, generated: Sequence[int]) -> tuple[int, ...]:
        """Returns the tokens that continue an answer; none where nothing does."""
        return self.following.get(tuple(generated), ())

    def forced(self, generated: Sequence[int]) -> tuple[int, ...]:
        """Returns the tokens that MiniOneRec leaves: the end token where nothing continues."""
        return self.allowed(generated) or (self.end,)

    def trie(self) -> Trie:
        """Returns the trie of the answers, the shorter ones filled up with the end token.

        So a beam that has ended goes on with the end token alone, as `forced` has it.

        Raises:
            ValueError: an answer is longer than a trie is deep.
        """
        longest = max(map(len, self.answers))
        return build_trie([(*a, *[self.end] * (longest - len(a))) for a in self.answers])


def answer_mask(
    sids: Sequence[str], tokenize: Callable[[str], Sequence[int]], family: Family, end: int
) -> AnswerMask:
    """Returns the mask of SIDs.

    Args:
        sids: text of each SID.
        tokenize: from text to token ids, special tokens in front included.
        family: how the marker is cut off.
        end: the end token.

    Raises:
        ValueError: no SIDs, or one whose tokens do not begin with the others' marker, are no more
            than it, or hold the end token. The message names the SID.
    """
    if not sids:
        raise ValueError("there are no SIDs: a mask needs at least one")
    markers, answers = [], []
    for sid in sids:
        tokens = list(tokenize(f"{MARKER}{sid}\n"))[int(family.strips_first) :]
        marker, answer = tokens[: family.prefix_index], tokens[family.prefix_index :]
        markers.append(tuple(marker))
        if not answer:
            raise ValueError(f"SID {sid!r}: nothing is left after {family.prefix_index} tokens")
        if end in answer:
            raise ValueError(f"SID {sid!r}: its tokens {answer} hold the end token {end}")
        if markers[-1] != markers[0]:
            raise ValueError(
                f"SID {sid!r}: its first tokens {list(marker)} are not {list(markers[0])}, as "
                f"those of {sids[0]!r}: the tokeniser joins the marker and the SID"
            )
        answers.append((*answer, end))
    following: dict[tuple[int, ...], set[int]] = {}
    for answer in answers:
        for place, token in enumerate(answer):
            following.setdefault(answer[:place], set()).add(token)
    return AnswerMask(
        markers[0],
        tuple(answers),
        end,
        {prefix: tuple(sorted(tokens)) for prefix, tokens in following.items()},
    )


def trie_differences(mask: AnswerMask, trie: Trie) -> list[tuple[int, ...]]:
    """Returns the prefixes after which the trie allows other tokens than `AnswerMask.forced`.

    All prefixes of all answers are compared, ended ones as well, up to the trie's depth.
    """
    different: list[tuple[int, ...]] = []
    filled = {a + (mask.end,) * (trie.num_levels - len(a)) for a in mask.answers}
    for level in range(trie.num_levels):
        prefixes = sorted({answer[:level] for answer in filled})
        array = np.array(prefixes, np.int32).reshape(len(prefixes), level)
        node = trie.node_of(jnp.asarray(array))
        child = trie.children(node, level)
        token, valid = np.asarray(child.token), np.asarray(child.valid)
        for row, prefix in enumerate(prefixes):
            if tuple(sorted(token[row, valid[row]].tolist())) != mask.forced(prefix):
                different.append(prefix)
    return different
