"""The family `feed`: two towers that find candidates and a ranker that judges them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Int, Int32
from ml_collections import ConfigDict

from launch.wiring import baselines, feed_quality, fusion_run, made_with, training
from launch.wiring.catalogue import Catalogue, check_trained_on, load_prepared, popularity_trie
from launch.wiring.experiment import Experiment, Run, Training, list_length
from launch.wiring.program import Job, UsageError
from launch.wiring.reporting import REPORTS, Searched
from launch.wiring.search import search_progress
from launch.wiring.sid import ItemPrompts, batch_config
from minirec import files
from minirec.decoding.ranking import RankedUsers
from minirec.evaluation import KS, item_ranks, metrics_at
from minirec.files.schema import require_whole
from minirec.models import TrunkConfig, sharding
from minirec.models.feed import FeedModel
from minirec.models.hash_embedding import hash_buckets, ids_of
from minirec.models.ranker import RankerConfig
from minirec.models.two_tower import TwoTowerConfig
from minirec.recommend import ItemTransition, RankedLists
from minirec.recommend.baselines import Recency
from minirec.recommend.baselines.alike import rank_alike
from minirec.recommend.content import Neighbours
from minirec.recommend.feed import FeedSearcher
from minirec.recommend.feed.searcher import ranked_lists
from minirec.recommend.gated import Facts
from minirec.recommend.ranker import Rankings
from minirec.recommend.sources import CONTENT, FEED, ITEM_TRANSITION, RANKER, TWO_TOWER
from minirec.sids import SidTable
from minirec.sids.table import MAX_CODEBOOK_SIZE
from minirec.training import Stage, load_best
from minirec.training.tasks.feed_task import FeedTask, gaps
from pipelines.batches.eval_batches import EvalBatches, eval_batches
from pipelines.batches.train_batches import train_batches
from pipelines.prepared import Prepared

_ALIKE = 100


@dataclasses.dataclass(frozen=True)
class FeedCatalogue(Catalogue):
    """The items as a feed knows them; an item is its own SID, since nothing writes SIDs here.

    Attributes:
        identities: `[N, F, hashes]`, rows of every item's identities.
    """

    identities: Int32[np.ndarray, "N F hashes"]


@dataclasses.dataclass(frozen=True, eq=False)
class FeedRun(Run):
    """A trained ranker and its towers.

    Attributes:
        quality: what an evaluation found beside its rows.
    """

    catalogue: FeedCatalogue
    model: FeedModel
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def about(self) -> Mapping[str, Any]:
        """What an evaluation found beside its rows, for the report."""
        return {"quality": self.quality} if self.quality else {}

    def split_batches(self, split: str, max_users: int) -> EvalBatches:
        """Returns the histories of a split; see `Run`."""
        return split_batches(self.catalogue.prepared, self.config, split, max_users)

    @property
    def prompts(self) -> ItemPrompts:
        """The newest items of a history; see `Run`."""
        return ItemPrompts((self.config.loader.max_items,))

    def tokens_of(self, table: SidTable) -> Int[np.ndarray, "N L"]:
        """Returns the items' numbers; see `Run`."""
        return np.arange(table.num_items)[:, None]

    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the items' numbers as codes; see `Run`."""
        return number_codes(ranked.item, self.catalogue.prepared.num_items)


def training_of(job: Job) -> Training:
    """Returns what trains a feed's model as the job's config says.

    Raises:
        ValueError: a step before this one has not run, or the config asks for what cannot be.
    """
    config = job.config
    _one_device(config)
    for field in ("num_items", "retrieved"):
        require_whole(f"config.search.{field}", config.search[field])
    if not 0 <= config.loss.power <= 2:
        raise UsageError(f"config.loss.power={config.loss.power}: must lie in [0, 2]")
    mesh = training.checked_mesh(config)
    catalogue = load_catalogue(job)
    prepared = catalogue.prepared
    batches = train_batches(prepared, batch_config(config), seed=config.seed)
    settings, stage_options, label_smoothing = training.train_settings(job, batches.num_rows)
    if label_smoothing:
        raise UsageError(
            f"config.train.label_smoothing={label_smoothing}: a feed's losses have "
            "none; set it to 0"
        )
    task = FeedTask(
        _validator(config, catalogue),
        catalogue.identities,
        prepared.train_count,
        action_weights(config, prepared),
        **{name: value for name, value in config.loss.to_dict().items() if name != "actions"},
    )
    return Training(
        make_model=lambda: make_model(config, prepared, nnx.Rngs(config.seed)),
        task=task,
        stages=[Stage("train", lambda: batches, **stage_options)],
        settings=settings,
        record={
            "config": made_with.run_part(config),
            "data": prepared.manifest["config"],
            **_trained_on(catalogue),
        },
        describe_batch=batches.describe,
        mesh=mesh,
    )


