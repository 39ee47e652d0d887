"""The compiled search: what it shares between batches, and what it refuses."""

import jax
import numpy as np
import pytest

from kernels.trie import build_trie
from minirec.decoding import BeamSearcher, Buckets
from tests.bounds import assert_close
from tests.decoding.small import LEVELS, LOGITS, TO_SCORE, make_model

# Searches of the same sizes are the same program, which is compiled once.
SIZES = {
    "num_beams": 6,
    "batch_buckets": Buckets(sizes=(4, 8)),
    "length_buckets": Buckets(sizes=(8, 16)),
}


class TestBeamSearcher:
    def test_one_compilation_serves_a_bucket_and_padding_changes_nothing(
        self, model, prompts, trie
    ):
        tokens, lengths = prompts
        excluded = np.array([[1, 2, -1], [-1, -1, -1], [5, 6, 7]], np.int32)
        searcher = BeamSearcher(**SIZES)
        first = searcher(model, tokens, lengths, trie, excluded=excluded)
        two = searcher(model, tokens[:2], lengths[:2], trie, excluded=excluded[:2])
        garbage = np.full((3, 1), 9, np.int32)
        wider = searcher(
            model,
            np.concatenate([tokens, garbage], axis=1),
            lengths,
            trie,
            excluded=np.pad(excluded, ((0, 0), (0, 4)), constant_values=-1),
        )
        assert searcher.num_traces == 1
        assert first.item.shape == (3, 6)
        assert jax.tree.structure(two) == jax.tree.structure(wider) == jax.tree.structure(first)
        leaves = map(jax.tree.leaves, (first, two, wider))
        for expected, of_two, of_wider in zip(*leaves, strict=True):
            np.testing.assert_array_equal(of_two, expected[:2])
            np.testing.assert_array_equal(of_wider, expected)
        # Another bucket is another program with the same answer.
        longer = np.pad(tokens, ((0, 0), (0, 5)), constant_values=9)
        other = searcher(model, longer, lengths, trie, excluded=excluded)
        assert searcher.num_traces == 2
        np.testing.assert_array_equal(other.item, first.item)
        assert_close(other.item_score, first.item_score, TO_SCORE, scale=LEVELS * LOGITS)

    def test_new_weights_trie_and_filters_reuse_the_program(self, model, prompts, trie, catalogue):
        tokens, lengths = prompts
        searcher = BeamSearcher(num_beams=6)
        allowed = np.ones(len(catalogue), bool)
        before = searcher(model, tokens, lengths, trie, allowed=allowed)
        other_weights = searcher(make_model(1), tokens, lengths, trie, allowed=allowed)
        swapped = build_trie(catalogue[:-2, ::1][::-1], capacities=trie.capacities)
        other_trie = searcher(model, tokens, lengths, swapped, allowed=allowed)
        allowed[before.item[0, 0]] = False
        filtered = searcher(model, tokens, lengths, trie, allowed=allowed[:-1])
        assert searcher.num_traces == 1
        assert (other_weights.item != before.item).any()
        assert (other_trie.item != before.item).any()
        assert before.item[0, 0] not in filtered.item
        assert len(catalogue) - 1 not in filtered.item
        # The same module with its weights changed in place.
        changed = make_model()
        changed.head[...] = -changed.head[...]
        assert (searcher(changed, tokens, lengths, trie, allowed=allowed).item != before.item).any()
        assert searcher.num_traces == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lengths": np.array([5, 0, 7])}, r"lengths\[1\]=0"),
            ({"lengths": np.array([5, 2, 8])}, r"lengths\[2\]=8"),
            ({"lengths": np.array([5, 2])}, "must be"),
            ({"lengths": np.array([5.0, 2.5, 7.0])}, "lengths: float64 must be integers"),
            ({"prompts": np.zeros((3, 7))}, "prompts: float64 must be integers"),
            ({"excluded": np.zeros((3, 4))}, "excluded: .*float64; it must be integers"),
            ({"excluded": np.zeros((2, 4), np.int32)}, "excluded"),
            ({"allowed": np.ones((2, 4), bool)}, "allowed"),
        ],
    )
    def test_arguments_that_do_not_fit_are_named(self, model, prompts, trie, change, message):
        arguments = {"prompts": prompts[0], "lengths": prompts[1], **change}
        with pytest.raises(ValueError, match=message):
            BeamSearcher(num_beams=2)(model, trie=trie, **arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_beams": 0}, "num_beams=0"),
            ({"normalize": "softmax"}, "normalize='softmax' must be one of vocab, children"),
            (
                {"implementation": "cuda"},
                "implementation='cuda' must be None or one of .*reference",
            ),
        ],
    )
    def test_an_unknown_option_is_an_error_at_once(self, options, message):
        with pytest.raises(ValueError, match=message):
            BeamSearcher(**({"num_beams": 2} | options))

    def test_excluded_ids_that_no_item_can_have_change_nothing(self, model, prompts, trie):
        searcher = BeamSearcher(**SIZES)
        nobody = searcher(model, *prompts, trie, excluded=np.full((3, 3), -1))
        strange = 2**32 + nobody.item[:, :3].astype(np.int64)
        result = searcher(model, *prompts, trie, excluded=strange)
        np.testing.assert_array_equal(result.item, nobody.item)

    def test_a_batch_past_the_largest_bucket_is_an_error(self, model, prompts, trie):
        searcher = BeamSearcher(num_beams=2, batch_buckets=Buckets(sizes=(1, 2)))
        with pytest.raises(ValueError, match="the batch is 3, the largest bucket 2"):
            searcher(model, *prompts, trie)


@pytest.mark.parametrize("steps", [4, 64])
@pytest.mark.parametrize("size", [1, 3, 8, 9, 17, 41, 100, 1000])
def test_buckets_add_at_most_one_part_in_steps(size, steps):
    buckets = Buckets(steps=steps)
    bucket = buckets.round_up(size, "size")
    assert size <= bucket < size + max(size / steps, 1)
    assert buckets.round_up(bucket, "size") == bucket


def test_a_number_of_steps_that_is_no_power_of_two_is_an_error():
    with pytest.raises(ValueError, match=r"Buckets\.steps=6 must be a power of two"):
        Buckets(steps=6)
