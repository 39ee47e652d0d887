"""Training: `python -m launch.train --config=amazon_beauty --workdir=W`.

Writes W/runs/NAME (config.json, metrics.jsonl, checkpoints, sids.json and vocab.json). The same
command again goes on where a killed run stopped, to the same result; SIGTERM saves and exits 0.

`--require_backend=gpu` (or `tpu`) ends the program before any work where JAX would train on less.

Several devices: `--config.mesh.data=-1`. Several processes: besides, the same command in each, with
`--coordinator_address=HOST:PORT --num_processes=N --process_id=I`; all see the same W.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from kernels.trie import Trie
from launch.wiring import parts, program, ranking
from minirec.decoding.ranking import rank_users
from minirec.evaluation import KS, item_ranks, metrics_at, sid_ranks
from minirec.training import (
    ItemTask,
    OptimizerConfig,
    SidPrefixes,
    SidTask,
    Stage,
    Task,
    TrainConfig,
    TrainResult,
    as_record,
    run_folder,
    train,
)
from minirec.training.processes import is_first
from pipelines.batches.train_batches import train_batches
from pipelines.prepared import Prepared

_REQUIRE_BACKEND = flags.DEFINE_enum(
    "require_backend", None, ["gpu", "tpu"], "Refuse to train on anything else."
)
_EXTRA = {"gpu": "cuda", "tpu": "tpu"}
SELECT_AT = 10
SELECT_METRIC = f"ndcg@{SELECT_AT}"


class Searchable(Protocol):
    """What a validation needs of a catalogue."""

    @property
    def prepared(self) -> Prepared:
        """The records."""
        ...

    @property
    def item_tokens(self) -> Int[np.ndarray, "N L"]:
        """The tokens that the search takes for each item."""
        ...

    @property
    def trie(self) -> Trie:
        """The valid sequences of them."""
        ...


def run_training(job: program.Job) -> TrainResult:
    """Trains the model that the job's config describes, or goes on with it.

    Raises:
        ValueError: a step before this one has not run, the run's folder holds another run, or the
            config asks for what cannot be.
    """
    config = job.config
    parts.require_sid_decoder(config)
    mesh = checked_mesh(config)
    prepared = parts.load_prepared(job)
    parts.require_sids(job, job.sids)
    catalogue = parts.load_catalogue(prepared, job.sids, mesh=mesh)
    batches = train_batches(
        catalogue.prepared,
        parts.model_tokens(config, catalogue),
        parts.batch_config(config),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    settings, stage_options, label_smoothing = train_settings(job, batches.num_rows)
    stages = [Stage("train", lambda: batches, **stage_options)]
    task = make_task(config, catalogue, make_evaluator(config, catalogue, mesh), label_smoothing)
    return train(
        parts.new_model(config, catalogue),
        task,
        stages,
        settings,
        record=parts.run_record(job, catalogue) | as_record(settings, stages),
        describe_batch=batches.describe,
        mesh=mesh,
        on_claimed=lambda: keep_catalogue(job, catalogue),
    )


def make_task(
    config: ConfigDict,
    catalogue: parts.Catalogue,
    evaluator: Callable[[Any], dict[str, float]],
    label_smoothing: float,
) -> Task:
    """Returns what the config's model learns.

    Raises:
        ValueError: a field of `config.loss` is impossible.
    """
    one_target_a_row = config.loader.examples == "windows" and not config.loader.pack
    if parts.reads_items(config):
        return ItemTask(
            evaluator,
            SidPrefixes.of(catalogue.item_tokens),
            catalogue.vocab.size,
            select_metric=SELECT_METRIC,
            label_smoothing=label_smoothing,
            train_count=catalogue.prepared.train_count,
            max_targets=1 if one_target_a_row else None,
            **config.loss.to_dict(),
        )
    return SidTask(
        evaluator,
        select_metric=SELECT_METRIC,
        label_smoothing=label_smoothing,
        max_loss_tokens=catalogue.table.num_levels if one_target_a_row else None,
    )


def checked_mesh(config: ConfigDict) -> Mesh | None:
    """Returns the mesh to train on, after a look at what must fit together.

    Raises:
        ValueError: too few beams to select by, or parts of a batch that do not come out even.
    """
    if config.search.num_beams < SELECT_AT:
        raise ValueError(
            f"config.search.num_beams={config.search.num_beams}: must be at least {SELECT_AT}, "
            f"since {SELECT_METRIC} on the validation users selects"
        )
    if config.loader.batch_size % config.train.accumulate:
        raise ValueError(
            f"config.train.accumulate={config.train.accumulate}: must divide "
            f"config.loader.batch_size={config.loader.batch_size}"
        )
    mesh = parts.make_mesh(config)
    rows = config.loader.batch_size // config.train.accumulate
    if mesh is not None and rows % mesh.size:
        raise ValueError(
            f"config.mesh: data={config.mesh.data}, fsdp={config.mesh.fsdp} are {mesh.size} "
            f"devices, which do not divide the {rows} rows of config.loader.batch_size="
            f"{config.loader.batch_size} / config.train.accumulate={config.train.accumulate}"
        )
    return mesh


def train_settings(job: program.Job, num_rows: int) -> tuple[TrainConfig, dict[str, Any], float]:
    """Returns what `config.train` says: of the run, of its stage, and the label smoothing.

    Args:
        job: whose run.
        num_rows: rows of an epoch, for a length in epochs. Where `min_steps` or `max_steps` makes
            another of it, a note says so.

    Raises:
        ValueError: a length or a bound that is none.
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


