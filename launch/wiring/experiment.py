"""What the verbs ask of a model family.

`config.family` names a module here (or a file), and its `EXPERIMENT` answers: how a run is trained,
and how a trained one is loaded. `launch.train`, `evaluate`, `recommend` and `sweep` are written
once, against this file alone.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from launch.wiring.catalogue import Catalogue
from launch.wiring.program import Job, UsageError, load_module
from launch.wiring.search import shared_searcher
from minirec.decoding import BeamSearcher, ItemRanker
from minirec.decoding.ranking import RankedUsers
from minirec.recommend import ItemTransition
from minirec.recommend.content import Neighbours
from minirec.recommend.ranker import Ranker
from minirec.recommend.sources import MODEL
from minirec.reports.text_report import TextReport
from minirec.serving.recommender import Prompts
from minirec.sids import SidTable
from minirec.training import Monitor, Stage, Task, TrainConfig


def _nothing(*_: Any) -> None:
    """Does nothing."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What `launch.train` hands to the training loop.

    Attributes:
        make_model: makes the model before its first step.
        task: what it learns and what selects the best.
        stages: what it is trained on, in a row.
        settings: seed, periods and folder of the run.
        record: what makes the run this one beside its settings and stages, as JSON.
        describe_batch: says where in the data a batch comes from, for errors.
        mesh: the devices that share the work.
        keep: keeps files beside the run, once its folder is known to be this run's.
        finish: keeps what a run that came to its end leaves; it is given what loads the best model.
        monitors: what is measured beside the task.
        on_stage_end: keeps what a stage leaves; it is given the stage and what loads the best
            model until then.
    """

    make_model: Callable[[], nnx.Module]
    task: Task
    stages: Sequence[Stage]
    settings: TrainConfig
    record: Mapping[str, Any]
    describe_batch: Callable[[Any], str]
    mesh: Mesh | None
    keep: Callable[[], None] = _nothing
    finish: Callable[[Callable[[], nnx.Module]], None] = _nothing
    monitors: Sequence[Monitor] = ()
    on_stage_end: Callable[[Stage, Callable[[], nnx.Module]], None] = _nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Run(abc.ABC):
    """A model that recommends from a catalogue: what evaluation, recommendation and servers use.

    Attributes:
        config: the experiment.
        catalogue: the items.
        model: the run's best model.
        mesh: the devices that share the users.
    """

    config: ConfigDict
    catalogue: Catalogue
    model: nnx.Module
    mesh: Mesh | None

    @abc.abstractmethod
    def split_batches(self, split: str, max_users: int) -> Any:
        """Returns the prompts of a split, with their `num_views`; `max_users` 0 takes all users."""

    @property
    @abc.abstractmethod
    def prompts(self) -> Prompts:
        """What turns a history into what the model reads."""

    @abc.abstractmethod
    def tokens_of(self, table: SidTable) -> Int[np.ndarray, "N L"]:
        """Returns the tokens that a search takes for each item of a table.

        Raises:
            ValueError: the model has no token for a code.
        """

    def with_items(
        self,
        item_tokens: Int[np.ndarray, "items L"],
        raw_item_ids: Sequence[str],
        titles: Sequence[str],
    ) -> nnx.Module:
        """Returns the model as it reads other items: the records', and perhaps others behind them.

        Args:
            item_tokens: the tokens of each item's SID, with room for more items at the end; all
                that the model holds of items has as much room.
            raw_item_ids: what the log calls each.
            titles: what to show people of each.
        """
        del item_tokens, raw_item_ids, titles  # A model of text reads its tokenizer's.
        return self.model

    @abc.abstractmethod
    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the codes of the beams, -1 where a beam is dead."""

    def item_ranker(self, num_items: int) -> ItemRanker | None:
        """Returns what ranks by the model's item table; None where it has none."""
        del num_items
        return None

    @property
    def is_trained(self) -> bool:
        """Whether there is a run behind the model, which keeps its choices."""
        return True

    @property
    def about(self) -> Mapping[str, Any]:
        """More entries for `report.json`."""
        return {}

    @property
    def first_losses(self) -> Mapping[str, Sequence[float]]:
        """Losses of the first steps from several starts, for the report; see `Report`."""
        return {}

    def ranker(self, *, at_least: int = 1, neighbours: Neighbours | None = None) -> Ranker:
        """Returns the model and the counts beside it, to be asked for many users.

        Args:
            at_least: so many beams, where that is more than the config's, and items a list.
            neighbours: which items are like which in text, where that is to count.
        """
        config, prepared = self.config, self.catalogue.prepared
        num_beams = max(config.search.num_beams, at_least)
        length = max(num_beams, list_length(config, prepared.num_items))
        return Ranker(
            model=self.model,
            trie=self.catalogue.trie,
            searcher=self.searcher(at_least=at_least),
            item_tokens=self.catalogue.item_tokens,
            train_count=prepared.train_count,
            transition=ItemTransition(*prepared.training_items(), prepared.num_items),
            length=length,
            exclude_seen=config.search.exclude_seen,
            item_ranker=self.item_ranker(length),
            neighbours=neighbours,
        )

    def searcher(self, *, at_least: int = 1) -> BeamSearcher:
        """Returns the search that the config describes, with so many beams at least."""
        return shared_searcher(self.config, self.mesh, at_least=at_least)