def load(job: Job, *, with_appended: bool = False) -> FeedRun:
    """Returns the catalogue and the best model of the job's run.

    Args:
        job: whose run.
        with_appended: items that came later have no part in a feed's records: it changes nothing.

    Raises:
        ValueError: there is no such run, or it was trained with other data or settings.
        FileNotFoundError: the run has saved no model yet.
    """
    del with_appended
    _one_device(job.config)
    path = job.run / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run launch.train first")
    trained = made_with.check_run(job)
    catalogue = load_catalogue(job)
    check_trained_on(job, trained, _trained_on(catalogue))
    model = nnx.eval_shape(
        lambda: make_model(job.config, catalogue.prepared, nnx.Rngs(job.config.seed))
    )
    sharding.place(model, None)
    return FeedRun(job.config, catalogue, load_best(job.run, model), None)


def search(job: Job, split: str) -> Searched:
    """Returns what the feed, its ranker and its towers recommend to the users of a split.

    Raises:
        ValueError: the data and the run do not belong together.
        FileNotFoundError: a step before this one has not run.
    """
    started = time.monotonic()
    run = load(job)
    made_with.check_report(job, job.run / REPORTS[split] / "report.json")
    files.check_writable(job.run / REPORTS[split])
    prepared = run.catalogue.prepared
    like = baselines.neighbours(job, prepared)
    sources = Sources(run, like)
    system = fusion_run.system_by(job, run, sources.facts, lambda most: sources.rank("valid", most))
    max_users = job.config.evaluate.test_users
    num_users = len(prepared.views(split))
    with search_progress(min(num_users, max_users or num_users)) as advance:
        found = sources.rank(split, max_users, advance)
    lists = {name: found.lists[name] for name in (RANKER, TWO_TOWER)}
    ranked = found.ranked
    if system is not None:
        length = list_length(job.config, prepared.num_items)
        feed = system.rank(found.lists, found.histories, sources.facts, length)
        ranked = _as_ranked(found.ranked.row, feed)
    transition = sources.transition
    codes = run.codes(ranked)
    run = dataclasses.replace(run, quality=_quality(job, run, sources, split, found))
    return Searched(split, run, ranked, codes, lists, system, transition, like, started, main=FEED)


