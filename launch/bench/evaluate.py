"""How long a generated split takes to evaluate, beside its floor and a search without a cache.

The path is that of `launch.evaluate`: `eval_batches`, `BeamSearcher`, `rank_users` and
`evaluate_lists` with its bootstrap. Users and items are as many and as long as Amazon Beauty's; the
model is that of `configs/blocks.py`, its weights drawn, not trained.

The floor is the time of the matrix products that this search cannot leave out, each at the best
rate that the machine showed in the same run, by XLA or by NumPy's BLAS, for a product of that width
and depth. Only what somebody asked for is counted:

- a prompt's real tokens, never its padding. `<bos>` is the same for all users and counts nothing.
  In the last layer a prompt's tokens need keys and values alone, but for the last token;
- the beams' tokens after each level but the last, at most as many as the trie has nodes there;
- queries, keys and values of the first layer count nothing: they could be looked up by token;
- attention over real keys only, `n (n + 1) / 2` pairs of a prompt, at the best rate of all
  products, though such small ones run slower;
- the head over the whole vocabulary, as the scores are normalised over it: once at the root, then
  for each beam.

Softmax, norms, activations, rotary positions, the beam step, filters, ranking and metrics count
nothing. Bytes do not bind: the weights are read once a batch, the keys and values of a prompt are
some 100 kB and stay in a cache, and a head may be fused with the sum that its logits are made for.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from configs import blocks
from kernels.trie import build_trie
from launch.bench.evaluate_floor import Products, floor_seconds, matrix_products, measure_rates
from launch.bench.evaluate_naive import Uncached
from launch.wiring import sid
from launch.wiring.search import make_searcher
from minirec.decoding import BeamSearcher, Buckets
from minirec.decoding.ranking import RankedUsers, rank_users
from minirec.evaluation import KS, evaluate_lists
from minirec.models import SidDecoder, SidReader
from minirec.sids import SidTable, SidVocab
from pipelines.batches.eval_batches import EvalBatches, eval_batches
from pipelines.batches.row_source import Batch
from pipelines.synthetic import SyntheticLog, columns_of

NAIVE = "recomputed_prefixes"
_MAX_EVENTS = 51  # the last is the target
_SCORE_ERROR = {"float32": 1e-3, "bfloat16": 1.0}  # of sums of L log-probabilities


def run(
    num_users: int = 22_000,
    num_items: int = 12_000,
    num_levels: int = 4,
    codebook_size: int = 256,
    naive_users: int = 64,
    change: Callable[[Any], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for the search without a cache and one for ours.

    A row holds

    - `seconds`: from the first batch to the metrics, programs compiled before; `search_seconds` of
      it are the search. `compile_seconds`: the first batch of each of the `programs` shapes;
    - `floor_seconds`, as the module says, and `of_floor`: that over `seconds`; `gigaflop` and
      `gigaflop_per_second` are the operations counted and the rate that the floor comes to;
    - `cpu_seconds`: of all threads, in `seconds`; on a busy machine the better measure;
    - `peak_gb`: the most memory that the process held up to the metrics;
    - `ratio`: the other search's seconds over ours. It reads each beam's whole prefix again at
      every level, in prompts all padded to the longest, with the beam step's reference, for
      `measured_users` of the same users; its time is scaled to all of them;
    - `same_lists`: for how many of these users its list of items equals ours (`==`). Where two
      scores are nearly the same, float32 sums in another order may swap them.

    Args:
        num_users: users of the split.
        num_items: items of the catalogue.
        num_levels: `L`.
        codebook_size: codes a level.
        naive_users: users that the search without a cache is measured on, at most.
        change: changes the config before anything is made of it.

    Raises:
        RuntimeError: the two searches disagree about a score.
    """
    config = blocks.sid("bench")
    config.model.positions = "tokens"  # the one whose search is work
    config.search.normalize = "vocab"
    if change is not None:
        change(config)
    table = random_table(num_items, num_levels, codebook_size)
    vocab = SidVocab.from_table(table)
    item_tokens = vocab.encode(table.codes)
    trie = build_trie(item_tokens, codebook_sizes=[vocab.size] * num_levels)
    model = sid.make_model(config, vocab.size, (len(item_tokens), num_levels))
    assert isinstance(model, SidDecoder)
    if model.head is not None:
        model.head[...] = 20 * model.head[...]  # as after training: scores lie apart
    reader = SidReader(model, item_tokens)
    log = beauty_like_log(num_users, num_items)
    max_items = config.loader.max_items
    batch_size = config.evaluate.batch_size

    def batches(size: int, max_users: int | None = None) -> EvalBatches:
        return eval_batches(log, "test", batch_size=size, max_items=max_items, max_users=max_users)

    def search(model: nnx.Module, users: Iterable[Batch], searcher: BeamSearcher) -> RankedUsers:
        return rank_users(model, users, searcher, trie, exclude_seen=config.search.exclude_seen)

    users, searcher = batches(batch_size), make_searcher(config)
    views = log.views("test")
    shown = np.minimum(views[:, 2] - views[:, 1], max_items)
    nodes = [len(np.unique(table.codes[:, :depth], axis=0)) for depth in range(1, num_levels)]
    beams = [1, *(min(searcher.num_beams, count) for count in nodes)]
    products = matrix_products(model.config.trunk, vocab.size, shown * num_levels + 1, beams)
    best: Products = {}
    dtype = config.model.dtype

    begin = time.perf_counter()
    first_of_shape = {(b["item"].shape, b["history"].shape): b for b in users}
    search(reader, list(first_of_shape.values()), searcher)
    compile_seconds = time.perf_counter() - begin
    measure_rates(products, best, dtype)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    ranked = search(reader, users, searcher)
    search_seconds = time.perf_counter() - begin
    codes = np.full(ranked.sid.shape, -1, np.int32)
    codes[~ranked.dead] = vocab.decode(ranked.sid[~ranked.dead])
    target = log.columns["item"][views[ranked.row, 2]]
    evaluate_lists(
        ranked.item,
        target,
        table.codes,
        ranked_sids=codes,
        ks=[k for k in KS if k <= config.search.num_beams],
        seed=config.seed,
        num_resamples=config.evaluate.resamples,
    )
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    measure_rates(products, best, dtype)
    floor = floor_seconds(products, best)

    few = batches(min(16, naive_users), naive_users)
    width = Buckets(sizes=(max_items,))
    plain = BeamSearcher(
        num_beams=searcher.num_beams,
        normalize=searcher.normalize,
        implementation="reference",
        length_buckets=width,
        excluded_buckets=Buckets(sizes=(64,)),
    )
    uncached = SidReader(Uncached(model), item_tokens)
    search(uncached, [next(iter(few))], plain)
    begin = time.perf_counter()
    naive = search(uncached, few, plain)
    naive_seconds = (time.perf_counter() - begin) / few.num_views * num_users
    shared = {
        "users": num_users,
        "beams": searcher.num_beams,
        "items": num_items,
        "levels": num_levels,
        "vocab": vocab.size,
        "layers": config.model.num_layers,
        "width": config.model.width,
        "dtype": dtype,
        "device": jax.devices()[0].device_kind,
    }
    yield {
        "benchmark": "evaluate",
        "implementation": NAIVE,
        "seconds": round(naive_seconds, 1),
        "users_per_second": round(num_users / naive_seconds, 1),
        "measured_users": few.num_views,
        **shared,
    }
    operations = sum(products.values())
    yield {
        "benchmark": "evaluate",
        "implementation": "minirec",
        "seconds": round(seconds, 2),
        "users_per_second": round(num_users / seconds, 1),
        "floor_seconds": round(floor, 2),
        "of_floor": round(floor / seconds, 3),
        "ratio": round(naive_seconds / seconds, 2),
        "same_lists": _same_lists(naive, ranked, _SCORE_ERROR[dtype]),
        "search_seconds": round(search_seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "compile_seconds": round(compile_seconds, 2),
        "programs": searcher.num_traces,
        "batch_size": batch_size,
        "gigaflop": round(operations / 1e9, 1),
        "gigaflop_per_second": round(operations / floor / 1e9, 1),
        "peak_gb": round(peak, 2),
        **shared,
    }


def _same_lists(naive: RankedUsers, ranked: RankedUsers, error: float) -> int:
    """Returns for how many users the two searches list the same items."""
    item, score = ranked.item[naive.row], ranked.item_score[naive.row]
    if not np.allclose(naive.item_score, score, rtol=0, atol=error):
        raise RuntimeError("the search without a cache has other scores: the ratio means nothing")
    return int((naive.item == item).all(axis=1).sum())


def beauty_like_log(num_users: int, num_items: int, seed: int = 0) -> SyntheticLog:
    """Returns a log whose users have as many events as Amazon Beauty's: at least 5, a long tail.

    A view of the test split has 7.5 items of history on average, half of the users 5 or fewer, one
    in ten 14 and more, none more than 50. Popularity has a long tail.
    """
    random = np.random.default_rng(seed)
    more = np.floor(random.lognormal(0.65, 1.25, num_users)).astype(np.int64)
    length = np.minimum(5 + more, _MAX_EVENTS)
    offsets = np.concatenate([[0], np.cumsum(length)])
    popularity = np.arange(1, num_items + 1) ** -0.6
    items = random.choice(num_items, offsets[-1], p=popularity / popularity.sum())
    users, start, end = np.arange(num_users), offsets[:-1], offsets[1:]
    test = np.stack([users, start, end - 1], axis=1)
    sequences = np.stack([users, start, end - 2], axis=1)
    columns = columns_of(items.astype(np.int32))
    return SyntheticLog(columns, offsets, sequences, num_items, {"test": test})


def random_table(num_items: int, num_levels: int, codebook_size: int, seed: int = 1) -> SidTable:
    """Returns SIDs of independent codes, some codes of a level far more frequent than others."""
    random = np.random.default_rng(seed)
    share = np.arange(1, codebook_size + 1) ** -0.5
    codes = random.choice(codebook_size, (num_items, num_levels), p=share / share.sum())
    raw_item_ids = tuple(f"i{item}" for item in range(num_items))
    return SidTable(raw_item_ids, codes.astype(np.int32), (codebook_size,) * num_levels)
