"""A whole constrained decode, level by level, beside STATIC's: same logits, no model between."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from kernels.beam_step import Beams, beam_step
from kernels.bench import static
from kernels.bench.timing import median_seconds
from kernels.trie import Trie, build_trie


class Decoded(NamedTuple):
    """What a decode ends in, best first.

    Attributes:
        sid: int32 `[B, M, L]`.
        item: int32 `[B, M]`: the first item of each SID; -1 for a dead beam.
        score: float32 `[B, M]`.
    """

    sid: Int32[Array, "B M L"]
    item: Int32[Array, "B M"]
    score: Float32[Array, "B M"]


def run(
    num_sids: int = 1_000_000,
    vocab: int = 2048,
    levels: int = 8,
    batch: int = 2,
    num_beams: int = 70,
    repeats: int = 100,
) -> Iterator[dict[str, Any]]:
    """Yields a row for our decode of a random catalogue and, where named, two for STATIC's.

    The logits of all levels are made beforehand and handed in, so that the model costs nothing in
    any of them. All take turns. A row holds

    - `milliseconds`: the median of a whole decode, from logits to SIDs (ours to items as well);
    - `exact`: whether it returned what the reference does: with all tokens of a beam considered
      STATIC's decode must, with its default of 30 it need not;
    - `static_ratio`: the faster STATIC's time over this one's; None where STATIC is not named;
    - `floor_milliseconds`: a mere maximum of the same logits; `of_floor`: that over the time.

    Args:
        num_sids: rows of the catalogue.
        vocab: codes a level, and width of the logits.
        levels: codes a SID.
        batch: users.
        num_beams: beams a user.
        repeats: most rounds.
    """
    random = np.random.default_rng(0)
    sids = random.integers(0, vocab, (num_sids, levels), np.int32)
    logits = random_logits(vocab, levels, batch, num_beams)
    trie = build_trie(sids)
    decode = jax.jit(functools.partial(decode_replayed, num_beams=num_beams))
    calls: dict[str, Callable[[], Any]] = {"beam_step": functools.partial(decode, logits, trie)}
    if static.is_named():
        index = static.build_index(sids, vocab)
        for name, width in (
            ("static", vocab),
            (f"static_{static.DEFAULT_TOKENS_PER_BEAM}", static.DEFAULT_TOKENS_PER_BEAM),
        ):
            calls[name] = functools.partial(
                static.decode, logits, index, num_beams=num_beams, tokens_per_beam=width
            )
    judge = jax.jit(
        functools.partial(decode_replayed, num_beams=num_beams, implementation="reference")
    )
    best = np.asarray(judge(logits, trie).sid)
    exact = {
        name: np.array_equal(best, call().sid if name == "beam_step" else call())
        for name, call in calls.items()
    }
    calls["read the logits"] = functools.partial(jax.jit(_maxima), logits)
    times = median_seconds(calls, repeats, seconds=2.0)
    floor = times.pop("read the logits")
    theirs = [seconds for name, seconds in times.items() if name != "beam_step"]
    for name, seconds in times.items():
        yield {
            "benchmark": "decode",
            "implementation": name,
            "milliseconds": round(1e3 * seconds, 3),
            "exact": exact[name],
            "static_ratio": round(min(theirs) / seconds, 2) if theirs else None,
            "floor_milliseconds": round(1e3 * floor, 3),
            "of_floor": round(floor / seconds, 3),
            "batch": batch,
            "beams": num_beams,
            "vocab": vocab,
            "levels": levels,
            "num_sids": num_sids,
            "device": jax.devices()[0].device_kind,
        }


def random_logits(
    vocab: int, levels: int, batch: int, num_beams: int, seed: int = 0
) -> tuple[Float32[Array, "B M V"], ...]:
    """Returns random logits of every level: of one beam a user at the root, then of `num_beams`."""
    random = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(
            3 * random.standard_normal((batch, num_beams if level else 1, vocab), np.float32)
        )
        for level in range(levels)
    )


def decode_replayed(
    logits: Sequence[Float[Array, "B M V"]],
    trie: Trie,
    *,
    num_beams: int,
    implementation: str | None = None,
) -> Decoded:
    """Returns the best SIDs and their items of a search over logits made beforehand.

    Args:
        logits: one array a level: `[B, 1, V]`, then `[B, num_beams, V]` of each next one.
        trie: the catalogue.
        num_beams: static.
        implementation: of the beam step.
    """
    batch = logits[0].shape[0]
    beams = Beams.root(batch)
    token = jnp.zeros((batch, 1), jnp.int32)
    sid = jnp.zeros((batch, 1, 0), jnp.int32)
    for level, row in enumerate(logits):
        step = beam_step(
            static.replayed(row, token),
            beams,
            trie,
            level,
            num_beams=num_beams,
            implementation=implementation,
        )
        beams, token = step.beams, step.token
        sid = jnp.take_along_axis(sid, step.parent[..., None], axis=1)
        sid = jnp.concatenate([sid, step.token[..., None]], axis=-1)
    return Decoded(sid=sid, item=trie.items(beams.node, width=1)[..., 0], score=beams.score)


def _maxima(logits: Sequence[Float[Array, "B M V"]]) -> list[Array]:
    return [jnp.max(level) for level in logits]
