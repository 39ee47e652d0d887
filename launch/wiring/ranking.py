"""What a run recommends: by each of its sources, and by all of them together ("the system").

The sources are the search over SIDs ("model"), the model's item table ("item_head", where it has
one) and the transition count. Their lists are fused with weights that the run's validation users
choose; W/runs/NAME/fusion.json keeps the choice for as long as it is of the same run, checkpoint
and settings. Whoever asks first, evaluation or recommendation, the choice is the same.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from launch.wiring import parts
from launch.wiring.program import Job
from minirec import files
from minirec.decoding.ranking import RankedUsers, rank_users
from minirec.evaluation import choose_weights
from minirec.recommend import (
    FusionWeights,
    ItemTransition,
    RankedLists,
    fuse,
    shared_probability,
    with_unknown,
)
from minirec.reports.report import MODEL
from minirec.training import best_step
from minirec.training.processes import is_first
from minirec.training.run_folder import CONFIG_FILE
from pipelines.prepared import Prepared

FUSION = "fusion.json"
ITEM_HEAD, ITEM_TRANSITION = "item_head", "item_transition"
_WEIGHTS, _MADE_OF = "fusion", "made_of"
_KEPT = {_MADE_OF: dict, _WEIGHTS: dict}
_REMEDY = "remove it: the weights are chosen anew"


@dataclasses.dataclass(frozen=True)
class Rankings:
    """What each source recommends to the same users.

    Attributes:
        ranked: the beams.
        lists: by source, the items and how probable each is.
    """

    ranked: RankedUsers
    lists: Mapping[str, RankedLists]


class Ranker:
    """A run's sources, made once and asked for many users.

    Attributes:
        catalogue: the items.
        transition: the transition count.
        length: items of a list, beside the search's, which are as many as it has beams. Longer
            than those: a list has as many distinct SIDs then where items share theirs.
    """

    def __init__(
        self,
        config: ConfigDict,
        catalogue: parts.Catalogue,
        model: parts.Model,
        mesh: Mesh | None = None,
        *,
        at_least: int = 1,
    ):
        """Compiles nothing yet.

        Args:
            config: the experiment.
            catalogue: the items.
            model: the run's best model.
            mesh: devices that share the users.
            at_least: so many beams, where that is more than the config's, and items a list.
        """
        self.catalogue = catalogue
        self._config, self._model = config, model
        self._searcher = parts.make_searcher(config, mesh, at_least=at_least)
        num_beams = max(config.search.num_beams, at_least)
        self.length = max(num_beams, list_length(config, catalogue.prepared))
        self._item_ranker = None
        if parts.reads_items(config) and config.loss.item_weight > 0:
            self._item_ranker = parts.make_searcher(
                config, mesh, at_least=self.length, rank_by="items"
            )
        prepared = catalogue.prepared
        self.transition = ItemTransition(*prepared.training_items(), prepared.num_items)

    def rank(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        histories: Callable[[Int[np.ndarray, " n"]], Sequence[Int[np.ndarray, " H"]]],
        *,
        allowed: Bool[np.ndarray, " N"] | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Rankings:
        """Returns every source's lists for the users of some batches.

        Args:
            batches: prompts; gone through once a source that needs them.
            histories: the whole histories of the users that batches call `row`.
            allowed: items that may be recommended at all; None means every item.
            on_batch: called after each batch of the search with its number of users.
        """
        exclude_seen = self._config.search.exclude_seen
        filters = {"exclude_seen": exclude_seen, "allowed": allowed}
        trie, catalogue = self.catalogue.trie, self.catalogue
        ranked = rank_users(
            self._model, batches, self._searcher, trie, on_batch=on_batch, **filters
        )
        counts = np.zeros(len(catalogue.item_tokens))
        counts[: catalogue.prepared.num_items] = catalogue.prepared.train_count
        lists = {
            MODEL: shared_probability(
                RankedLists(ranked.item, np.exp(ranked.item_score.astype(np.float64))),
                catalogue.item_tokens,
                counts,
            )
        }
        if self._item_ranker is not None:
            head = rank_users(self._model, batches, self._item_ranker, trie, **filters)
            lists[ITEM_HEAD] = RankedLists(head.item, np.exp(head.item_score.astype(np.float64)))
        known = [
            history[history < catalogue.prepared.num_items] for history in histories(ranked.row)
        ]
        # What popularity would fill a list up with is not the count's word.
        lists[ITEM_TRANSITION] = self.transition.rank_followers(
            known, self.length, exclude_seen=exclude_seen, allowed=allowed
        )
        num_known = catalogue.prepared.num_items
        if len(catalogue.item_tokens) > num_known:  # Appended: the search alone knows these.
            for name in lists.keys() - {MODEL}:
                lists[name] = with_unknown(lists[name], lists[MODEL], num_known)
        return Rankings(ranked, lists)

    def rank_split(
        self, split: str, max_users: int, on_batch: Callable[[int], None] | None = None
    ) -> Rankings:
        """Returns every source's lists for the users of a split; `max_users` 0 takes all."""
        batches = parts.split_batches(self.catalogue, self._config, split, max_users)
        prepared = self.catalogue.prepared
        return self.rank(batches, lambda rows: prepared.histories(split, rows), on_batch=on_batch)