class Sources:
    """Where candidates come from, and what they are judged by.

    Attributes:
        transition: the transition count.
        like: which items are like which.
        facts: what a gate knows of the items.
    """

    def __init__(self, run: FeedRun, like: Neighbours, *, length: int | None = None):
        """Counts what is counted.

        Args:
            run: the trained run.
            like: which items are like which.
            length: of the lists; None: as an evaluation's are.
        """
        self._run, config, prepared = run, run.config, run.catalogue.prepared
        self.transition = ItemTransition(*prepared.training_items(), prepared.num_items)
        self.like, self.facts = like, Facts(self.transition, like)
        self._exclude_seen = config.search.exclude_seen
        self._length = length or list_length(config, prepared.num_items)
        searcher = FeedSearcher(run.catalogue.identities, num_retrieved=config.search.retrieved)
        self._judge = searcher.of(run.model)

    def rank(
        self, split: str, max_users: int, on_batch: Callable[[int], None] | None = None
    ) -> Rankings:
        """Returns every source's lists for the users of a split; `max_users` 0 takes all.

        Args:
            split: "valid" or "test".
            max_users: see above.
            on_batch: called after each batch with its number of users.
        """
        run, prepared = self._run, self._run.catalogue.prepared
        filters = {"exclude_seen": self._exclude_seen}
        rows: list[np.ndarray] = []
        ranker: list[RankedLists] = []
        towers: list[RankedLists] = []
        for batch in judged_batches(prepared, run.split_batches(split, max_users), split):
            valid, row = batch["valid"], batch["row"][batch["valid"]]
            given = np.full((len(valid), self._length), -1, np.int32)
            histories = prepared.histories(split, row)
            given[valid] = self.transition.rank_followers(histories, self._length, **filters).item
            excluded = batch["history"] if self._exclude_seen else None
            found = self._judge(batch, given, excluded=excluded)
            next_logit = found.logits[..., -1]
            ranker.append(ranked_lists(found.item[valid], next_logit[valid], self._length))
            towers.append(
                ranked_lists(found.retrieved[valid], found.retrieved_logit[valid], self._length)
            )
            rows.append(row)
            if on_batch is not None:
                on_batch(len(row))
        order = np.argsort(np.concatenate(rows), kind="stable")
        row = np.concatenate(rows)[order]
        histories = prepared.histories(split, row)
        lists = {
            RANKER: _together(ranker, order),
            TWO_TOWER: _together(towers, order),
            ITEM_TRANSITION: self.transition.rank_followers(histories, self._length, **filters),
            CONTENT: rank_alike(histories, self.facts.neighbours, _ALIKE, **filters),
        }
        return Rankings(_as_ranked(row, lists[RANKER]), lists, histories)

    def rank_histories(
        self,
        histories: Sequence[Int[np.ndarray, " h"]],
        allowed: Bool[np.ndarray, " N"],
        event: int,
        size: int,
    ) -> Rankings:
        """Returns every source's lists for some histories, of which nothing else is known.

        Args:
            histories: item ids, oldest first.
            allowed: items that anybody may get.
            event: the event type that all their events count as.
            size: of the batch, at least as many as there are histories: the rest is padding.
        """
        most = self._run.config.loader.max_items
        filters = {"exclude_seen": self._exclude_seen, "allowed": allowed}
        item = np.full((size, most), -1, np.int32)
        lengths = np.zeros(size, np.int32)
        for row, history in enumerate(histories):
            newest = history[-most:]
            item[row, : len(newest)], lengths[row] = newest, len(newest)
        batch = {"item": item, "event": np.full_like(item, event), "gap": np.zeros_like(item),
                 "lengths": lengths, "wait": np.zeros(size, np.int32)}  # fmt: skip
        forbidden = np.flatnonzero(~allowed).astype(np.int32)
        # One compiled program a call, whatever a history holds.
        excluded = np.full((size, most + len(forbidden) + 1), -1, np.int32)
        excluded[:, most : most + len(forbidden)] = forbidden
        if self._exclude_seen:
            excluded[:, :most] = item
        given = np.full((size, self._length), -1, np.int32)
        followers = self.transition.rank_followers(histories, self._length, **filters)
        given[: len(histories)] = followers.item
        found = self._judge(batch, given, excluded=excluded)
        rows = np.arange(len(histories))
        lists = {
            RANKER: ranked_lists(found.item[rows], found.logits[rows, :, -1], self._length),
            TWO_TOWER: ranked_lists(
                found.retrieved[rows], found.retrieved_logit[rows], self._length
            ),
            ITEM_TRANSITION: followers,
            CONTENT: rank_alike(histories, self.facts.neighbours, _ALIKE, **filters),
        }
        return Rankings(_as_ranked(rows, lists[RANKER]), lists, list(histories))


def _quality(
    job: Job, run: FeedRun, sources: Sources, split: str, found: Rankings
) -> dict[str, Any]:
    """Returns what a report says of the ranker's probabilities and of each source."""
    config, prepared = job.config, run.catalogue.prepared
    row = found.ranked.row
    rng = np.random.default_rng(config.seed)
    drawn = np.sort(rng.permutation(row)[: feed_quality.DRAWN])
    views, target = prepared.views(split), prepared.targets(split)
    batches = judged_batches(prepared, run.split_batches(split, 0), split)
    ranker = feed_quality.ranker_quality(
        run.model,
        run.catalogue.identities,
        feed_quality.drawn_batches(batches, drawn),
        actions=tuple(prepared.event_weights),
        target=target,
        event=prepared.columns["event"][views[:, 2]],
        user=views[:, 0],
        most=config.search.num_items,
        seed=config.seed,
    )
    sizes = config.feed.sources
    recency = Recency(sources.transition.popularity)
    order = sources.transition.popularity.order
    named = {
        "two_tower": found.lists[TWO_TOWER].item,
        "transition": found.lists[ITEM_TRANSITION].item,
        "bestsellers": np.broadcast_to(order, (len(row), len(order))),
    }
    lists = {name: item[:, : sizes[name]] for name, item in named.items() if sizes[name]}
    if sizes.recency:
        lists["recency"] = recency.recommend(found.histories, sizes.recency, exclude_seen=False)
        for place, history in enumerate(found.histories):  # Behind them it has the popular.
            lists["recency"][place, len(np.unique(history)) :] = -1
    is_new = np.array(
        [one not in history for one, history in zip(target[row], found.histories, strict=True)]
    )
    return {"ranker": ranker, "sources": feed_quality.source_recall(lists, target[row], is_new)}


