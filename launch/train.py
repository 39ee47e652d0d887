"""Training: `python -m launch.train --config=amazon_beauty --workdir=W`.

Writes W/runs/NAME: config.json, metrics.jsonl, checkpoints, the SIDs, run_summary.json (no times in
it: the same config and seed give the same bytes) and what the model's family keeps beside them. The
same command again goes on where a killed run stopped, to the same result; SIGTERM saves and exits
0. `config.wandb` sends the run to Weights & Biases too.

`--require_backend=gpu` (or `tpu`) ends the program before any work where JAX would train on less.

Several devices: `--config.mesh.data=-1`. Several processes: besides, the same command in each, with
`--coordinator_address=HOST:PORT --num_processes=N --process_id=I`; all see the same W.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys

import jax
from absl import flags

from launch.wiring import program, wandb_log
from launch.wiring.baselines import CHOSEN
from launch.wiring.experiment import experiment_of
from launch.wiring.fusion_run import FUSION
from launch.wiring.reporting import REPORTS
from launch.wiring.run_summary import SUMMARY, write_summary
from minirec.training import TrainResult, as_record, load_best, run_folder, train
from minirec.training.processes import is_first

_REQUIRE_BACKEND = flags.DEFINE_enum(
    "require_backend", None, ["gpu", "tpu"], "Refuse to train on anything else."
)
_EXTRA = {"gpu": "cuda", "tpu": "tpu"}


def run_training(job: program.Job) -> TrainResult:
    """Trains the model that the job's config describes, or goes on with it.

    Raises:
        ValueError: a step before this one has not run, the run's folder holds another run, or the
            config asks for what cannot be.
    """
    config = job.config
    experiment = experiment_of(config)
    wandb_log.check(config)
    training = experiment.training(job)

    with contextlib.ExitStack() as stack:
        log: list[wandb_log.Log | None] = [None]

        def claimed() -> None:
            if not run_folder.has_begun(job.run):  # What another run here has left.
                for report in REPORTS.values():
                    shutil.rmtree(job.run / report, ignore_errors=True)
                for name in (FUSION, CHOSEN, SUMMARY):
                    (job.run / name).unlink(missing_ok=True)
            training.keep()
            log[0] = stack.enter_context(wandb_log.started(config, job.run))

        model = training.make_model()
        result = train(
            model,
            training.task,
            training.stages,
            training.settings,
            record={**training.record, **as_record(training.settings, training.stages)},
            describe_batch=training.describe_batch,
            mesh=training.mesh,
            on_claimed=claimed,
            on_line=lambda line: log[0](line) if log[0] else None,
            monitors=training.monitors,
            on_stage_end=training.on_stage_end,
        )
    if not result.interrupted:
        training.finish(lambda: load_best(job.run, model))
    if is_first():
        write_summary(job)
    return result


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
    require_backend()
    # Until the loop takes over, which saves first, there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    result = run_training(job)
    if is_first():
        print_result(result)


if __name__ == "__main__":
    program.run(main, many_processes=True)
