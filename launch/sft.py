"""A language model on SID tasks: `python -m launch.sft --config=sid_sft --run_mode=train_eval`.

`train` fine-tunes (the same command again goes on where a killed run stopped) and writes the best
model, adapters merged, as a Hugging Face folder W/runs/NAME/model. `eval` answers every user of the
split by constrained beam search, sets the baselines beside it and writes W/runs/NAME/report;
without a trained run it evaluates `config.model.checkpoint` as it is. Both write
W/runs/NAME/run_summary.json, which holds no times: the same config and seed give the same bytes.
Where W is empty, the data are prepared and SIDs made first.

Devices and processes as for `launch.train`.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from launch import evaluate, make_sids, prepare, train
from launch.wiring import language, made_with, parts, program, wandb_log
from launch.wiring.run_summary import SUMMARY, write_summary
from minirec import files
from minirec.files.schema import NUMBER, SHA256
from minirec.models import SidDecoder, sharding
from minirec.models.hf import save_checkpoint
from minirec.models.vocabulary import merged
from minirec.reports import Report, metric_lines
from minirec.training import SidTask, Stage, TrainResult, as_record, compare, load_best, run_folder
from minirec.training import train as train_model
from minirec.training.first_steps import first_losses
from minirec.training.processes import first_alone, first_says, is_first
from pipelines.text.sft_batches import sft_batches
from pipelines.text.tokenizer import TextTokenizer

_RUN_MODE = flags.DEFINE_enum(
    "run_mode", "train_eval", ["train", "eval", "train_eval"], "What to do."
)
NEW_ROWS_FILE = "new_rows.json"
_NEW_ROWS = {"record": SHA256, "losses": {str: [NUMBER]}}
_MODEL_REMEDY = "remove the folder and run with --run_mode=train: it is written anew"


def run_training(job: program.Job) -> TrainResult:
    """Fine-tunes the model that the job's config describes, or goes on with it.

    Raises:
        ValueError: a step before this one has not run, the run's folder holds another run, or the
            config asks for what cannot be.
    """
    config = job.config
    wandb_log.check(config)
    trainable = language.trainable(config)
    mesh = train.checked_mesh(config)
    prepared = parts.load_prepared(job)
    parts.require_sids(job, job.sids)
    folder = language.base_folder(job, prepared)
    catalogue = language.load_catalogue(job, prepared, job.sids, folder, mesh)
    if is_first():
        known = len(catalogue.sid_token_ids) - len(catalogue.tokenizer.added)
        print(f"sid_tokens={len(catalogue.sid_token_ids)} in_the_checkpoint={known}")
    batches = sft_batches(
        prepared,
        catalogue.table,
        catalogue.tokenizer,
        catalogue.templates,
        language.sft_config(config),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    settings, stage_options, label_smoothing = train.train_settings(job, batches.num_rows)
    stage = Stage("sft", lambda: batches, trainable=trainable, **stage_options)
    task = SidTask(
        _evaluator(job, catalogue, mesh),
        select_metric=train.SELECT_METRIC,
        label_smoothing=label_smoothing,
        logits_at_once=config.sft.logits_at_once or None,
    )
    record = run_record(job, catalogue, folder) | as_record(settings, [stage])
    make_model = functools.partial(language.make_model, job, folder, catalogue, mesh)
    compared = _compare_new_rows(job, catalogue, make_model, task, stage, mesh, record)

    with contextlib.ExitStack() as stack:
        log: list[wandb_log.Log | None] = [None]

        def claimed() -> None:
            parts.keep_sids(job)
            if not run_folder.has_begun(job.run):
                # What an evaluation of the checkpoint as it was, or another run, has left.
                for name in (language.MODEL, *parts.REPORTS.values()):
                    shutil.rmtree(job.run / name, ignore_errors=True)
                (job.run / SUMMARY).unlink(missing_ok=True)
            files.write_sealed(job.run / NEW_ROWS_FILE, compared)
            log[0] = stack.enter_context(wandb_log.started(config, job.run))

        model = make_model()
        result = train_model(
            model,
            task,
            [stage],
            settings,
            record=record,
            describe_batch=batches.describe,
            mesh=mesh,
            on_claimed=claimed,
            on_line=lambda line: log[0](line) if log[0] else None,
        )
    if not result.interrupted and not first_says((job.run / language.MODEL).is_dir()):
        save_model(job, load_best(job.run, model), catalogue.tokenizer, folder, mesh)
    return result


def _evaluator(job: program.Job, catalogue: language.LanguageCatalogue, mesh: Mesh | None) -> Any:
    config = job.config
    if not train.validates(config, catalogue.prepared):
        return lambda model: {}  # Nobody will ask.
    prompts = language.split_prompts(catalogue, config, "valid", config.evaluate.valid_users)
    evaluate_plain = train.evaluator_of(config, catalogue, prompts, mesh)

    def evaluate_model(model: SidDecoder) -> dict[str, float]:
        plain = merged(model)
        sharding.place(plain, mesh)
        return evaluate_plain(plain)

    return evaluate_model


def _compare_new_rows(
    job: program.Job,
    catalogue: language.LanguageCatalogue,
    make_model: Any,
    task: SidTask,
    stage: Stage,
    mesh: Mesh | None,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Returns the losses of the first steps from each start of the new tokens' rows.

    A run that goes on has them already; `record` tells it from others.
    """
    num_steps = min(job.config.sft.compare_new_rows, stage.num_steps)
    of_run = files.seal({"record": record})[files.SEAL]
    if (job.run / NEW_ROWS_FILE).is_file():
        before = _read_new_rows(job)
        if before["record"] == of_run:
            return before
    losses: dict[str, list[float]] = {}
    if num_steps and catalogue.tokenizer.added:
        starts = {start: functools.partial(make_model, start) for start in language.starts(job)}
        losses = first_losses(starts, task, stage, num_steps, seed=job.config.seed, mesh=mesh)
    return {"record": of_run, "losses": losses}


