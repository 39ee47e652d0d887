"""The dictionary of prefixes, how a marker is cut off, and that the trie allows the same."""

import numpy as np
import pytest

from kernels.trie import build_trie
from minirec.decoding.answer_mask import MARKER, answer_mask, family_of, trie_differences
from minirec.decoding.toy_tokens import BOS, ToyTokens

SIDS = ("<a_1><b_5><c_2>", "<a_1><b_5><c_7>", "<a_1><b_9><c_2>", "<a_4><b_5><c_3>")
END = 12


def toy_mask(base_model, sids=SIDS, end=END):
    family = family_of(base_model)
    tokens = ToyTokens(family, end)
    return answer_mask(sids, tokens, family, end), tokens


@pytest.mark.parametrize(
    ("base_model", "name", "prefix_index", "strips_first"),
    [
        ("Qwen/Qwen2.5-0.5B", "other", 3, False),
        ("./GPT2-medium", "gpt2", 4, False),
        ("meta-llama/Llama-3.2-1B", "llama", 3, True),
    ],
)
def test_the_path_decides_how_the_marker_is_cut_off(base_model, name, prefix_index, strips_first):
    family = family_of(base_model)
    assert (family.name, family.prefix_index, family.strips_first) == (
        name,
        prefix_index,
        strips_first,
    )
    mask, tokens = toy_mask(base_model)
    marker = [token for token in tokens(MARKER) if token != BOS]
    assert list(mask.marker) == marker
    assert len(marker) == prefix_index
    assert "".join(tokens.pieces[token] for token in marker) == MARKER
    assert mask.key(()) == mask.marker
    assert mask.key((7, 8)) == (7, 8)


def test_a_prefix_allows_what_goes_on_and_after_the_end_only_the_end_is_left():
    mask, tokens = toy_mask("qwen")
    number = {piece: token for token, piece in tokens.pieces.items()}

    def after(*pieces):
        return {tokens.pieces[t] for t in mask.allowed([number[piece] for piece in pieces])}

    assert after() == {"<a_1>", "<a_4>"}
    assert after("<a_1>") == {"<b_5>", "<b_9>"}
    assert after("<a_1>", "<b_5>") == {"<c_2>", "<c_7>"}
    assert after("<a_1>", "<b_5>", "<c_2>") == {"\n"}
    assert after("<a_1>", "<b_5>", "<c_2>", "\n") == {"<end>"}
    assert after("<a_1>", "<b_5>", "<c_2>", "\n", "<end>") == set()
    assert after("<b_5>") == set()
    assert mask.forced([number["<b_5>"]]) == mask.forced(mask.answers[0]) == (END,)


def test_the_trie_allows_the_same_and_a_difference_is_found():
    mask, _ = toy_mask("qwen")
    assert trie_differences(mask, mask.trie()) == []
    without_one = build_trie(np.array(mask.answers)[1:])
    assert trie_differences(mask, without_one) == [
        mask.answers[0][:2],
        *(mask.answers[0][:depth] for depth in (3, 4)),
    ]


def test_answers_may_differ_in_length():
    mask, _ = toy_mask("qwen", ("<a_1><b_5>", "<a_1><b_5><c_7><d_2>", "<a_3>"))
    assert sorted(map(len, mask.answers)) == [3, 4, 6]
    assert mask.trie().num_levels == 6
    assert trie_differences(mask, mask.trie()) == []


@pytest.mark.parametrize(
    ("sids", "tokenize", "message"),
    [
        ((), list, "there are no SIDs"),
        (("ab",), lambda text: [1, 2, 3], "SID 'ab': nothing is left after 3 tokens"),
        (("ab",), lambda text: [1, 2, 3, END], r"SID 'ab': its tokens \[12\] hold the end token"),
        (("ab", "b"), lambda text: [1, 2, len(text), 4], r"SID 'b': .* joins the marker"),
    ],
)
def test_sids_that_make_no_mask_are_named(sids, tokenize, message):
    with pytest.raises(ValueError, match=message):
        answer_mask(sids, tokenize, family_of("qwen"), END)
