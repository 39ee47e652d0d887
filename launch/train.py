"""Training: `python -m launch.train --config=amazon_beauty --workdir=W`.

Writes W/runs/NAME (config.json, metrics.jsonl, checkpoints, sids.json and vocab.json). The same
command again goes on where a killed run stopped, to the same result; SIGTERM saves and exits 0.
"""

from __future__ import annotations

import shutil
from typing import Any

import jax

from launch import program, wiring
from minirec import files
from minirec.decoding.ranking import rank_users
from minirec.evaluation import KS, item_ranks, metrics_at
from minirec.training import (
    OptimizerConfig,
    SidTask,
    Stage,
    TrainConfig,
    TrainResult,
    as_record,
    train,
)
from pipelines.batches import train_batches


def run_training(job: program.Job) -> TrainResult:
    """Trains the model that the job's config describes, or goes on with it.

    Raises:
        ValueError: a step before this one has not run, or the run's folder holds another run.
    """
    config = job.config
    catalogue = wiring.load_catalogue(job.prepared, job.sids)
    batches = train_batches(
        catalogue.prepared,
        catalogue.item_tokens,
        wiring.batch_config(config),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    valid = wiring.split_batches(catalogue, config, "valid", config.evaluate.valid_users)
    target = catalogue.prepared.targets("valid")
    searcher = wiring.make_searcher(config)
    ks = [k for k in KS if k <= config.search.num_beams]

    def evaluate(model: Any) -> dict[str, float]:
        ranked = rank_users(
            model, valid, searcher, catalogue.trie, exclude_seen=config.search.exclude_seen
        )
        return metrics_at(item_ranks(ranked.item, target[ranked.row]), ks)

    options = config.train.to_dict()
    fields = ("num_steps", "accumulate")
    stage_options = {name: options.pop(name) for name in fields}
    label_smoothing = options.pop("label_smoothing")
    fields = ("eval_every", "checkpoint_every", "log_every", "patience")
    options["patience"] = (options["eval_every"] and options["patience"]) or None
    train_config = TrainConfig(
        folder=job.run,
        seed=config.seed,
        overwrite=job.overwrite,
        **{name: options.pop(name) for name in fields},
    )
    stages = [
        Stage("train", lambda: batches, optimizer=OptimizerConfig(**options), **stage_options)
    ]
    copy_catalogue(job, catalogue)
    return train(
        wiring.make_model(config, catalogue.vocab.size),
        SidTask(evaluate, label_smoothing=label_smoothing),
        stages,
        train_config,
        record=run_record(job, catalogue) | as_record(train_config, stages),
        describe_batch=batches.describe,
    )


def run_record(job: program.Job, catalogue: wiring.Catalogue) -> dict[str, Any]:
    """Returns what tells this run from another one: settings and the data's identity."""
    sections = ("name", "seed", "loader", "model", "search", "evaluate", "data", "sids")
    settings = job.config.to_dict()
    return {name: settings[name] for name in sections} | {
        "prepared": catalogue.prepared.manifest["fingerprint"],
        "sids_sha256": files.sha256(job.sids / "sids.json"),
    }


def copy_catalogue(job: program.Job, catalogue: wiring.Catalogue) -> None:
    """Keeps the SIDs and the vocabulary with the run; those of an earlier run are not touched."""
    if job.overwrite or not (job.run / "sids.json").is_file():
        with files.atomic_path(job.run / "sids.json") as temporary:
            shutil.copyfile(job.sids / "sids.json", temporary)
    if job.overwrite or not (job.run / "vocab.json").is_file():
        catalogue.vocab.save(job.run / "vocab.json")


def main(job: program.Job) -> None:
    """Trains and prints how the run ended."""
    result = run_training(job)
    print(f"steps={result.step}")
    print(f"reason={result.reason}")
    if result.best_metric is not None:
        print(f"best_{result.select_metric}={result.best_metric:.4f}")
        print(f"best_step={result.best_step}")
    print(f"seconds={result.seconds:.1f}")


if __name__ == "__main__":
    program.run(main)