def list_length(config: ConfigDict, num_items: int) -> int:
    """Returns how long the lists are that stand beside the beams."""
    return min(4 * list_size(config), num_items)


def list_size(config: ConfigDict) -> int:
    """Returns how many items are looked at of a recommendation: as many as there are beams."""
    return config.search.num_items if "num_items" in config.search else config.search.num_beams


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model family.

    Attributes:
        training: what trains a job's run.
        load: a job's run, a `Run` of a family that recommends; with `with_appended=True` items that
            were given SIDs after the run was trained are part of its catalogue (`launch.make_sids
            --append`).
        search: what a job's run recommends to the users of a split, a
            `launch.wiring.reporting.Searched`; None: what `launch.evaluate` searches for by SIDs.
        main: what its runs are about, as reports call it.
        report: evaluates a job's run on a split and writes its report, for a family that recommends
            nothing; None: its runs recommend, and what `search` finds is reported.
    """

    training: Callable[[Job], Training]
    load: Callable[..., Any]
    search: Callable[[Job, str], Any] | None = None
    main: str = MODEL
    report: Callable[[Job, str], TextReport] | None = None


def recommending(job: Job, verb: str) -> Experiment:
    """Returns the family of a job whose runs recommend.

    Args:
        job: whose run.
        verb: the program that needs it.

    Raises:
        UsageError: the family is another one.
    """
    experiment = experiment_of(job.config)
    if experiment.report is not None:
        raise UsageError(
            f"{verb}: config {job.config.name!r} is of the family {job.config.family!r}, whose "
            "runs write text and recommend nothing; launch.evaluate measures them, launch.chat "
            "asks them"
        )
    return experiment


def families() -> tuple[str, ...]:
    """Returns the names that `config.family` may have: the modules here with an `EXPERIMENT`."""
    folder = Path(__file__).parent
    return tuple(
        sorted(
            path.stem
            for path in folder.glob("*.py")
            if "\nEXPERIMENT = " in path.read_text(encoding="utf-8")
        )
    )


def experiment_of(config: ConfigDict) -> Experiment:
    """Returns the family that a config names: one of `families()`, or a .py file of one's own.

    Raises:
        UsageError: there is none of that name.
    """
    name = str(config.get("family", ""))
    if name in families():
        return importlib.import_module(f"launch.wiring.{name}").EXPERIMENT
    path = Path(name).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"config.family={name!r}: must be one of {', '.join(families())}, or the path of a "
            ".py file with an EXPERIMENT"
        )
    found = getattr(_own_family(path), "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        raise UsageError(f"config.family={name!r}: the file has no EXPERIMENT = Experiment(…)")
    return found


@functools.cache
def _own_family(path: Path) -> ModuleType:
    # Once a process: another copy of a model's class would be another program to compile.
    return load_module(path)