def list_length(config: ConfigDict, prepared: Prepared) -> int:
    """Returns how long the lists are that stand beside the beams."""
    return min(4 * config.search.num_beams, prepared.num_items)


def kept_weights(job: Job) -> FusionWeights | None:
    """Returns the weights that the run has chosen for its best model, if it has.

    Of several processes all must call this.

    Raises:
        ValueError: a damaged file.
        FileNotFoundError: the run has saved no model yet.
    """
    path, made_of = job.run / FUSION, _made_of(job)
    kept = files.read_sealed(path, _REMEDY, _KEPT) if path.is_file() else None
    if kept is None or kept.get(_MADE_OF) != made_of:
        return None
    return FusionWeights.from_json(kept.get(_WEIGHTS), where=str(path))


def run_weights(job: Job, ranker: Ranker) -> FusionWeights | None:
    """Returns the run's weights, chosen on its validation users where that is not done yet.

    None where there are no such users to choose on. Of several processes all must call this, and
    the first writes; where it cannot, as on a read-only disk, it says so, and the choice, which is
    always the same, holds for this call.

    Args:
        job: whose run.
        ranker: of the run, with the catalogue that it was trained with.
    """
    if (kept := kept_weights(job)) is not None:
        return kept
    if not len(ranker.catalogue.prepared.views("valid")):
        return None
    rankings = ranker.rank_split("valid", job.config.evaluate.fusion_users)
    target = ranker.catalogue.prepared.targets("valid")[rankings.ranked.row]
    chosen = choose_weights(rankings.lists, target)
    made_of = _made_of(job)  # Reads checkpoints, which processes do together.
    if is_first():
        path = job.run / FUSION
        try:
            files.write_sealed(path, {_MADE_OF: made_of, _WEIGHTS: chosen.to_json()})
        except OSError as error:
            print(
                f"note: {path} cannot be written ({error.strerror or error}): the system's weights "
                "were chosen in memory and will be chosen again each time; run launch.evaluate "
                "where the folder can be written to keep them",
                file=sys.stderr,
            )
    return chosen


def _made_of(job: Job) -> dict[str, Any]:
    """Returns what the choice depends on, but for what a run keeps for itself."""
    config = job.config
    return {
        "run": files.sha256(job.run / CONFIG_FILE),
        "checkpoint": best_step(job.run),
        "search": config.search.to_dict(),
        "fusion_users": config.evaluate.fusion_users,
        "seed": config.seed,
    }


def recommend(
    job: Job,
    catalogue: parts.Catalogue,
    model: parts.Model,
    prompts: Sequence[Mapping[str, np.ndarray]],
    histories: Sequence[Int[np.ndarray, " H"]],
    *,
    top: int,
    allowed: Bool[np.ndarray, " N"],
    mesh: Mesh | None = None,
) -> tuple[Int[np.ndarray, "n K"], Float[np.ndarray, "n K"]]:
    """Returns the system's items for some histories, and the logarithms of their probabilities.

    Where no validation users could choose its weights, the search's items take their place.

    Args:
        job: whose run recommends.
        catalogue: the items, perhaps with some that came after training.
        model: the run's best model.
        prompts: the histories as batches.
        histories: the histories that the batches call `row`.
        top: items a user.
        allowed: items that may be recommended at all.
        mesh: devices that share the users.
    """
    weights = kept_weights(job)
    if weights is None:  # Items that came later have no part in the choice.
        weights = run_weights(job, Ranker(job.config, *parts.load_run(job, mesh=mesh), mesh))
    ranker = Ranker(job.config, catalogue, model, mesh, at_least=top)
    rankings = ranker.rank(prompts, lambda rows: [histories[row] for row in rows], allowed=allowed)
    if weights is None:
        return rankings.ranked.item, rankings.ranked.item_score
    lists = fused(rankings, weights, top)
    with np.errstate(divide="ignore"):
        return lists.item, np.log(lists.probability)


def fused(rankings: Rankings, weights: FusionWeights, length: int) -> RankedLists:
    """Returns the system's lists."""
    return fuse(rankings.lists, weights.weights, length)


def record(weights: FusionWeights | None) -> dict[str, Any]:
    """Returns what a report says of the fusion."""
    return {} if weights is None else {"fusion": weights.to_json()}