def load_catalogue(job: Job) -> FeedCatalogue:
    """Returns the items of a job's records.

    Raises:
        ValueError: they are not prepared, or were prepared as another config says.
    """
    prepared = load_prepared(job)
    codes, sizes = number_codes(np.arange(prepared.num_items)), code_sizes(prepared.num_items)
    table = SidTable(tuple(prepared.raw_item_ids), codes, sizes)
    numbers = np.arange(prepared.num_items)[:, None]
    trie = popularity_trie(numbers, prepared.train_count, prepared.num_items)
    identities = item_identities(job.config, prepared)
    return FeedCatalogue(prepared, table, numbers, trie, tuple(prepared.titles), identities)


def item_identities(config: ConfigDict, prepared: Prepared) -> Int32[np.ndarray, "N F hashes"]:
    """Returns the rows of every item's identities: its own, and the first of each attribute's.

    `config.model.attributes` names attributes as the records spell them, "categoryid" for
    "categoryid=50"; "" stands for an item's first attribute, whatever it says.
    """
    sizes = {"num_buckets": config.model.num_buckets, "num_hashes": config.model.num_hashes}
    rows = [hash_buckets(ids_of(prepared.raw_item_ids), **sizes, salt="item")]
    attributes = prepared.items["attributes"].to_list()
    for name in config.model.attributes:
        start = f"{name}=" if name else ""
        first = [
            next((value for value in values or () if value.startswith(start)), None)
            for values in attributes
        ]
        if not any(first):
            raise UsageError(
                f"config.model.attributes: no item has an attribute {name!r}; the first item's are "
                f"{attributes[0]}"
            )
        rows.append(hash_buckets(ids_of(first), **sizes, salt=name))
    return np.stack(rows, axis=1)


def make_model(config: ConfigDict, prepared: Prepared, rngs: nnx.Rngs) -> FeedModel:
    """Returns the model that `config.model` describes, with weights drawn from `rngs`.

    Raises:
        ValueError: a field of `config.model` is impossible.
    """
    fields = config.model.to_dict()
    tables = {name: fields.pop(name) for name in ("num_buckets", "num_hashes", "hash_width")}
    tables["num_actions"] = len(prepared.event_weights)
    tables["num_identities"] = 1 + len(fields.pop("attributes"))
    seen_features, width = fields.pop("seen_features"), fields.pop("vector_width")
    trunk = TrunkConfig(**fields)
    ranker = RankerConfig(trunk, **tables, seen_features=seen_features)
    return FeedModel(ranker, TwoTowerConfig(trunk, **tables, width=width), rngs=rngs)


def action_weights(config: ConfigDict, prepared: Prepared) -> tuple[float, ...]:
    """Returns the weight of each event type's loss, from `config.loss.actions`.

    Raises:
        UsageError: it is not of the form "view=1,cart=3", or names a type that the log lacks.
    """
    given: dict[str, float] = {}
    for part in filter(None, config.loss.actions.split(",")):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        name = name.strip()
        if not 0 <= weight < np.inf or name in given:
            raise UsageError(
                f"config.loss.actions={config.loss.actions!r}: {part!r} is not TYPE=WEIGHT with a "
                "number from 0 up, once for a type"
            )
        given[name] = weight
    unknown = sorted(given.keys() - prepared.event_weights.keys())
    if unknown:
        raise UsageError(
            f"config.loss.actions: the log has no event type {unknown[0]!r}; it has "
            f"{', '.join(prepared.event_weights)}"
        )
    return tuple(given.get(name, 1.0) for name in prepared.event_weights)


def split_batches(
    prepared: Prepared, config: ConfigDict, split: str, max_users: int
) -> EvalBatches:
    """Returns the histories of a split; `max_users` 0 takes all users."""
    return eval_batches(
        prepared,
        split,
        batch_size=config.evaluate.batch_size,
        max_items=config.loader.max_items,
        max_users=max_users or None,
        seed=config.seed,
    )


