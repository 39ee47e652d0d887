"""How watch histories train a language model: stages, general text, and what is watched."""

from __future__ import annotations

import collections
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from launch.wiring import (
    language,
    language_catalogue,
    language_model,
    made_with,
    scratch,
    training,
)
from launch.wiring.catalogue import SIDS, fingerprints, keep_sids, load_prepared, require_sids
from launch.wiring.experiment import Training
from launch.wiring.general import Mixed, encoded, general_text
from launch.wiring.language_model import NEW_ROWS_FILE
from launch.wiring.program import Job
from launch.wiring.watch_catalogue import (
    as_it_runs,
    load_catalogue,
    split_prompts,
    watch_config,
)
from minirec import files
from minirec.evaluation.perplexity import Perplexity
from minirec.training import (
    Monitor,
    OptimizerConfig,
    Stage,
    TokenTask,
    TrainConfig,
    as_record,
    read_metrics,
    run_folder,
)
from minirec.training.processes import first_alone, first_says, is_first
from pipelines.prepared import Prepared
from pipelines.text.row_batches import EncodedRows, RowBatches, RowsConfig, row_batches
from pipelines.text.tokenizer import TextTokenizer
from pipelines.text.watch_tasks import made_tasks
from pipelines.text.watch_writing import read_rows

FINAL_MODEL = "final_model"
TOKENIZER = "tokenizer"
RUN_SUMMARY = "train_run_summary.json"
SNAPSHOT = "train_config_snapshot.json"
BASE = "base.json"
TASKS = "tasks"
GENERAL = "general"
RETENTION = "retention"


def base_folder(job: Job, prepared: Prepared, mixed: Mixed) -> tuple[Path, dict[str, Any]]:
    """Returns the checkpoint to start from, and what to say of it.

    A dry run that cannot have the one that is asked for starts from a tiny one made here.

    Raises:
        ValueError: it is not to be had.
    """
    config, name = job.config, job.config.model.checkpoint
    about = {"asked": name, "used": name}
    if name != "scratch":
        try:
            return language_catalogue.given_folder(job), about
        except ValueError as error:
            if not config.dry_run:
                raise
            about |= {"used": "scratch", "instead_because": str(error)}
    words = config.tasks.words.to_dict()
    texts = [*mixed.text.texts, *(text for pair in mixed.text.pairs for text in pair)]
    return scratch.make_scratch(job, prepared, words, texts), about


def encoded_rows(job: Job, tokenizer: TextTokenizer) -> dict[str, EncodedRows]:
    """Returns the rows of each task as tokens."""
    loader = job.config.loader
    prompts: dict[str, list[str]] = collections.defaultdict(list)
    answers: dict[str, list[str]] = collections.defaultdict(list)
    for task, prompt, answer in read_rows(job.workdir / TASKS, loader.max_rows):
        prompts[task].append(prompt)
        answers[task].append(answer)
    return {
        task: EncodedRows.of_texts(
            prompts[task], answers[task], tokenizer, loader.row_tokens or None
        )
        for task in sorted(prompts)
    }


def stage_mixture(config: ConfigDict, name: str, parts: Mapping[str, Any]) -> dict[str, float]:
    """Returns the shares of a stage's rows, general text among them.

    Raises:
        ValueError: a share that is no share, or of a task that has no row.
    """
    stage = config.stages[name]
    ratio = config.general_mix.ratio if stage.general < 0 else stage.general
    if not 0 <= ratio <= 1:
        raise ValueError(f"config.general_mix.ratio={ratio!r}: must lie in [0, 1]")
    weights = {task: float(weight) for task, weight in stage.weights.items() if weight}
    for task, weight in weights.items():
        if task not in parts or not len(parts[task]) or weight < 0:
            raise ValueError(
                f"config.stages.{name}.weights.{task}={weight!r}: there are rows of "
                f"{', '.join(sorted(task for task in parts if len(parts[task])))}; a weight is 0 "
                "or more"
            )
    total = sum(weights.values())
    if not total and ratio < 1:
        raise ValueError(
            f"config.stages.{name}: no task has a weight above 0, and general={ratio!r}: must be 1"
        )
    shares = {task: (1 - ratio) * weight / total for task, weight in weights.items() if ratio < 1}
    return shares | ({GENERAL: float(ratio)} if ratio else {})


