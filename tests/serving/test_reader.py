"""Prompts of tokens are read in blocks: what has been read before costs nothing, and no bit."""

import numpy as np
import pytest

from minirec.serving.programs import Programs, Weights
from minirec.serving.reader import BLOCK, Reader
from minirec.serving.reading_cache import ReadingCache
from tests.models.language import VOCAB, make_language_model

TILE, WIDTH = 3, 4 * BLOCK
VERSIONS = ("model@1", 1)


@pytest.fixture(scope="module")
def programs():
    return Programs(tile=TILE, num_beams=2, normalize="vocab", num_items=0)


@pytest.fixture(scope="module")
def weights():
    return Weights.of(make_language_model())


@pytest.fixture
def blocks(programs, monkeypatch):
    """Where the blocks that are read begin."""
    starts, read_block = [], programs.read_block

    def counted(weights, tokens, start, reading):
        starts.append(int(start))
        return read_block(weights, tokens, start, reading)

    monkeypatch.setattr(programs, "read_block", counted)
    return starts


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, length).astype(np.int32)


def read(reader, weights, prompts, versions=VERSIONS):
    """What is read of each prompt, as bits."""
    reading, keep = reader.read(weights, versions, prompts, WIDTH)
    keep()
    hidden, key, value = (
        np.asarray(a) for a in (reading.hidden, reading.prefix.key, reading.prefix.value)
    )
    return [
        (hidden[row].tobytes(), key[:, row, :n].tobytes(), value[:, row, :n].tobytes())
        for row, n in enumerate(map(len, prompts))
    ]


def test_a_prompt_has_the_same_bits_however_much_of_it_is_kept_and_in_any_company(
    programs, weights
):
    alone = Reader(programs, ReadingCache(0))
    whole = prompt(WIDTH)
    lengths = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 100, WIDTH)
    want = {length: read(alone, weights, [whole[:length]])[0] for length in lengths}
    assert len(set(want.values())) == len(lengths)
    random = np.random.default_rng(1)
    cache = ReadingCache(1 << 24)
    kept = Reader(programs, cache)
    for _ in range(30):
        drawn = random.choice(lengths, random.integers(1, TILE + 1))
        other = prompt(int(random.integers(1, WIDTH)), seed=int(random.integers(3, 6)))
        prompts = [whole[:length] for length in drawn]
        prompts[random.integers(len(prompts))] = other
        for given, bits in zip(prompts, read(kept, weights, prompts), strict=True):
            if given is not other:
                assert bits == want[len(given)]
    assert min(cache.hits, cache.grown, cache.misses) > 0


def test_what_grew_by_some_tokens_costs_the_blocks_behind_the_last_full_one(
    programs, weights, blocks
):
    reader, whole = Reader(programs, ReadingCache(1 << 24)), prompt(WIDTH)
    for length, want in (
        (70, [0, BLOCK, 2 * BLOCK]),
        (70, []),
        (75, [2 * BLOCK]),
        (3 * BLOCK, [2 * BLOCK]),
        (3 * BLOCK, []),
        (2 * BLOCK, [BLOCK]),  # The keys are there, the state behind the last of them is not.
        (WIDTH, [3 * BLOCK]),
    ):
        blocks.clear()
        read(reader, weights, [whole[:length]])
        assert blocks == want, length


def test_prompts_that_are_whole_are_not_read_again_in_any_company(programs, weights, blocks):
    reader, whole = Reader(programs, ReadingCache(1 << 24)), prompt(WIDTH)
    short, longer, new = whole[:20], whole[:100], prompt(40, seed=7)
    read(reader, weights, [short, longer])
    blocks.clear()
    read(reader, weights, [short, longer])
    assert not blocks
    read(reader, weights, [longer, new])
    assert blocks == [0, BLOCK]


def test_another_version_has_read_nothing_of_it(programs, weights, blocks):
    reader, whole = Reader(programs, ReadingCache(1 << 24)), prompt(40)
    for version in (1, 2):
        blocks.clear()
        read(reader, weights, [whole], ("model@1", version))
        assert blocks == [0, BLOCK]


def test_a_short_prompts_width_is_read_at_once(programs, weights, blocks):
    cache = ReadingCache(1 << 24)
    reader = Reader(programs, cache)
    for _ in range(2):
        _, keep = reader.read(weights, VERSIONS, [prompt(20)], BLOCK)
        keep()
    assert not blocks
    assert (cache.hits, cache.misses) == (1, 1)


def test_no_program_is_made_for_what_is_kept(programs, weights):
    reader = Reader(programs, ReadingCache(1 << 24))
    read(reader, weights, [prompt(10)])
    before = programs.num_traces
    for length in (10, 50, 100, WIDTH):
        read(reader, weights, [prompt(length)] * 2)
    assert programs.num_traces == before