def judged_batches(
    prepared: Prepared, batches: EvalBatches, split: str
) -> Iterator[Mapping[str, Any]]:
    """Yields batches with what a ranker reads beside: `gap` and `wait`, in seconds.

    A user's request comes at the time of the event that is asked for.
    """
    stop, time_of = prepared.views(split)[:, 2], prepared.columns["time"]
    for batch in batches:
        held = np.arange(batch["item"].shape[1]) < batch["lengths"][:, None]
        wait = np.zeros(len(held), np.int64)
        at = stop[batch["row"][batch["valid"]]]
        since = np.where(batch["lengths"][batch["valid"]] > 0, time_of[at - 1], time_of[at])
        wait[batch["valid"]] = time_of[at] - since
        more = {"gap": gaps(batch["time"], held), "wait": np.clip(wait, 0, 2**31 - 1)}
        yield {**batch, **more}


def number_codes(item: Int[np.ndarray, "*shape"], num_items: int = 0) -> np.ndarray:
    """Returns items' numbers as codes of SIDs, -1 where there is no item."""
    num_items = num_items or int(item.max(initial=0)) + 1
    if num_items <= MAX_CODEBOOK_SIZE:
        return item[..., None].astype(np.int32)
    pair = np.stack([item // MAX_CODEBOOK_SIZE, item % MAX_CODEBOOK_SIZE], axis=-1)
    return np.where(item[..., None] >= 0, pair, -1).astype(np.int32)


def code_sizes(num_items: int) -> tuple[int, ...]:
    """Returns the codebooks' sizes of `number_codes`."""
    if num_items <= MAX_CODEBOOK_SIZE:
        return (num_items,)
    return (-(-num_items // MAX_CODEBOOK_SIZE), MAX_CODEBOOK_SIZE)


def _validator(
    config: ConfigDict, catalogue: FeedCatalogue
) -> Callable[[FeedModel], dict[str, float]]:
    """Returns a function from a model to its ranker's and its towers' validation metrics."""
    prepared = catalogue.prepared
    if not training.validates(config, prepared):
        return lambda model: {}
    batches = split_batches(prepared, config, "valid", config.evaluate.valid_users)
    searcher = FeedSearcher(catalogue.identities, num_retrieved=config.search.retrieved)
    target = prepared.targets("valid")
    ks = [k for k in KS if k <= config.search.num_items]

    def evaluate(model: FeedModel) -> dict[str, float]:
        judge = searcher.of(model)
        ranked, retrieved, targets = [], [], []
        for batch in judged_batches(prepared, batches, "valid"):
            valid = batch["valid"]
            nobody = np.full((len(valid), 1), -1, np.int32)
            excluded = batch["history"] if config.search.exclude_seen else None
            found = judge(batch, nobody, excluded=excluded)
            ranked.append(found.item[valid][:, : max(ks)])
            retrieved.append(found.retrieved[valid][:, : max(ks)])
            targets.append(target[batch["row"][valid]])
        wanted = np.concatenate(targets)
        towers = metrics_at(item_ranks(np.concatenate(retrieved), wanted), ks)
        ranker = metrics_at(item_ranks(np.concatenate(ranked), wanted), ks)
        return ranker | {f"{TWO_TOWER}_{name}": value for name, value in towers.items()}

    return evaluate


def _trained_on(catalogue: FeedCatalogue) -> dict[str, Any]:
    return {"prepared": catalogue.prepared.manifest["fingerprint"]}


def _one_device(config: ConfigDict) -> None:
    if (config.mesh.data, config.mesh.fsdp) != (1, 1) or jax.process_count() > 1:
        raise UsageError(
            f"config.mesh: data={config.mesh.data}, fsdp={config.mesh.fsdp}: a feed is trained and "
            "served on one device so far; set both to 1"
        )


def _together(pieces: list[RankedLists], order: np.ndarray) -> RankedLists:
    width = max(piece.item.shape[1] for piece in pieces)
    item = [np.pad(piece.item, ((0, 0), (0, width - piece.item.shape[1])), constant_values=-1)
            for piece in pieces]  # fmt: skip
    share = [np.pad(piece.probability, ((0, 0), (0, width - piece.probability.shape[1])))
             for piece in pieces]  # fmt: skip
    return RankedLists(np.concatenate(item)[order], np.concatenate(share)[order])


def _as_ranked(row: np.ndarray, lists: RankedLists) -> RankedUsers:
    with np.errstate(divide="ignore"):
        score = np.log(lists.probability)
    dead = lists.item < 0
    score = np.where(dead, -np.inf, score)
    return RankedUsers(row, lists.item, score, lists.item[..., None], score, dead)


EXPERIMENT = Experiment(training_of, load, search, FEED)
