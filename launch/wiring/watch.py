"""The family `watch`: language models that watch histories teach, in several stages of one run.

A run leaves the best model of each stage as a Hugging Face folder W/runs/NAME/STAGE, that of the
last one as W/runs/NAME/final_model, adapters merged; `train_run_summary.json` says how it went,
`train_config_snapshot.json` with what settings.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from launch.wiring import language_model, made_with
from launch.wiring.catalogue import (
    SIDS,
    check_trained_on,
    fingerprints,
    load_prepared,
    require_sids,
)
from launch.wiring.experiment import Experiment
from launch.wiring.language import LanguageRun
from launch.wiring.program import Job
from launch.wiring.search import make_mesh
from launch.wiring.watch_catalogue import (
    WatchLanguageCatalogue,
    WatchPrompts,
    as_it_runs,
    load_catalogue,
    split_prompts,
    watch_config,
)
from launch.wiring.watch_training import (
    BASE,
    FINAL_MODEL,
    RETENTION,
    TASKS,
    fine_tune,
    retention,
)
from minirec import files
from minirec.serving.recommender import Prompts
from minirec.sids import SidTable
from minirec.training import read_metrics
from minirec.training.processes import first_alone, first_says
from pipelines.text.answers import answer_tokens
from pipelines.text.prompt_batches import PromptBatches
from pipelines.text.watch_tasks import made_tasks

_MODEL_REMEDY = "remove the folder and run launch.sft again: it is written anew"


@dataclasses.dataclass(frozen=True, eq=False)
class WatchRun(LanguageRun):
    """A model of watch histories that answers with SIDs.

    Attributes:
        said: what the run says of itself, for the report.
    """

    catalogue: WatchLanguageCatalogue
    said: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def split_batches(self, split: str, max_users: int) -> PromptBatches:
        """Returns the prompts of a split; see `Run`."""
        return split_prompts(self.catalogue, self.config, split, max_users)

    @functools.cached_property
    def prompts(self) -> Prompts:
        """The words of the rows with a masked item; see `Run`."""
        return WatchPrompts(self.catalogue, self.config.tasks.task_b_max_history)

    def tokens_of(self, table: SidTable) -> Int[np.ndarray, "N L"]:
        """Returns the tokens of the answers that name items; see `Run`."""
        catalogue = self.catalogue
        masked = self.config.tasks.words.masked
        return answer_tokens(catalogue.tokenizer, catalogue.sids_of(table), masked)

    @property
    def about(self) -> dict[str, Any]:
        """Whether it was fine-tuned, on what, and what it forgot, for `report.json`."""
        return {"fine_tuned": self.fine_tuned, **self.said}


def load_run(job: Job, *, with_appended: bool = False) -> WatchRun:
    """Returns the run's model.

    Args:
        job: whose run.
        with_appended: must be False: this family has no items that came later.

    Raises:
        ValueError: data, SIDs and run do not belong together, or the run is not trained to its end.
    """
    if with_appended and (job.sids / "appended.json").is_file():
        raise ValueError(
            f"{job.sids / 'appended.json'}: the family 'watch' writes SIDs as their file spells "
            "them; make the SID file anew with the new items in it"
        )
    job = as_it_runs(job)
    config = job.config
    mesh = make_mesh(config)
    prepared = load_prepared(job)
    folder = job.run / FINAL_MODEL
    if not first_says(folder.is_dir()):
        raise ValueError(f"{folder} is missing: train the run to its end with launch.sft")
    first_alone(lambda: files.check_folder(folder, remedy=_MODEL_REMEDY))
    record = made_with.check_run(job)
    require_sids(job, job.run)
    catalogue = load_catalogue(job, prepared, job.run, folder, mesh)
    if catalogue.tokenizer.added:
        raise ValueError(
            f"{folder}: its tokenizer lacks {len(catalogue.tokenizer.added)} tokens, such as "
            f"{catalogue.tokenizer.added[0]!r}; {_MODEL_REMEDY}"
        )
    here = fingerprints(prepared, job.run / SIDS, catalogue.tokenizer.size)
    summary = made_tasks(watch_config(job), job.workdir / TASKS)
    check_trained_on(job, record, here | {"tasks": summary["outputs"]})
    about = files.read_sealed(job.run / BASE, "train the run again with --overwrite")
    said = about | {RETENTION: retention(read_metrics(job.run))}
    losses = language_model.read_new_rows(job)["losses"]
    model = language_model.load_model(config, folder, mesh)
    return WatchRun(config, catalogue, model, mesh, losses, True, said)


EXPERIMENT = Experiment(fine_tune, load_run)