def _read_new_rows(job: program.Job) -> dict[str, Any]:
    remedy = "remove it: the steps are taken again"
    return files.read_sealed(job.run / NEW_ROWS_FILE, remedy, _NEW_ROWS)


def save_model(
    job: program.Job,
    model: SidDecoder,
    tokenizer: TextTokenizer,
    like: Path,
    mesh: Mesh | None,
) -> None:
    """Writes the model, with all that was trained beside it merged, as a Hugging Face folder."""
    plain = merged(model)
    sharding.place(plain, mesh)
    folder = job.run / language.MODEL
    partial = folder.with_name(f".{folder.name}.partial")
    model_type = files.read_json(like / "config.json", {"model_type": str})["model_type"]
    save_checkpoint(plain, partial, like=like, model_type=model_type, overwrite=True)

    def finish() -> None:
        tokenizer.save(partial)
        files.write_checksums(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    first_alone(finish)


def run_evaluation(job: program.Job, split: str = "test") -> Report | None:
    """Evaluates the run's fine-tuned model, or the checkpoint as it is where none was trained.

    Returns:
        The report, in the first process; None in the others.

    Raises:
        ValueError: data, SIDs and run do not belong together, the run is not trained to its end, or
            an untrained checkpoint lacks SID tokens.
    """
    started = time.monotonic()
    config = job.config
    mesh = parts.make_mesh(config)
    prepared = parts.load_prepared(job)
    folder, sids = job.run / language.MODEL, job.run
    trained = first_says(folder.is_dir())
    if not trained:
        if first_says((job.run / "config.json").is_file()):
            raise ValueError(
                f"{folder} is missing: the run is not trained to its end; go on with "
                "--run_mode=train"
            )
        folder, sids = language.base_folder(job, prepared), job.sids
    else:
        first_alone(lambda: files.check_folder(job.run / language.MODEL, remedy=_MODEL_REMEDY))
    if trained:
        made_with.check_run(job)
    parts.require_sids(job, sids)
    catalogue = language.load_catalogue(job, prepared, sids, folder, mesh)
    made_with.check_report(job, job.run / parts.REPORTS[split] / "report.json")
    files.check_writable(job.run / parts.REPORTS[split])
    if catalogue.tokenizer.added:
        raise ValueError(
            f"{folder}: its tokenizer lacks {len(catalogue.tokenizer.added)} SID tokens, such as "
            f"{catalogue.tokenizer.added[0]!r}, so that there is nothing to evaluate; fine-tune it "
            "with --run_mode=train"
        )
    if trained:
        _check_run(job, catalogue)
    model = language.load_model(config, folder, mesh)
    prompts = language.split_prompts(catalogue, config, split, config.evaluate.test_users)
    ranked = evaluate.search_batches(config, model, prompts, catalogue.trie, mesh)
    if not is_first():
        return None
    searched = evaluate.Searched(split, catalogue, ranked, catalogue.codes(ranked), started)
    has_losses = trained and (job.run / NEW_ROWS_FILE).is_file()
    first_losses = _read_new_rows(job)["losses"] if has_losses else {}
    return evaluate.make_report(
        job, searched, first_losses=first_losses, extra={"fine_tuned": trained}
    )


def run_record(
    job: program.Job, catalogue: language.LanguageCatalogue, folder: Path
) -> dict[str, Any]:
    """Returns what makes a run this one: settings that change it, and what it was trained on."""
    return {
        "config": made_with.run_part(job.config),
        "checkpoint": language.fingerprint(folder),
        "data": catalogue.prepared.manifest["config"],
        "prepared": catalogue.prepared.manifest["fingerprint"],
        "sids_sha256": files.sha256(job.sids / parts.SIDS),
        "vocabulary": catalogue.tokenizer.size,
    }


def _check_run(job: program.Job, catalogue: language.LanguageCatalogue) -> None:
    path, trained = job.run / "config.json", run_folder.read_config(job.run)
    here = {
        "prepared": catalogue.prepared.manifest["fingerprint"],
        "sids_sha256": files.sha256(job.run / parts.SIDS),
        "vocabulary": catalogue.tokenizer.size,
    }
    there = {name: trained.get(name) for name in here}
    differences = [f"{field}={was}, now {now}" for field, was, now in compare(there, here)]
    if differences:
        raise ValueError(f"{path}: the run was trained with {'; '.join(differences)}")


def main(job: program.Job, run_mode: str = "train_eval", split: str = "test") -> None:
    """Does what `run_mode` says and prints how it went."""
    # Until the loop takes over, which saves first, there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if "sft" not in job.config:
        raise program.UsageError(
            f"config {job.config.name!r} has no section sft: use launch.train, or --config=sid_sft"
        )
    wandb_log.check(job.config)
    _make_what_is_missing(job)
    if "train" in run_mode:
        result = run_training(job)
        if is_first():
            train.print_result(result)
            write_summary(job)
        if result.interrupted:
            return
    if "eval" in run_mode:
        report = run_evaluation(job, split)
        if report is not None:
            write_summary(job)
            for line in metric_lines(report):
                print(line)
            for note in report.notes:
                print(note, file=sys.stderr)
            print(f"report={job.run / parts.REPORTS[split] / 'index.html'}")


def _make_what_is_missing(job: program.Job) -> None:
    steps = (
        (job.prepared / "manifest.json", prepare.main),
        (job.sids / parts.SIDS_REPORT, make_sids.make),
    )
    for path, step in steps:
        if not first_says(path.is_file()):
            first_alone(functools.partial(step, job))


def _as_asked(job: program.Job) -> None:
    if "train" in _RUN_MODE.value:
        train.require_backend()
    main(job, _RUN_MODE.value, evaluate.SPLIT.value)


if __name__ == "__main__":
    program.run(
        _as_asked,
        many_processes=True,
        workdir="W",
    )
