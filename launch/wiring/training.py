"""What every family's training takes from a config: lengths, mesh, validation."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from launch.wiring.catalogue import Catalogue
from launch.wiring.experiment import list_size
from launch.wiring.program import Job
from launch.wiring.search import make_mesh, shared_searcher
from minirec.decoding.ranking import rank_users
from minirec.evaluation import KS, item_ranks, metrics_at, sid_ranks
from minirec.training import OptimizerConfig, TrainConfig
from minirec.training.processes import is_first
from pipelines.prepared import Prepared

SELECT_AT = 10
SELECT_METRIC = f"ndcg@{SELECT_AT}"


def checked_mesh(config: ConfigDict) -> Mesh | None:
    """Returns the mesh to train on, after a look at what must fit together.

    Raises:
        ValueError: too few beams to select by, or parts of a batch that do not come out even.
    """
    if list_size(config) < SELECT_AT:
        field = "num_items" if "num_items" in config.search else "num_beams"
        raise ValueError(
            f"config.search.{field}={list_size(config)}: must be at least {SELECT_AT}, "
            f"since {SELECT_METRIC} on the validation users selects"
        )
    return fitting_mesh(config)


def fitting_mesh(config: ConfigDict) -> Mesh | None:
    """Returns the mesh to train on, over which the rows of a batch must come out even.

    Raises:
        ValueError: they do not.
    """
    if config.loader.batch_size % config.train.accumulate:
        raise ValueError(
            f"config.train.accumulate={config.train.accumulate}: must divide "
            f"config.loader.batch_size={config.loader.batch_size}"
        )
    mesh = make_mesh(config)
    rows = config.loader.batch_size // config.train.accumulate
    if mesh is not None and rows % mesh.size:
        raise ValueError(
            f"config.mesh: data={config.mesh.data}, fsdp={config.mesh.fsdp} are {mesh.size} "
            f"devices, which do not divide the {rows} rows of config.loader.batch_size="
            f"{config.loader.batch_size} / config.train.accumulate={config.train.accumulate}"
        )
    return mesh


def train_settings(job: Job, num_rows: int) -> tuple[TrainConfig, dict[str, Any], float]:
    """Returns what `config.train` says: of the run, of its stage, and the label smoothing.

    Args:
        job: whose run.
        num_rows: rows of an epoch, for a length in epochs. Where `min_steps` or `max_steps` makes
            another of it, a note says so.

    Raises:
        ValueError: a length or a bound below 0, or a most that is less than the least.
    """
    config = job.config
    options = config.train.to_dict()
    stage_options = {name: options.pop(name) for name in ("num_steps", "accumulate")}
    if (epochs := options.pop("num_epochs")) < 0:
        raise ValueError(f"config.train.num_epochs={epochs}: must be 0 or more")
    least, most = options.pop("min_steps"), options.pop("max_steps")
    if epochs:
        if least < 0 or most < 0 or 0 < most < least:
            raise ValueError(
                f"config.train.min_steps={least}, config.train.max_steps={most}: must be 0 or "
                "more, and max_steps no less than min_steps where it is not 0"
            )
        asked = math.ceil(epochs * num_rows / config.loader.batch_size)
        num_steps = min(max(least, asked), most or max(least, asked))
        if num_steps != asked and is_first():
            bound = f"min_steps={least}" if num_steps > asked else f"max_steps={most}"
            print(
                f"note: config.train.num_epochs={epochs} would be {asked:,} steps; "
                f"config.train.{bound} makes it {num_steps:,}, "
                f"{num_steps * config.loader.batch_size / num_rows:.2g} epochs",
                file=sys.stderr,
            )
        stage_options["num_steps"] = num_steps
        # A short run must come out of its warm-up too.
        options["warmup_steps"] = min(options["warmup_steps"], stage_options["num_steps"] // 4)
    label_smoothing = options.pop("label_smoothing")
    options["patience"] = (options["eval_every"] and options["patience"]) or None
    fields = ("eval_every", "checkpoint_every", "log_every", "patience")
    settings = TrainConfig(
        folder=job.run,
        seed=config.seed,
        overwrite=job.overwrite,
        **{name: options.pop(name) for name in fields},
    )
    return settings, stage_options | {"optimizer": OptimizerConfig(**options)}, label_smoothing


def validates(config: ConfigDict, prepared: Prepared) -> bool:
    """Returns whether training evaluates the model.

    Raises:
        ValueError: it is to, and there are no users to do so on.
    """
    if not config.train.eval_every:
        return False
    if not len(prepared.views("valid")):
        raise ValueError(
            f"{prepared.folder / 'splits' / 'valid.npy'}: no users to validate on; set "
            "config.train.eval_every=0 to train without, or another config.data.split"
        )
    return True


def make_validator(
    config: ConfigDict,
    catalogue: Catalogue,
    prompts: Callable[[str, int], Any],
    mesh: Mesh | None,
    reader: Callable[[Any], Any] = lambda model: model,
) -> Callable[[Any], dict[str, float]]:
    """Returns a function from a model to its validation metrics, by real beam search.

    Args:
        config: the experiment.
        catalogue: the items.
        prompts: from a split and a number of users, 0 for all, to batches.
        mesh: devices that share the users.
        reader: from the model that is trained to the one that reads the prompts.

    Raises:
        ValueError: there are no users to validate on, but evaluations are asked for.
    """
    if not validates(config, catalogue.prepared):
        return lambda model: {}  # Nobody will ask.
    batches = prompts("valid", config.evaluate.valid_users)
    target = catalogue.prepared.targets("valid")
    searcher = shared_searcher(config, mesh)
    ks = [k for k in KS if k <= config.search.num_beams]

    def evaluate(model: Any) -> dict[str, float]:
        ranked = rank_users(
            reader(model),
            batches,
            searcher,
            catalogue.trie,
            exclude_seen=config.search.exclude_seen,
        )
        targets = target[ranked.row]
        sid = np.where(ranked.dead[:, :, None], -1, ranked.sid)
        by_sid = metrics_at(sid_ranks(sid, catalogue.item_tokens[targets]), ks)
        metrics = metrics_at(item_ranks(ranked.item, targets), ks)
        return metrics | {f"sid_{name}": value for name, value in by_sid.items()}

    return evaluate