def make_evaluator(
    config: ConfigDict, catalogue: parts.Catalogue, mesh: Mesh | None = None
) -> Callable[[Any], dict[str, float]]:
    """Returns a function from a model to its validation metrics, by real beam search.

    Raises:
        ValueError: there are no users to validate on, but evaluations are asked for.
    """
    if not validates(config, catalogue.prepared):
        return lambda model: {}  # Nobody will ask.
    batches = parts.split_batches(catalogue, config, "valid", config.evaluate.valid_users)
    return evaluator_of(config, catalogue, batches, mesh)


def evaluator_of(
    config: ConfigDict, catalogue: Searchable, batches: Any, mesh: Mesh | None
) -> Callable[[Any], dict[str, float]]:
    """Returns a function from a model to its metrics on batches of validation prompts."""
    target = catalogue.prepared.targets("valid")
    searcher = parts.make_searcher(config, mesh)
    ks = [k for k in KS if k <= config.search.num_beams]

    def evaluate(model: Any) -> dict[str, float]:
        ranked = rank_users(
            model, batches, searcher, catalogue.trie, exclude_seen=config.search.exclude_seen
        )
        targets = target[ranked.row]
        sid = np.where(ranked.dead[:, :, None], -1, ranked.sid)
        by_sid = metrics_at(sid_ranks(sid, catalogue.item_tokens[targets]), ks)
        metrics = metrics_at(item_ranks(ranked.item, targets), ks)
        return metrics | {f"sid_{name}": value for name, value in by_sid.items()}

    return evaluate


def keep_catalogue(job: program.Job, catalogue: parts.Catalogue) -> None:
    """Keeps the SIDs and the vocabulary with the run, whose record has just been found to match."""
    parts.keep_sids(job)
    catalogue.vocab.save(job.run / parts.VOCAB)
    if not run_folder.has_begun(job.run):  # What another run here has left.
        for report in parts.REPORTS.values():
            shutil.rmtree(job.run / report, ignore_errors=True)
        (job.run / ranking.FUSION).unlink(missing_ok=True)


def print_result(result: TrainResult) -> None:
    """Prints how a run ended, a field a line."""
    print(f"steps={result.step}")
    print(f"reason={result.reason}")
    if result.best_metric is not None:
        print(f"best_{result.select_metric}={result.best_metric:.4f}")
        print(f"best_step={result.best_step}")
    print(f"seconds={result.seconds:.1f}")


def require_backend() -> None:
    """Checks that JAX has found what `--require_backend` asks for.

    Raises:
        UsageError: it has found something else.
    """
    wanted, there = _REQUIRE_BACKEND.value, jax.default_backend()
    if wanted is not None and wanted != there:
        raise program.UsageError(
            f"--require_backend={wanted}: JAX runs on {there!r} here; install the extra "
            f"{_EXTRA[wanted]!r}, and look at JAX_PLATFORMS and at the driver"
        )


def main(job: program.Job) -> None:
    """Trains and prints how the run ended."""
    # Until the loop takes over, which saves first, there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    result = run_training(job)
    if not is_first():
        return
    print_result(result)


def _as_asked(job: program.Job) -> None:
    require_backend()
    main(job)


if __name__ == "__main__":
    program.run(_as_asked, many_processes=True)
