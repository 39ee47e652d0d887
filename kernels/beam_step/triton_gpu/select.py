"""The Triton kernels that choose the best candidates of each user and make beams of them.

A candidate's *key* is its score as an integer of the same order, so that counting, comparing and
"no candidate" (`NO_KEY`) are integer operations.
"""

# Triton's language only looks like Python; to a type checker its blocks are what they are not.
# pyrefly: ignore-errors

import triton
import triton.language as tl

# The least int32: the key of a NaN with all bits set, so of no score that comes here.
NO_KEY = tl.constexpr(-(2**31))
INFINITY = tl.constexpr(float("inf"))
DEAD_NODE = tl.constexpr(-1)

_GREATEST = tl.constexpr(2**31 - 1)


@triton.jit
def merge(
    key_ptr,
    index_ptr,
    kept_key_ptr,
    kept_index_ptr,
    CANDIDATES: tl.constexpr,
    TILE: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Writes the best `KEPT` of each tile of each user's candidates, in the order they came in.

    One program a user and tile.

    Args:
        key_ptr: int32 `[users, CANDIDATES]`.
        index_ptr: int32 `[users, CANDIDATES]`: what each was called before; None: its place.
        kept_key_ptr: out, int32 `[users, tiles, KEPT]`, `NO_KEY` where there are fewer.
        kept_index_ptr: out, int32 `[users, tiles, KEPT]`; anything where there are fewer.
        CANDIDATES: candidates a user.
        TILE: candidates a program.
        KEPT: candidates kept a tile.
    """
    user, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    index = tile * TILE + tl.arange(0, TILE)[None, :]
    inside = index < CANDIDATES
    key = tl.load(key_ptr + user * CANDIDATES + index, mask=inside, other=NO_KEY)
    place, number = places_of_best(key, KEPT)
    kept = place < KEPT
    if index_ptr is not None:
        index = tl.load(index_ptr + user * CANDIDATES + index, mask=kept, other=0)
    out = (user * tl.num_programs(1) + tile) * KEPT
    # Places are distinct, so that each value has one writer; what is left behind the last is filled
    # below.
    kept_key_ptr += out
    kept_index_ptr += out
    tl.store(kept_key_ptr + place, key, mask=kept)
    tl.store(kept_index_ptr + place, index, mask=kept)
    left: tl.constexpr = triton.next_power_of_2(KEPT)
    place = tl.arange(0, left)[None, :]
    nothing = tl.full([1, left], NO_KEY, tl.int32)
    mask = (place >= number[:, None]) & (place < KEPT)
    tl.store(kept_key_ptr + place, nothing, mask=mask)


@triton.jit
def best_beams(
    key_ptr,
    index_ptr,
    token_ptr,
    edge_ptr,
    below_ptr,
    kept_key_ptr,
    kept_index_ptr,
    beam_token_ptr,
    beam_parent_ptr,
    beam_node_ptr,
    beam_score_ptr,
    CANDIDATES: tl.constexpr,
    TILE: tl.constexpr,
    PER_USER: tl.constexpr,
    PER_PARENT: tl.constexpr,
    NUM_BEAMS: tl.constexpr,
    BEAM_TILE: tl.constexpr,
    RANK_TILE: tl.constexpr,
):
    """Writes the best beams of each user, best first; one program a user.

    Args:
        key_ptr: int32 `[users, CANDIDATES]`.
        index_ptr: int32 `[users, CANDIDATES]`: where each stands among the user's `PER_USER` of
            `token` and `edge`; None: at its own place.
        token_ptr: int32 `[users, PER_USER]`.
        edge_ptr: int32 `[users, PER_USER]`.
        below_ptr: int32 `[edges]`: the node of each edge; None where it is the edge.
        kept_key_ptr: scratch, int32 `[users, NUM_BEAMS]`.
        kept_index_ptr: scratch, int32 `[users, NUM_BEAMS]`.
        beam_token_ptr: out, int32 `[users, NUM_BEAMS]`, as the next two.
        beam_parent_ptr: as above.
        beam_node_ptr: as above.
        beam_score_ptr: out, float32 `[users, NUM_BEAMS]`.
        CANDIDATES: candidates a user.
        TILE: the power of two that holds `CANDIDATES`.
        PER_USER: candidates a user before any `merge`.
        PER_PARENT: of these, candidates a parent.
        NUM_BEAMS: beams a user.
        BEAM_TILE: the power of two that holds `NUM_BEAMS`.
        RANK_TILE: how many beams all are compared with at a time; a power of two.
    """
    user = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, TILE)[None, :]
    inside = index < CANDIDATES
    key = tl.load(key_ptr + user * CANDIDATES + index, mask=inside, other=NO_KEY)
    place, number = places_of_best(key, NUM_BEAMS)
    kept = place < NUM_BEAMS
    if index_ptr is not None:
        index = tl.load(index_ptr + user * CANDIDATES + index, mask=kept, other=0)
    # A program cannot move values between its threads by an index; through memory it can.
    kept_key_ptr += user * NUM_BEAMS
    kept_index_ptr += user * NUM_BEAMS
    tl.store(kept_key_ptr + place, key, mask=kept)
    tl.store(kept_index_ptr + place, index, mask=kept)
    # All threads' stores must be there before any thread loads what others wrote.
    tl.debug_barrier()

    beam = tl.arange(0, BEAM_TILE)
    alive = beam < number
    key = tl.load(kept_key_ptr + beam, mask=alive, other=NO_KEY)
    index = tl.load(kept_index_ptr + beam, mask=alive, other=0)
    token = tl.load(token_ptr + user * PER_USER + index, mask=alive, other=0)
    node = tl.load(edge_ptr + user * PER_USER + index, mask=alive, other=DEAD_NODE)
    if below_ptr is not None:
        node = tl.load(below_ptr + node, mask=alive, other=DEAD_NODE)
    # Candidates lie by parent, each with as many columns.
    parent = tl.where(alive, index // PER_PARENT, 0)
    score = tl.where(alive, _score_of(key), -INFINITY)

    # The kept ones lie by parent and token, so the earlier place wins a tie.
    # A beam's place is the number of better ones, counted against all, some at a time.
    rank = tl.zeros([BEAM_TILE], dtype=tl.int32)
    for start in tl.range(0, BEAM_TILE, RANK_TILE, num_stages=1):
        other = start + tl.arange(0, RANK_TILE)
        other_key = tl.load(kept_key_ptr + other, mask=other < number, other=NO_KEY)
        earlier = other[None, :] < beam[:, None]
        tie = (other_key[None, :] == key[:, None]) & earlier
        better = (other_key[None, :] > key[:, None]) | tie
        rank += tl.sum(better.to(tl.int32), axis=1)
    # The living fill the first `number` places; each dead one keeps its own place behind them.
    out = user * NUM_BEAMS + tl.where(alive, rank, beam)
    inside = beam < NUM_BEAMS
    tl.store(beam_token_ptr + out, token, mask=inside)
    tl.store(beam_parent_ptr + out, parent, mask=inside)
    tl.store(beam_node_ptr + out, node, mask=inside)
    tl.store(beam_score_ptr + out, score, mask=inside)


@triton.jit
def places_of_best(key, KEPT: tl.constexpr):
    """Returns each key's place among its row's best `KEPT`, which stay in order, and how many.

    The place of what is not among them is `KEPT`. Of equal keys the earlier ones are taken;
    `NO_KEY` never is. Exact: a threshold is bisected between the smallest and the greatest key of
    a row, until as many keys reach it as are wanted, or until only equal ones are left to choose
    from. With well-spread scores that takes about ten rounds, each a count over the block.
    """
    is_key = key > NO_KEY
    low = tl.min(tl.where(is_key, key, _GREATEST), axis=1)
    # Nothing reaches it. The greatest key is a finite score's, so that the sum fits.
    high = tl.max(key, axis=1) + 1
    reach = tl.sum(is_key.to(tl.int32), axis=1)  # How many keys are `low` or greater.
    middle = (low & high) + ((low ^ high) >> 1)  # Their mean, without overflow.
    while tl.max(((reach > KEPT) & (middle > low)).to(tl.int32), axis=0) > 0:
        count = tl.sum((key >= middle[:, None]).to(tl.int32), axis=1)
        # A row that is done, while others are not, loses nothing by going on.
        enough = count >= KEPT
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
        reach = tl.where(enough, count, reach)
        middle = (low & high) + ((low ^ high) >> 1)

    # Two counts in one scan: a row of a block has fewer than 2^15 keys.
    # All keys above the threshold, and of those equal to it the first, as far as there is room.
    above = (key > low[:, None]) & is_key
    tie = (key == low[:, None]) & is_key
    counts = tl.cumsum(above.to(tl.int32) + (tie.to(tl.int32) << 16), axis=1)
    ties = counts >> 16
    room = (KEPT - tl.sum(above.to(tl.int32), axis=1))[:, None]
    place = (counts & 0xFFFF) + tl.minimum(ties, room) - 1
    kept = above | (tie & (ties <= room))
    return tl.where(kept, place, KEPT), tl.minimum(reach, KEPT)


@triton.jit
def key_of(score):
    """Returns an int32 in the order of the floats, -0.0 taken for 0.0; finite ones > `NO_KEY`."""
    # A float's bits, as an int32, rise with it while it is positive and fall while it is negative:
    # then the lower 31 are flipped.
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & _GREATEST)


@triton.jit
def _score_of(key):
    """Returns the score of a key."""
    return (key ^ ((key >> 31) & _GREATEST)).to(tl.float32, bitcast=True)