def make_stages(
    job: Job, parts: Mapping[str, EncodedRows], tokenizer: TextTokenizer
) -> list[Stage]:
    """Returns the stages of a run that have a length, in the order of their names.

    Raises:
        ValueError: a length or a mixture that cannot be, or no stage with a length.
    """
    config = job.config
    fields = {name: value for name, value in config.loader.to_dict().items() if name != "max_rows"}
    rows_config = RowsConfig(**fields | {"row_tokens": fields["row_tokens"] or None})
    options = {
        name: config.train[name]
        for name in (
            *("schedule", "end_fraction", "weight_decay", "b1", "b2", "eps", "average_decay"),
            "clip_norm",
        )
    }
    stages = []
    for number, name in enumerate(sorted(config.stages)):
        stage = config.stages[name]
        if stage.num_epochs < 0 or stage.num_steps < 0 or (stage.num_epochs and stage.num_steps):
            raise ValueError(
                f"config.stages.{name}: num_epochs={stage.num_epochs}, num_steps="
                f"{stage.num_steps}: must be 0 or more, and one of them 0"
            )
        if not stage.num_epochs and not stage.num_steps:
            continue
        batches = row_batches(
            parts,
            stage_mixture(config, name, parts),
            rows_config,
            seed=config.seed + number,
            pad=tokenizer.pad_token_id,
            even_out=(GENERAL,),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        num_rows = sum(len(rows) for task, rows in parts.items() if task != GENERAL)
        a_step = config.loader.batch_size * batches.examples_per_row
        num_steps = stage.num_steps or math.ceil(stage.num_epochs * num_rows / a_step)
        optimizer = OptimizerConfig(
            learning_rate=stage.learning_rate,
            warmup_steps=min(stage.warmup_steps, max(num_steps // 4, 1)),
            **options,
        )
        stages.append(
            Stage(
                name,
                functools.partial(_same, batches),
                num_steps,
                optimizer,
                config.train.accumulate,
                language_model.trainable(config),
            )
        )
    if not stages:
        raise ValueError("config.stages: none has num_steps or num_epochs above 0")
    return stages


def _same(batches: RowBatches) -> RowBatches:
    return batches


def retention_monitor(config: ConfigDict, tokenizer: TextTokenizer) -> list[Monitor]:
    """Returns the monitor of how well a model still reads general text; none where none is named.

    Raises:
        ValueError: the text is missing, or a setting is impossible.
    """
    options = config.monitor
    if not options.path:
        return []
    path = Path(options.path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such file; config.monitor.path must name a text")
    text = path.read_text(encoding="utf-8")
    if options.max_bytes:
        data = text.encode()[: options.max_bytes]
        # Whole lines, where there is one: half a character must not be read.
        text = data[: data.rfind(b"\n") + 1 or len(data)].decode("utf-8", "ignore")
    tokens, _ = tokenizer.encode_flat([text])
    measure = Perplexity.of_tokens(
        tokens,
        len(text.encode()),
        first=tokenizer.eos_token_id,
        window=options.window,
        batch_size=options.batch_size,
    )
    return [
        Monitor(
            RETENTION,
            measure,
            every=options.eval_every_steps,
            watched="perplexity",
            max_rise=options.max_rise or None,
            stops=options.stops,
        )
    ]


def fine_tune(job: Job) -> Training:
    """Returns what trains the model that the job's config names.

    Raises:
        ValueError: a step before this one has not run, or the config asks for what cannot be.
    """
    job = as_it_runs(job)
    config = job.config
    language_model.trainable(config)
    mesh = training.checked_mesh(config)
    prepared = load_prepared(job)
    require_sids(job, job.sids)
    summary = made_tasks(watch_config(job), job.workdir / TASKS)
    mixed = general_text(config) if _mixes(config) else None
    folder, base = base_folder(job, prepared, mixed or general_text(config))
    catalogue = load_catalogue(job, prepared, job.sids, folder, mesh)
    tokenizer = catalogue.tokenizer
    parts = encoded_rows(job, tokenizer)
    if mixed is not None:
        window, most = config.general_mix.window, config.loader.row_tokens or None
        parts[GENERAL] = encoded(mixed.text, tokenizer, window, most)
    stages = make_stages(job, parts, tokenizer)
    monitors = retention_monitor(config, tokenizer)
    if is_first():
        print(f"new_tokens={len(tokenizer.added)} base={base['used']}")
        for stage in stages:
            shares = stage_mixture(config, stage.name, parts)
            told = " ".join(f"{name}={share:.4f}" for name, share in shares.items())
            print(f"{stage.name} steps={stage.num_steps} {told}")
    task = TokenTask(
        language.validator(
            config, catalogue, functools.partial(split_prompts, catalogue, config), mesh
        ),
        select_metric=training.SELECT_METRIC,
        label_smoothing=config.train.label_smoothing,
        logits_at_once=config.sft.logits_at_once or None,
    )
    settings = _settings(job)
    about = {
        "base": base,
        "general_text": mixed.about if mixed else {"source": "none"},
        "dry_run": bool(config.dry_run),
        "rows": {name: len(rows) for name, rows in parts.items()},
        "rows_left_out": {name: rows.left_out for name, rows in parts.items()},
    }
    record = {
        "config": made_with.run_part(config),
        "checkpoint": language_catalogue.fingerprint(folder),
        "data": prepared.manifest["config"],
        "tasks": summary["outputs"],
        "general_text": about["general_text"],
        **fingerprints(prepared, job.sids / SIDS, tokenizer.size),
    }
    new_model = functools.partial(language_model.make_model, job, folder, catalogue, mesh)
    of_run = record | as_record(settings, stages)
    compared = language_model.compare_new_rows(
        job, catalogue, new_model, task, stages[0], mesh, of_run
    )

    def keep() -> None:
        keep_sids(job)
        if not run_folder.has_begun(job.run):
            names = (FINAL_MODEL, TOKENIZER, *(stage.name for stage in stages))
            for name in names:
                shutil.rmtree(job.run / name, ignore_errors=True)
            (job.run / RUN_SUMMARY).unlink(missing_ok=True)
        files.write_sealed(job.run / NEW_ROWS_FILE, compared)
        files.write_sealed(job.run / BASE, about)
        plain = json.loads(json.dumps(config.to_dict()))
        plain.pop("wandb")
        files.write_json(job.run / SNAPSHOT, plain)

    def save(name: str, load_best_model: Callable[[], Any]) -> None:
        if not first_says((job.run / name).is_dir()):
            language.save_model(job, load_best_model(), tokenizer, folder, mesh, name)

    def finish(load_best_model: Callable[[], Any]) -> None:
        save(FINAL_MODEL, load_best_model)
        first_alone(functools.partial(_finish, job, tokenizer, stages, about, compared))

    return Training(
        make_model=new_model,
        task=task,
        stages=stages,
        settings=settings,
        record=record,
        describe_batch=_place,
        mesh=mesh,
        keep=keep,
        finish=finish,
        monitors=monitors,
        on_stage_end=lambda stage, load: save(stage.name, load),
    )


def _mixes(config: ConfigDict) -> bool:
    shares = [
        config.general_mix.ratio if stage.general < 0 else stage.general
        for stage in config.stages.values()
        if stage.num_steps or stage.num_epochs
    ]
    return any(shares)


def _settings(job: Job) -> TrainConfig:
    train = job.config.train
    return TrainConfig(
        folder=job.run,
        seed=job.config.seed,
        overwrite=job.overwrite,
        eval_every=train.eval_every,
        checkpoint_every=train.checkpoint_every,
        log_every=train.log_every,
        patience=(train.eval_every and train.patience) or None,
        best_of="stage",
    )


def _place(batch: Any) -> str:
    """Returns a batch's place; it does not say of which stage it is, but the error does."""
    number = int(np.asarray(batch["batch_index"])[0])
    return f"batch {number} of its stage, rows {np.asarray(batch['rows'])[:8].tolist()}"


def _finish(
    job: Job,
    tokenizer: TextTokenizer,
    stages: Sequence[Stage],
    about: Mapping[str, Any],
    compared: Mapping[str, Any],
) -> None:
    """Keeps the tokenizer and a summary of the training beside the run."""
    with files.atomic_folder(job.run / TOKENIZER) as folder:
        tokenizer.save(folder)
        files.write_checksums(folder)
    lines = read_metrics(job.run)
    seen = retention(lines)
    summary = dict(about) | {
        "stages": [{"name": stage.name, "steps": stage.num_steps} for stage in stages],
        "model": job.config.model.to_dict(),
        "new_rows": job.config.sft.new_rows,
        "first_losses": compared["losses"],
        "retention": seen,
        "end": {name: lines[-1][name] for name in ("step", "reason", "best_metric", "best_step")},
    }
    files.write_json(job.run / RUN_SUMMARY, json.loads(json.dumps(summary)))


def retention(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what the monitor found, a step an entry, from the lines of `metrics.jsonl`."""
    return [
        {
            "step": line["step"],
            "stage": line["stage"],
            **{
                name.removeprefix(f"{RETENTION}/"): value
                for name, value in line.items()
                if name.startswith(f"{RETENTION}/")
            },
        }
        for line in lines
        if line["kind"] == "monitor" and line.get("monitor") == RETENTION
    ]
