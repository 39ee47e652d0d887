"""Answers are those of transformers' `generate`, alone or in company, at once or as a stream.

The fixture comes from tests/oracles/transformers_fixtures.py, which says what it holds.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from minirec.decoding.draw import SamplingSettings, draw, kept_logits
from minirec.decoding.sampling import Sampler, _begin, _go_on
from minirec.models.hf import load_checkpoint
from tests.bounds import assert_close, log_softmax_roundings, trunk_roundings

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "hf"
FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
GREEDY = SamplingSettings(greedy=True, max_new_tokens=24)
DRAWN = SamplingSettings(max_new_tokens=24, temperature=1.5, top_p=0.95, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(FIXTURES / "qwen2_tied")


@pytest.fixture(scope="module")
def oracle():
    with np.load(FIXTURES / "qwen2_tied_sampling.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def prompts(oracle):
    rows = zip(oracle["prompts"], oracle["lengths"], strict=True)
    return [row[:length].tolist() for row, length in rows]


@pytest.fixture(scope="module")
def sampler(model):
    return Sampler(model, decode=letters, tile=4)


def letters(tokens):
    """A text of two letters a token."""
    return "".join(f"{chr(97 + token // 26)}{chr(97 + token % 26)}" for token in tokens)


def settings_of(row):
    values = dict(zip(FIELDS, map(float, row), strict=True))
    return SamplingSettings(**values | {"top_k": int(values["top_k"]), "max_new_tokens": 1})


def tokens_of(answers):
    return [list(answer.tokens) for answer in answers]


def test_prompts_of_all_lengths_have_the_greedy_answers_of_transformers(sampler, oracle, prompts):
    assert len({len(prompt) for prompt in prompts}) > 3
    assert tokens_of(sampler.generate(prompts, GREEDY)) == oracle["greedy"].tolist()
    penalised = dataclasses.replace(GREEDY, repetition_penalty=1.3)
    assert tokens_of(sampler.generate(prompts, penalised)) == oracle["penalised"].tolist()


def test_other_settings_and_models_compile_nothing(sampler, model, prompts):
    sampler.generate(prompts, GREEDY)
    before = _begin._cache_size(), _go_on._cache_size()
    sampler.generate(prompts, DRAWN)
    other = Sampler(jax.tree.map(lambda x: x * 1.5, model), tile=4)
    assert tokens_of(other.generate(prompts, GREEDY)) != tokens_of(
        sampler.generate(prompts, GREEDY)
    )
    assert (_begin._cache_size(), _go_on._cache_size()) == before


@pytest.fixture(scope="module")
def last(model, prompts):
    """The logits behind the last prompt, and which tokens that holds."""
    prompt = np.array(prompts[-1:])
    logits = jax.jit(lambda model, *given: model.logits(model.prefill(*given)[0]))(
        model, prompt, np.array([prompt.shape[1]])
    )
    seen = np.zeros(logits.shape, bool)
    seen[0, prompt[0]] = True
    return logits, seen


def test_what_is_drawn_from_is_what_transformers_draws_from(model, oracle, prompts, last):
    """Softmax of what stays, to the roundings of a model, a softmax and a penalty."""
    logits, seen = last
    trunk = model.config.trunk
    roundings = trunk_roundings(trunk, len(prompts[-1])) + trunk.width + 4
    roundings += log_softmax_roundings(logits.shape[-1])
    kept_of = jax.jit(kept_logits)
    for row, theirs in zip(oracle["settings"], oracle["probabilities"], strict=True):
        settings = settings_of(row)
        penalty = settings.repetition_penalty
        lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
        kept = kept_of(jnp.where(seen, lowered, logits), settings.numbers())
        ours = np.asarray(jax.nn.softmax(kept))[0]
        np.testing.assert_array_equal(ours > 0, theirs > 0)
        some = theirs > 0
        # An error of a logit is one of the probability's logarithm.
        assert_close(np.log(ours[some]), np.log(theirs[some]), roundings)


def test_20_000_draws_have_the_distribution_of_transformers_draws(oracle, last):
    num = int(oracle["counts"][0].sum())
    assert num == 20_000
    keys = jax.vmap(jax.random.key)(np.arange(num, dtype=np.uint32))
    rows = [jnp.broadcast_to(array, (num, array.shape[1])) for array in last]
    draw_rows = jax.jit(draw)
    names = ("settings", "probabilities", "counts")
    for row, p, theirs in zip(*(oracle[name][::2] for name in names), strict=True):
        tokens = draw_rows(*rows, keys, settings_of(row).numbers())
        drawn = np.bincount(tokens, minlength=len(p))
        assert not drawn[p == 0].any()
        # Tokens of fewer than ten expected draws are counted together.
        often = p * num >= 10
        ours, expected, others = (
            np.append(count[often], count[~often].sum())
            for count in (drawn.astype(float), p.astype(np.float64) * num, theirs.astype(float))
        )
        some = expected > 0
        expected *= num / expected.sum()
        assert scipy.stats.chisquare(ours[some], expected[some]).pvalue > 1e-3
        both = np.stack([ours, others])
        assert scipy.stats.chi2_contingency(both[:, both.sum(0) > 0]).pvalue > 1e-3


def test_an_answer_does_not_depend_on_its_company(sampler, prompts):
    seeds = list(range(10, 10 + len(prompts)))
    together = sampler.generate(prompts, DRAWN, seeds)
    assert len({answer.tokens for answer in together}) == len(prompts)
    assert together[::-1] == sampler.generate(prompts[::-1], DRAWN, seeds[::-1])
    for prompt, seed, answer in zip(prompts[:3], seeds, together, strict=False):
        assert sampler.generate([prompt], DRAWN, [seed]) == [answer]
        assert list(sampler.stream(prompt, DRAWN, seed)) == list(answer.tokens)
        assert "".join(sampler.stream_text(prompt, DRAWN, seed)) == answer.text


def test_an_answer_ends_at_the_models_end_at_a_stop_string_or_where_there_is_no_room(
    sampler, model, oracle, prompts
):
    prompt, whole = prompts[-1], oracle["greedy"][-1].tolist()
    at = next(n for n in range(4, 24) if whole[n] not in whole[:n])
    ended = Sampler(model, ends=(whole[at], 999_999), decode=letters, tile=4)
    (answer,) = ended.generate([prompt], GREEDY)
    assert (list(answer.tokens), answer.reason) == (whole[:at], "end")
    assert list(ended.stream(prompt, GREEDY)) == whole[:at]

    # A stop string of the second letter of one token and the first of the next.
    text = letters(whole)
    stop = text[2 * at + 1 : 2 * at + 4]
    first = text.find(stop)
    stopping = dataclasses.replace(GREEDY, stop=("~", stop))
    answers = sampler.generate([prompts[0], prompt], stopping)
    assert (answers[1].text, answers[1].reason) == (text[:first], "stop")
    assert list(answers[1].tokens) == whole[: -(-(first + len(stop)) // 2)]
    assert answers[0].tokens == tuple(oracle["greedy"][0])
    assert list(sampler.stream(prompt, stopping)) == list(answers[1].tokens)
    assert "".join(sampler.stream_text(prompt, stopping)) == text[:first]

    short = Sampler(model, decode=letters, context=len(prompt) + 7, tile=4)
    (answer,) = short.generate([prompt], GREEDY)
    assert (list(answer.tokens), answer.reason) == (whole[:7], "length")
    assert len(list(short.stream(prompt, GREEDY))) == 7


def test_a_stop_string_takes_no_room_that_a_prompt_does_not_have(model, prompts):
    longer = [*prompts[-1], *prompts[-1]]
    shorter = longer[:-7]
    context = len(longer) + 3
    sampler = Sampler(model, decode=letters, context=context, tile=4)
    # A string that the longer one's answer would come to where there were room.
    roomy = Sampler(model, decode=letters, tile=4).generate([longer], GREEDY)[0]
    stop = letters(roomy.tokens[6:8])
    assert stop not in letters(roomy.tokens[:6])
    stopping = dataclasses.replace(GREEDY, stop=(stop,))
    alone = [sampler.generate([one], stopping)[0] for one in (longer, shorter)]
    assert (len(alone[0].tokens), alone[0].reason) == (3, "length")
    together = sampler.generate([longer, shorter], stopping)
    assert tokens_of(together) == tokens_of(alone)
    assert [answer.reason for answer in together] == [answer.reason for answer in alone]


def test_a_stop_string_that_never_comes_is_not_held_back_for_good(sampler, oracle, prompts):
    whole = letters(oracle["greedy"][-1].tolist())
    settings = dataclasses.replace(GREEDY, stop=(f"{whole[-2:]}~",))
    pieces = list(sampler.stream_text(prompts[-1], settings))
    assert "".join(pieces) == whole
    assert len(pieces) > 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.generate([[]]), "prompt 0 is empty"),
        (lambda s: s.generate([[1]], seeds=[1, 2]), "2 seeds for 1 prompts"),
        (lambda s: s.stream([3] * 64), "has 64 tokens, which leave no room"),
        (lambda s: s.generate([[1]], SamplingSettings(stop=("a",))), "cannot look for it"),
        (lambda s: s.stream_text([1]), "text needs a decoder"),
        (lambda _: SamplingSettings(temperature=0.0), "SamplingSettings.temperature=0.0"),
        (lambda _: SamplingSettings(temperature=1e-42), "SamplingSettings.temperature=1e-42"),
        (lambda _: SamplingSettings(top_p=1e-46), "SamplingSettings.top_p=1e-46"),
        (lambda _: SamplingSettings(seed=2**32), "SamplingSettings.seed=4294967296"),
        (lambda _: SamplingSettings(top_p=1.1), "SamplingSettings.top_p=1.1"),
        (lambda _: SamplingSettings(min_p=1.0), "SamplingSettings.min_p=1.0"),
        (lambda _: SamplingSettings(top_k=-1), "SamplingSettings.top_k"),
        (lambda _: SamplingSettings(stop="ab"), "SamplingSettings.stop='ab'"),
        (lambda _: Sampler(None, tile=0), "tile=0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(Sampler(model, context=64))
