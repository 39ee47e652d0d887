"""The family `language`: Hugging Face checkpoints, fine-tuned on SID tasks.

A run keeps its best model, adapters merged, as a Hugging Face folder W/runs/NAME/model. Where no
run has begun, the checkpoint that the config names recommends as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from launch.wiring import made_with, training
from launch.wiring.catalogue import (
    APPENDED,
    SIDS,
    check_trained_on,
    fingerprints,
    keep_sids,
    load_prepared,
    require_sids,
)
from launch.wiring.experiment import Experiment, Run, Training
from launch.wiring.language_catalogue import (
    LanguageCatalogue,
    TextPrompts,
    base_folder,
    fingerprint,
    load_catalogue,
    split_prompts,
)
from launch.wiring.language_model import (
    NEW_ROWS_FILE,
    compare_new_rows,
    load_model,
    make_model,
    read_new_rows,
    trainable,
)
from launch.wiring.program import Job
from launch.wiring.search import make_mesh
from minirec import files
from minirec.decoding.ranking import RankedUsers
from minirec.models import SidDecoder, sharding
from minirec.models.hf import save_checkpoint
from minirec.models.vocabulary import merged
from minirec.serving.recommender import Prompts
from minirec.sids import SidTable
from minirec.training import Stage, TokenTask, as_record, run_folder
from minirec.training.processes import first_alone, first_says, is_first
from pipelines.text.answers import answer_tokens, sid_tuples
from pipelines.text.prompt_batches import PromptBatches
from pipelines.text.sft_batches import SftConfig, sft_batches
from pipelines.text.tokenizer import TextTokenizer

MODEL = "model"
"""The folder of the fine-tuned model in the run's."""
_MODEL_REMEDY = "remove the folder and run launch.train again: it is written anew"


def sft_config(config: ConfigDict) -> SftConfig:
    """Returns the loader's settings from `config.loader`."""
    fields = config.loader.to_dict()
    fields["row_tokens"] = fields["row_tokens"] or None
    return SftConfig(**fields)


