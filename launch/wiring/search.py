"""The search that a config describes, and the devices that share it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

from jax.sharding import Mesh
from ml_collections import ConfigDict

from minirec.decoding import BeamSearcher, Buckets, ItemRanker
from minirec.models import sharding
from minirec.training.processes import is_first
from minirec.training.progress import ProgressBar

# The prompts come in few widths already (`pipelines.batches.eval_batches`).
_LENGTH_BUCKETS = Buckets(steps=64)


def make_mesh(config: ConfigDict) -> Mesh | None:
    """Returns the mesh that `config.mesh` describes; None for one device.

    Raises:
        ValueError: it does not fit the devices.
    """
    try:
        return sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    except ValueError as error:
        raise ValueError(f"config.mesh: {error}") from error


def make_searcher(
    config: ConfigDict, mesh: Mesh | None = None, *, at_least: int = 1
) -> BeamSearcher:
    """Returns the constrained search that `config.search` describes.

    Args:
        config: the experiment.
        mesh: devices that share the users.
        at_least: as many beams even if the config has fewer.
    """
    num_beams = max(config.search.num_beams, at_least)
    return _searcher.__wrapped__(num_beams, config.search.normalize, mesh)


def shared_searcher(
    config: ConfigDict, mesh: Mesh | None = None, *, at_least: int = 1
) -> BeamSearcher:
    """Returns `make_searcher`'s, the same one for the same settings.

    A program is compiled once a process and shape then, whoever searches: training's validation,
    the report, recommending.
    """
    num_beams = max(config.search.num_beams, at_least)
    return _searcher(num_beams, config.search.normalize, mesh)


@functools.cache
def _searcher(num_beams: int, normalize: str, mesh: Mesh | None) -> BeamSearcher:
    return BeamSearcher(
        num_beams=num_beams, normalize=normalize, length_buckets=_LENGTH_BUCKETS, mesh=mesh
    )


@functools.cache
def shared_item_ranker(num_items: int, mesh: Mesh | None = None) -> ItemRanker:
    """Returns what ranks by an item table, the same one for the same arguments."""
    return ItemRanker(num_items=num_items, length_buckets=_LENGTH_BUCKETS, mesh=mesh)


@contextlib.contextmanager
def search_progress(num_users: int) -> Iterator[Callable[[int], None]]:
    """Yields what to call with the number of users of each batch that was searched for."""
    searched, started = 0, time.monotonic()
    with ProgressBar(num_users, enabled=is_first()) as bar:

        def advance(users: int) -> None:
            nonlocal searched
            searched += users
            rate = searched / (time.monotonic() - started)
            bar.update("search", searched, f"{rate:,.0f} users/s")

        yield advance
