"""A run as `minirec.serving` answers with it: its model, its system, its catalogue's first version.

`launch.recommend` and `launch.serve` both ask here, and so get the same answers to the bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int32

from kernels.trie import TrieCapacities
from launch.wiring import baselines, fusion_run
from launch.wiring.catalogue import SIDS, popularity_trie
from launch.wiring.experiment import Run, list_length, recommending
from launch.wiring.program import Job, UsageError
from minirec import files
from minirec.serving.catalogue import Catalogue, Listing
from minirec.serving.programs import Programs, Weights
from minirec.serving.reading_cache import ReadingCache
from minirec.serving.recommender import Recommender, Served
from minirec.serving.rules import Columns
from minirec.sids import SidTable
from minirec.training import best_step

ROOM = 0.25
"""Items that a new catalogue may have more than the first, in shares of it."""

FOLDER = "serving"
"""Where a run keeps the versions of its catalogue."""

_SEED = 0  # of the SIDs that stand for items to come


@dataclasses.dataclass(frozen=True, eq=False)
class Server:
    """A run that answers.

    Attributes:
        run: the run.
        recommender: answers tiles.
        served: the run's first version.
        listing: its items.
        capacities: sizes that every version's trie is padded to.
        columns: what is known of the records' items.
    """

    run: Run
    recommender: Recommender
    served: Served
    listing: Listing
    capacities: TrieCapacities
    columns: Columns

    def catalogue(self, number: int, listing: Listing) -> Catalogue:
        """Returns a version of the catalogue.

        Args:
            number: of the version.
            listing: its items.

        Raises:
            ValueError: the model has no token for a code, no item is listed, or the version is too
                large for programs that are compiled already.
        """
        return _catalogue(self.run, number, listing, self.columns, self.capacities)

    def version(self, catalogue: Catalogue, served: Served, run: Run | None = None) -> Served:
        """Returns what answers with another version of the catalogue.

        Args:
            catalogue: that version.
            served: what answers with the one before.
            run: whose model `served` has; None: the server's own.
        """
        return _with_catalogue(run or self.run, served, catalogue)


def load(
    job: Job,
    *,
    at_least: int = 1,
    cache_bytes: int = 0,
    like: bool = False,
    with_appended: bool = True,
) -> Server:
    """Returns the job's run as it answers, with items that were appended after training.

    Args:
        job: whose run.
        at_least: beams of a search, where that is more than the config's.
        cache_bytes: of readings that are kept.
        like: whether to look up which items are like which where the system has no use for it.
        with_appended: whether items that were appended after training are part of it.

    Raises:
        ValueError: the data, the SIDs and the run do not belong together, or are damaged.
        FileNotFoundError: a step before this one has not run.
    """
    experiment = recommending(job, "launch.recommend and launch.serve")
    if experiment.search is not None:
        raise UsageError(
            f"config.family={job.config.family!r}: launch.serve answers with families that write "
            "SIDs; launch.feed serves a feed"
        )
    run = experiment.load(job, with_appended=with_appended)
    if run.mesh is not None:
        raise UsageError(
            f"config.mesh has {run.mesh.size} devices; answers are made on one: set config.mesh."
            "data and config.mesh.fsdp to 1, and start a server a device"
        )
    system, neighbours = fusion_run.chosen_system(job, run, lambda: experiment.load(job))
    if like and neighbours is None:
        neighbours = baselines.neighbours(job, run.catalogue.prepared)
    config = run.config
    num_beams = max(config.search.num_beams, at_least)
    length = max(num_beams, list_length(config, run.catalogue.prepared.num_items))
    programs = Programs(
        tile=config.evaluate.batch_size,
        num_beams=num_beams,
        normalize=config.search.normalize,
        num_items=0 if run.item_ranker(length) is None else length,
    )
    recommender = Recommender(programs, run.prompts, ReadingCache(cache_bytes))
    table = run.catalogue.table
    listing = Listing(
        table, run.catalogue.titles, np.ones(table.num_items, bool), run.catalogue.later
    )
    capacities = _capacities(run, listing.table)
    prepared = run.catalogue.prepared
    columns = Columns(
        prepared.items["attributes"].to_list(), prepared.carried.to_dict(as_series=False)
    )
    catalogue = _catalogue(run, 1, listing, columns, capacities)
    ranker = run.ranker(at_least=at_least, neighbours=neighbours)
    step = best_step(job.run) if run.is_trained else 0
    first = Served(f"{job.run.name}@{step}", Weights.of(run.model), ranker, system, catalogue)
    return Server(
        run, recommender, _with_catalogue(run, first, catalogue), listing, capacities, columns
    )


def _with_catalogue(run: Run, served: Served, catalogue: Catalogue) -> Served:
    tokens = catalogue.item_tokens
    ranker = dataclasses.replace(
        served.ranker, trie=catalogue.trie, item_tokens=tokens[: catalogue.num_items]
    )
    weights = Weights.of(run.with_items(tokens, catalogue.raw_item_ids, catalogue.titles))
    return dataclasses.replace(served, weights=weights, ranker=ranker, catalogue=catalogue)


def _catalogue(
    run: Run, number: int, listing: Listing, columns: Columns, capacities: TrieCapacities
) -> Catalogue:
    table, tokens = listing.table, run.tokens_of(listing.table)
    if len(tokens) > capacities.items:
        raise ValueError(
            f"{len(tokens)} items; the server has room for {capacities.items}: restart it"
        )
    trie = popularity_trie(
        tokens,
        _train_count(run, len(tokens)),
        _vocab_size(run),
        listed=listing.listed,
        capacities=capacities,
    )
    room = ((0, capacities.items - len(tokens)), (0, 0))
    return Catalogue(
        number,
        tuple(table.raw_item_ids),
        listing.titles,
        table.codes,
        np.pad(tokens, room).astype(np.int32),
        listing.listed,
        trie,
        columns.and_later(
            [known.attributes for known in listing.later],
            [known.columns for known in listing.later],
        )
        if listing.later
        else columns,
    )


def _capacities(run: Run, table: SidTable) -> TrieCapacities:
    """Returns the sizes of a trie with room for items to come, whose SIDs are drawn by lot."""
    tokens = run.tokens_of(table)
    more = int(np.ceil(ROOM * len(tokens)))
    rng = np.random.default_rng(_SEED)
    drawn = np.stack([rng.choice(level, more) for level in tokens.T], axis=1).astype(tokens.dtype)
    both = np.concatenate([tokens, drawn])
    return popularity_trie(both, _train_count(run, len(both)), _vocab_size(run)).capacities


def _train_count(run: Run, num_items: int) -> Int32[np.ndarray, " N"]:
    known = run.catalogue.prepared.train_count
    return np.pad(known, (0, num_items - len(known))).astype(np.int32)


def _vocab_size(run: Run) -> int:
    sizes = run.catalogue.trie.capacities.codebook_sizes
    if sizes is None:
        raise ValueError("the run's trie does not say how many tokens its model has")
    return sizes[0]


@dataclasses.dataclass(frozen=True, eq=False)
class RunBuilder:
    """Makes what answers of new catalogues and models; see `minirec.serving.versions.Builder`.

    Attributes:
        job: whose run.
        server: what it began with.
    """

    job: Job
    server: Server
    _runs: dict[str, Run] = dataclasses.field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Names the records and the SIDs that the run was trained with."""
        prepared = self.server.run.catalogue.prepared.manifest["fingerprint"]
        return f"{prepared}/{self.sids_sha256}"

    @functools.cached_property
    def sids_sha256(self) -> str:
        """Of the run's sids.json."""
        return files.sha256(self.job.run / SIDS)

    @property
    def num_known(self) -> int:
        """Items of the records."""
        return self.server.run.catalogue.prepared.num_items

    def with_listing(self, served: Served, number: int, listing: Listing) -> Served:
        """Returns the same model with another version of the catalogue; see `Builder`."""
        run = self._runs.get(served.model_version)
        return self.server.version(self.server.catalogue(number, listing), served, run)

    def with_model(self, served: Served, run: str | None, count: int | None = None) -> Served:
        """Returns another run's model with the catalogue that is served; see `Builder`."""
        name = run or served.model_version.partition("@")[0]
        if not name or Path(name).name != name or name in (".", ".."):
            raise ValueError(f"run: {name!r}; must be a plain name, a folder in WORKDIR/runs")
        job = dataclasses.replace(self.job, run=self.job.run.with_name(name))
        if not job.run.is_dir():
            raise ValueError(f"run: {job.run} is not there")
        other = load(job, like=True, with_appended=False)
        mine, its = self.server.run.catalogue, other.run.catalogue
        known = its.prepared.num_items
        same_items = (
            self.num_known == known
            and list(mine.table.raw_item_ids[:known]) == list(its.table.raw_item_ids)
            and np.array_equal(mine.item_tokens[:known], its.item_tokens)
        )
        if not same_items:
            raise ValueError(f"run: {name!r} has other items or SIDs; start a server for it")
        new = other.version(served.catalogue, other.served)
        if not _same_shape(served.weights, new.weights):
            raise ValueError(f"run: {name!r} has a model of another shape; start a server for it")
        # A run that is trained anew may end at the same step: its readings are others all the same.
        count = len(self._runs) + 1 if count is None else count
        version = f"{new.model_version}+{count}"
        self._runs[version] = other.run
        return dataclasses.replace(new, model_version=version)


def _same_shape(old: Weights, new: Weights) -> bool:
    """Returns whether programs that were compiled for a model run another."""
    shapes = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(weights.state)]
        for weights in (old, new)
    ]
    return old.graph == new.graph and shapes[0] == shapes[1]


def user_histories(run: Run) -> Callable[[str], Sequence[str] | None]:
    """Returns what looks a user of the log up: raw ids of all that the user took, oldest first."""
    prepared = run.catalogue.prepared

    @functools.cache
    def number_of() -> dict[str, int]:
        return {raw: user for user, raw in enumerate(prepared.users["raw_user_id"].to_list())}

    def history(raw_user_id: str) -> Sequence[str] | None:
        user = number_of().get(raw_user_id)
        if user is None:
            return None
        start, stop = prepared.offsets[user : user + 2]
        items, raw = prepared.columns["item"][start:stop], prepared.raw_item_ids
        return [raw[item] for item in items.tolist()]

    return history
