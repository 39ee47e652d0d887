"""The training loop: one function, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from minirec.files import DamagedError
from minirec.models.sharding import place, put_rows
from minirec.training import processes, run_folder
from minirec.training.checkpoints import (
    Checkpoints,
    Position,
    checkpoints_are_whole,
    load_best,
    load_last,
)
from minirec.training.config import Stage, TrainConfig, as_record, check_stages
from minirec.training.early_stop import EarlyStop
from minirec.training.interrupts import AbandonedError, StopSignals
from minirec.training.metrics_log import (
    FINAL,
    METRICS_FILE,
    MetricsLog,
    check_prefix,
    read_metrics,
)
from minirec.training.monitors import Monitor, Watch
from minirec.training.optimizer import make_optimizer, make_schedule
from minirec.training.progress import ProgressBar
from minirec.training.reporter import Clock, NonFiniteError, Reporter
from minirec.training.result import TrainResult
from minirec.training.step import TrainState, TrainStep
from minirec.training.tasks.task import Task, array_inputs, leading_axis


def train(
    model: nnx.Module,
    task: Task,
    stages: Sequence[Stage],
    config: TrainConfig,
    *,
    record: Mapping[str, Any] | None = None,
    describe_batch: Callable[[Any], str] | None = None,
    mesh: Mesh | None = None,
    on_claimed: Callable[[], None] | None = None,
    on_line: Callable[[Mapping[str, Any]], None] | None = None,
    monitors: Sequence[Monitor] = (),
    on_stage_end: Callable[[Stage, Callable[[], nnx.Module]], None] | None = None,
) -> TrainResult:
    """Trains a model through its stages, or goes on where an earlier call was stopped.

    Called again with the same arguments after a kill at any moment, it goes on from the newest
    checkpoint, and losses and parameters are bit-equal to those of a run that was never stopped
    (on the same machine). SIGTERM and SIGINT make it finish the step, save and return. Called
    after the end, it returns the result at once.

    Args:
        model: the model with its first values. Its buffers are donated; when the function returns
            it holds the newest values, and `load_best` gives the best ones.
        task: what to learn and what to select by.
        stages: what to train on, in a row.
        config: seed, periods and the run's folder.
        record: what makes two runs the same, as a JSON object: kept in `config.json` and compared
            on resume. Default: what `as_record(config, stages)` returns.
        describe_batch: says where in the data a batch comes from, for errors.
        mesh: several devices, perhaps of several processes, which all call this at once
            (`minirec.models.sharding` says what lies where). Each process's batches are its own
            part of the whole, all see one run's folder, and the first alone writes there.
        on_claimed: called once the folder is known to be this run's and no one else's, before
            anything is trained, by the first process: the place to put files beside the run.
        on_line: called by the first process with each line of `metrics.jsonl` as it is written.
        monitors: what is measured beside the task; see `minirec.training.monitors`.
        on_stage_end: called in every process at the end of each stage, with the stage and with what
            loads the best model so far; again where a kill came soon after it.

    Raises:
        RunFolderError: the folder holds another run, or another process trains there.
        MismatchError: the model is not the one that the folder's checkpoints hold.
        NonFiniteError: training stopped; the message names the step and the batch.
        ValueError: the arguments are wrong, a stage's batches end too early, or another process
            could not begin.
    """
    stages = check_stages(stages)
    folder = Path(config.folder)
    record = as_record(config, stages) if record is None else record
    is_writer = processes.is_first()
    total_steps = sum(stage.num_steps for stage in stages)
    inputs_of = getattr(task, "inputs", array_inputs)
    count_examples = getattr(task, "count_examples", leading_axis)

    with contextlib.ExitStack() as stack:
        # From here on, a signal waits for the loop to come to its next safe place.
        signals = stack.enter_context(StopSignals())
        stop_here = processes.StopAgreement(signals, mesh)

        # The folder is ours alone, and of this configuration.
        def claim() -> None:
            stack.enter_context(run_folder.locked(folder))
            run_folder.claim(folder, record, overwrite=config.overwrite)
            if on_claimed is not None:
                on_claimed()

        processes.first_alone(claim)
        place(model, mesh)

        # A finished run has a final line, written after everything else.
        if (final := _finished(folder)) is not None:
            nnx.update(model, nnx.state(load_last(folder, model)))
            if is_writer:
                print(f"{folder}: this run is finished: {final.describe()}", file=sys.stderr)
            return final

        # Resume, in this order:
        # 1. model, optimizer and position, from the newest checkpoint that is whole, as is
        #    metrics.jsonl until then;
        checkpoints = Checkpoints(folder, keep_last=config.keep_last)
        stack.callback(checkpoints.close)

        def check_position(at: Position) -> None:
            if at.stage >= len(stages) or at.step_in_stage > stages[at.stage].num_steps:
                raise DamagedError(
                    f"{checkpoints.last_folder / str(at.step)}: holds step {at.step_in_stage} of "
                    f"stage {at.stage}, which the run does not have"
                )
            check_prefix(folder / METRICS_FILE, at.metrics_bytes, at.metrics_sha256)

        def first_optimizer(index: int) -> nnx.Optimizer:
            return new_optimizer(model, stages[index], mesh)

        try:
            restored = checkpoints.restore_newest(model, first_optimizer, check_position)
        except DamagedError:
            if is_writer:
                run_folder.forget_overwrite(folder)
            raise
        if restored is None:
            position, restored_optimizer = Position.start(config.seed), None
        else:
            position, restored_model, restored_optimizer = restored
            nnx.update(model, restored_model)
        early_stop = EarlyStop(**position.early_stop)
        step, evaluated_step = position.step, position.evaluated_step
        # 2. the best model, if the kill came between the last and the best of one step, or it has
        #    been damaged since;
        wanted = early_stop.best_step
        if wanted is not None and wanted != (best_step := checkpoints.best_step()):
            found = restored
            if wanted != step:
                found = checkpoints.restore_step(model, first_optimizer, wanted)
            if found is not None:
                checkpoints.save_best(TrainState(*found[1:]).evaluated, wanted)
            elif is_writer and (best_step is None or best_step < step):
                print(
                    f"{folder}: the best model, of step {wanted}, is lost, and no checkpoint of "
                    "that step is left; a better one will take its place if there is one, and "
                    "overwrite=True (--overwrite) starts anew",
                    file=sys.stderr,
                )
        # 3. metrics.jsonl and TensorBoard, cut back to the checkpoint;
        log = MetricsLog(
            folder,
            keep_bytes=position.metrics_bytes,
            step=step,
            tensorboard=config.tensorboard,
            enabled=is_writer,
            on_line=on_line,
        )
        stack.callback(log.close)
        # 4. the loader: below, in the stage that the position names.

        clock = Clock(position.seconds)
        progress = stack.enter_context(
            ProgressBar(total_steps, done=step, enabled=config.progress and is_writer)
        )
        if restored is not None:
            progress.note(f"{folder}: going on after step {step} of {total_steps}")
        reporter = Reporter(
            log,
            progress,
            clock,
            log_every=config.log_every,
            describe_batch=describe_batch,
            window=position.window,
        )
        before = read_metrics(folder) if monitors and restored is not None else []
        watch = Watch(monitors, before, step)
        traces = 0

        def result(reason: str) -> TrainResult:
            return TrainResult(
                step=step,
                reason=reason,
                select_metric=task.select_metric,
                best_metric=early_stop.best,
                best_step=early_stop.best_step,
                seconds=clock.seconds,
                resumed_from=None if restored is None else position.step,
                traces=traces,
            )

        # The module stays behind while its buffers are donated; it gets the values back.
        state = TrainState(nnx.state(model), nnx.State({}))
        stack.callback(lambda: nnx.update(model, state.model))

        for index in range(position.stage, len(stages)):
            stage = stages[index]
            optimizer = new_optimizer(model, stage, mesh)
            batches = stage.batches()
            stack.callback(getattr(batches, "close", lambda: None))  # It may have processes.
            if restored_optimizer is not None:
                nnx.update(optimizer, restored_optimizer)
                try:
                    batches.set_state(position.loader)
                except ValueError as error:
                    saved = checkpoints.last_folder / str(position.step)
                    raise ValueError(f"{saved}: {error}") from error
                step_in_stage, restored_optimizer = position.step_in_stage, None
            else:
                step_in_stage = 0
                early_stop.start_stage(forget_best=config.best_of == "stage")
            train_step = TrainStep(
                model,
                optimizer,
                task,
                schedule=make_schedule(stage.optimizer, stage.num_steps),
                accumulate=stage.accumulate,
                seed=config.seed,
                mesh=mesh,
                trainable=stage.trainable,
                # An average takes in what stays as it is, too.
                narrows=not stage.optimizer.average_decay,
            )
            state = train_step.start()

            while True:
                ended = step_in_stage == stage.num_steps or watch.halts

                # Look at what is watched beside the task. A signal waits for it.
                for monitor in watch.due(step, ended=ended):
                    reporter.drain()
                    with clock.paused():
                        line, told = watch.measure(
                            monitor, train_step.model(state), step, stage.name
                        )
                        log.write(line | {"seconds": clock.seconds})
                        progress.note(told or _measures(line))
                ended = ended or watch.halts

                # Evaluate, unless the checkpoint that we resumed from was saved after that.
                is_best = False
                owes_evaluation = (
                    config.eval_every > 0
                    and (ended or step % config.eval_every == 0)
                    and step not in (0, evaluated_step)
                )
                if owes_evaluation:
                    reporter.drain()
                    with clock.paused(), contextlib.suppress(AbandonedError):
                        with signals.abandoning():
                            metrics = task.evaluate(train_step.model(state))
                        value = _selecting(metrics, task, step)
                        is_best = early_stop.update(value, step)
                        evaluated_step, owes_evaluation = step, False
                        log.write(
                            {
                                "kind": "eval",
                                "step": step,
                                "stage": stage.name,
                                **{f"eval/{name}": metrics[name] for name in metrics},
                                "is_best": is_best,
                                "seconds": clock.seconds,
                            }
                        )
                        progress.note(
                            f"step {step}: {task.select_metric} {value:.4f}, best "
                            f"{early_stop.best:.4f} at step {early_stop.best_step}"
                        )
                ended = ended or early_stop.exhausted(config.patience)
                stopping = stop_here()

                # Save where the run stands, then the best model: whatever a kill leaves undone,
                # the resume above mends.
                due = config.checkpoint_every and step % config.checkpoint_every == 0
                if step > 0 and (due or ended or step == evaluated_step or stopping):
                    reporter.drain()
                    with clock.paused():
                        log.sync()
                        position_now = Position(
                            step=step,
                            stage=index,
                            step_in_stage=step_in_stage,
                            seed=config.seed,
                            loader=batches.get_state(),
                            evaluated_step=evaluated_step,
                            early_stop=dataclasses.asdict(early_stop),
                            window=reporter.window,
                            metrics_bytes=log.num_bytes,
                            metrics_sha256=log.sha256,
                            seconds=clock.seconds,
                        )
                        checkpoints.save_last(state.model, state.optimizer, position_now)
                        if is_best:
                            checkpoints.save_best(state.evaluated, step)

                if ended and not owes_evaluation:
                    break
                if stopping:
                    progress.note(f"stopped by a signal after step {step}; the state is saved")
                    return result("interrupted")

                # One step. The device is still at the one before while the host fetches a batch.
                try:
                    batch = next(batches)
                except StopIteration:
                    raise ValueError(
                        f"stage {stage.name!r}: its batches ended after {step_in_stage} of "
                        f"num_steps={stage.num_steps}; make_batches must repeat the data"
                    ) from None
                inputs = inputs_of(batch)
                if mesh is not None:
                    inputs = put_rows(inputs, mesh)
                state, step_metrics = train_step(state, inputs, step)
                step, step_in_stage = step + 1, step_in_stage + 1
                # A process sees its own part of the batch; the others' are about as large.
                examples = count_examples(batch) * jax.process_count()
                reporter.add(step, stage.name, batch, examples, step_metrics)

            traces += train_step.traces
            nnx.update(model, state.model)
            if not config.eval_every:
                checkpoints.save_best(state.evaluated, step)
            if on_stage_end is not None:
                on_stage_end(stage, lambda: load_best(folder, model))
            if watch.halts:
                break

        reason = "early_stop" if early_stop.exhausted(config.patience) else "finished"
        reason = "monitor" if watch.halts else reason
        final = result(reason)
        log.write({"kind": FINAL, "stage": stages[-1].name, **final.as_record()})
        progress.note(f"{folder}: {final.describe()}")
        return final


def _finished(folder: Path) -> TrainResult | None:
    """Returns how a run ended; None where it is not at its end, or a file of it is not whole.

    What is wrong is said on standard error; going on from a checkpoint mends it.
    """
    lines = []
    try:
        lines = read_metrics(folder)
    except ValueError as error:
        if processes.is_first():
            print(error, file=sys.stderr)
    if not processes.everywhere(bool(lines) and lines[-1]["kind"] == FINAL):
        return None
    return TrainResult.from_record(lines[-1]) if checkpoints_are_whole(folder) else None


def _measures(line: Mapping[str, Any]) -> str:
    """Returns a monitor's line in words."""
    found = (
        f"{name} {value:.4g}"
        for name, value in line.items()
        if "/" in name and not isinstance(value, str)
    )
    return f"step {line['step']}: {', '.join(found)}"


def new_optimizer(model: nnx.Module, stage: Stage, mesh: Mesh | None) -> nnx.Optimizer:
    """Returns a stage's optimizer before its first step, laid out on the mesh."""
    transform = make_optimizer(stage.optimizer, stage.num_steps)
    optimizer = nnx.Optimizer(model, transform, wrt=stage.trainable)
    place(optimizer, mesh)
    return optimizer


def _selecting(metrics: Mapping[str, float], task: Task, step: int) -> float:
    """Returns the value that selects.

    Raises:
        ValueError: it is not among the metrics.
        NonFiniteError: it is no number.
    """
    name = task.select_metric
    if name not in metrics:
        raise ValueError(
            f"select_metric={name!r} is not among what evaluate returned: {sorted(metrics)}"
        )
    if not math.isfinite(metrics[name]):
        raise NonFiniteError(f"evaluation at step {step}: {name} is {metrics[name]}")
    return float(metrics[name])