def fine_tune(job: Job) -> Training:
    """Returns what fine-tunes the checkpoint that the job's config names.

    Raises:
        ValueError: a step before this one has not run, or the config asks for what cannot be.
    """
    config = job.config
    filtered = trainable(config)
    mesh = training.checked_mesh(config)
    prepared = load_prepared(job)
    require_sids(job, job.sids)
    folder = base_folder(job, prepared)
    catalogue = load_catalogue(job, prepared, job.sids, folder, mesh)
    if is_first():
        known = len(catalogue.sid_token_ids) - len(catalogue.tokenizer.added)
        print(f"sid_tokens={len(catalogue.sid_token_ids)} in_the_checkpoint={known}")
    batches = sft_batches(
        prepared,
        catalogue.table,
        catalogue.tokenizer,
        catalogue.templates,
        sft_config(config),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    settings, stage_options, label_smoothing = training.train_settings(job, batches.num_rows)
    stage = Stage("sft", lambda: batches, trainable=filtered, **stage_options)
    task = TokenTask(
        validator(config, catalogue, functools.partial(split_prompts, catalogue, config), mesh),
        select_metric=training.SELECT_METRIC,
        label_smoothing=label_smoothing,
        logits_at_once=config.sft.logits_at_once or None,
    )
    record = run_record(job, catalogue, folder)
    of_run = record | as_record(settings, [stage])
    new_model = functools.partial(make_model, job, folder, catalogue, mesh)
    compared = compare_new_rows(job, catalogue, new_model, task, stage, mesh, of_run)

    def keep() -> None:
        keep_sids(job)
        if not run_folder.has_begun(job.run):
            # What another run here has left, or the evaluation of a checkpoint as it was.
            shutil.rmtree(job.run / MODEL, ignore_errors=True)
        files.write_sealed(job.run / NEW_ROWS_FILE, compared)

    def finish(load_best_model: Callable[[], Any]) -> None:
        if not first_says((job.run / MODEL).is_dir()):
            save_model(job, load_best_model(), catalogue.tokenizer, folder, mesh)

    return Training(
        make_model=new_model,
        task=task,
        stages=[stage],
        settings=settings,
        record=record,
        describe_batch=batches.describe,
        mesh=mesh,
        keep=keep,
        finish=finish,
    )


def validator(
    config: ConfigDict,
    catalogue: LanguageCatalogue,
    prompts: Callable[[str, int], Any],
    mesh: Mesh | None,
) -> Callable[[Any], dict[str, float]]:
    """Returns `training.make_validator`'s function for models with adapters, which it merges."""
    validate_plain = training.make_validator(config, catalogue, prompts, mesh)

    def validate(model: SidDecoder) -> dict[str, float]:
        plain = merged(model)
        sharding.place(plain, mesh)
        return validate_plain(plain)

    return validate


def save_model(
    job: Job,
    model: SidDecoder,
    tokenizer: TextTokenizer,
    like: Path,
    mesh: Mesh | None,
    name: str = MODEL,
) -> None:
    """Writes the model, with all that was trained beside it merged, as a Hugging Face folder."""
    plain = merged(model)
    sharding.place(plain, mesh)
    folder = job.run / name
    partial = folder.with_name(f".{folder.name}.partial")
    model_type = files.read_json(like / "config.json", {"model_type": str})["model_type"]
    save_checkpoint(plain, partial, like=like, model_type=model_type, overwrite=True)

    def finish() -> None:
        tokenizer.save(partial)
        files.write_checksums(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    first_alone(finish)


def run_record(job: Job, catalogue: LanguageCatalogue, folder: Path) -> dict[str, Any]:
    """Returns what makes a run this one: settings that change it, and what it was trained on."""
    prepared = catalogue.prepared
    return {
        "config": made_with.run_part(job.config),
        "checkpoint": fingerprint(folder),
        "data": prepared.manifest["config"],
        **fingerprints(prepared, job.sids / SIDS, catalogue.tokenizer.size),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageRun(Run):
    """A language model that answers with SIDs.

    Attributes:
        losses: of the first steps from each start of the new tokens' rows.
        fine_tuned: whether there is a run behind the model.
    """

    catalogue: LanguageCatalogue
    model: SidDecoder
    losses: Mapping[str, Sequence[float]]
    fine_tuned: bool

    def split_batches(self, split: str, max_users: int) -> PromptBatches:
        """Returns the prompts of a split; see `Run`."""
        return split_prompts(self.catalogue, self.config, split, max_users)

    @functools.cached_property
    def prompts(self) -> Prompts:
        """The words of the config's prompt; see `Run`."""
        return TextPrompts(self.catalogue, self.config)

    def tokens_of(self, table: SidTable) -> Int[np.ndarray, "N L"]:
        """Returns the tokens of the answers that name items; see `Run`."""
        catalogue = self.catalogue
        response = catalogue.templates[self.config.evaluate.prompt].response
        return answer_tokens(catalogue.tokenizer, sid_tuples(table), response)

    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the codes of the beams; see `Run`."""
        return self.catalogue.codes(ranked)

    @property
    def is_trained(self) -> bool:
        """Whether it was fine-tuned; see `Run`."""
        return self.fine_tuned

    @property
    def about(self) -> dict[str, Any]:
        """Whether it was fine-tuned, for `report.json`."""
        return {"fine_tuned": self.fine_tuned}

    @property
    def first_losses(self) -> Mapping[str, Sequence[float]]:
        """Losses of the first steps from each start; see `Run`."""
        return self.losses


def load_run(job: Job, *, with_appended: bool = False) -> LanguageRun:
    """Returns the run's fine-tuned model, or the checkpoint as it is where none has begun.

    Args:
        job: whose run.
        with_appended: see `Experiment`.

    Raises:
        ValueError: data, SIDs and run do not belong together, the run is not trained to its end, or
            a checkpoint lacks SID tokens.
    """
    config = job.config
    mesh = make_mesh(config)
    prepared = load_prepared(job)
    folder, sids = job.run / MODEL, job.run
    trained = first_says(folder.is_dir())
    if trained:
        first_alone(lambda: files.check_folder(job.run / MODEL, remedy=_MODEL_REMEDY))
        record = made_with.check_run(job)
    else:
        if first_says((job.run / "config.json").is_file()):
            raise ValueError(
                f"{folder} is missing: the run is not trained to its end; go on with launch.train"
            )
        folder, sids, record = base_folder(job, prepared), job.sids, {}
    require_sids(job, sids)
    appended = job.sids / APPENDED if with_appended else None
    catalogue = load_catalogue(job, prepared, sids, folder, mesh, appended)
    if catalogue.tokenizer.added:
        raise ValueError(
            f"{folder}: its tokenizer lacks {len(catalogue.tokenizer.added)} SID tokens, such as "
            f"{catalogue.tokenizer.added[0]!r}, so that there is nothing to recommend; fine-tune "
            "it with launch.train"
        )
    losses = {}
    if trained:
        here = fingerprints(prepared, job.run / SIDS, catalogue.tokenizer.size)
        check_trained_on(job, record, here)
        if (job.run / NEW_ROWS_FILE).is_file():
            losses = read_new_rows(job)["losses"]
    model = load_model(config, folder, mesh)
    return LanguageRun(config, catalogue, model, mesh, losses, trained)


EXPERIMENT = Experiment(fine_tune, load_run)
