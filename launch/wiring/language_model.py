"""The model of a language family: its checkpoint, the rows of new tokens, and what is trained."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float32
from ml_collections import ConfigDict

from launch.wiring.catalogue import (
    CODEBOOKS,
    SIDS,
    checked_sids,
)
from launch.wiring.language_catalogue import LanguageCatalogue
from launch.wiring.program import Job
from minirec import files
from minirec.files.schema import NUMBER, SHA256
from minirec.models import SidDecoder, sharding
from minirec.models.hf import load_checkpoint
from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.vocabulary import NEW_ROWS, fetched, grow, new_rows, split_rows
from minirec.models.warm_start import ridge_rows
from minirec.sids.latent_codebooks import load_codebooks
from minirec.training import Stage, TokenTask
from minirec.training.first_steps import first_losses

TRAINABLE = ("all", "sid_rows", "lora")
RIDGE = "ridge"

NEW_ROWS_FILE = "new_rows.json"
_NEW_ROWS = {"record": SHA256, "losses": {str: [NUMBER]}}


def load_model(config: ConfigDict, folder: Path, mesh: Mesh | None = None) -> SidDecoder:
    """Returns the model in a Hugging Face folder, to compute as the config says."""
    options = config.model
    return load_checkpoint(
        folder,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        mesh=mesh,
        remat=options.remat,
        scan_unroll=options.scan_unroll,
        dropout=options.dropout,
    )


def make_model(
    job: Job,
    folder: Path,
    catalogue: LanguageCatalogue,
    mesh: Mesh | None = None,
    start: str | None = None,
) -> SidDecoder:
    """Returns the model before fine-tuning: grown by new tokens, with what is trained beside it.

    Args:
        job: the config says what the new rows start from and what is trained.
        folder: the checkpoint.
        catalogue: its tokenizer's new tokens get rows.
        mesh: where the model goes.
        start: what new rows start from, in place of the config's.

    Raises:
        ValueError: the checkpoint does not fit, or the config asks for what cannot be.
    """
    config, tokenizer = job.config, catalogue.tokenizer
    model = load_model(config, folder, mesh)
    if tokenizer.added or tokenizer.size != model.config.vocab_size:
        rows = _new_rows(job, model, catalogue, start or config.sft.new_rows)
        model = grow(model, tokenizer.size, rows["embedding"], rows.get("head"))
    if config.sft.trainable == "lora":
        fields = config.sft.lora.to_dict()
        fields.pop("train_sid_rows")
        add_adapters(model, LoraConfig(**fields), seed=config.seed)
    if rows_apart(config):
        first = int(catalogue.trained_tokens[0])
        if len(catalogue.trained_tokens) != tokenizer.size - first:
            raise ValueError(
                f"{folder}: tokens {first} to {tokenizer.size - 1} are not just the SID tokens of "
                "this catalogue, so that their rows cannot be trained alone; set "
                "config.sft.trainable='all', or 'lora' with config.sft.lora.train_sid_rows=False"
            )
        split_rows(model, first)
    sharding.place(model, mesh)
    return model


def rows_apart(config: ConfigDict) -> bool:
    """Returns whether the SID tokens' rows are trained beside a frozen model."""
    sft = config.sft
    return sft.trainable == "sid_rows" or (sft.trainable == "lora" and sft.lora.train_sid_rows)


def trainable(config: ConfigDict) -> type[nnx.Param]:
    """Returns the filter of what is trained.

    Raises:
        ValueError: an unknown choice, or one that would store what is trained in bfloat16.
    """
    choice = config.sft.trainable
    if choice not in TRAINABLE:
        raise ValueError(f"config.sft.trainable={choice!r}: must be one of {', '.join(TRAINABLE)}")
    if choice == "all" and config.model.param_dtype != "float32":
        raise ValueError(
            f"config.model.param_dtype={config.model.param_dtype!r}: with "
            "config.sft.trainable='all' it must be 'float32', or small updates would be lost; "
            "config.model.dtype='bfloat16' computes in bfloat16"
        )
    return nnx.Param if choice == "all" else AddedParam


def _new_rows(
    job: Job, model: SidDecoder, catalogue: LanguageCatalogue, start: str
) -> dict[str, Float32[np.ndarray, "n D"]]:
    """Returns the added tokens' first rows, of the embedding and of an untied head."""
    tokenizer, sft, codes = catalogue.tokenizer, job.config.sft, catalogue.added_codes()
    codebooks = _codebooks(job) if start == "codebooks" else None
    first = tokenizer.size - len(tokenizer.added)
    rows = {}
    for number, name in enumerate(("embedding", "head")):
        own = getattr(model, name)
        if own is None:
            continue
        old, seed = own[...][:first], job.config.seed + number
        if start == RIDGE:
            rows[name] = ridge_rows(
                fetched(old),
                codes,
                catalogue.known.codes,
                _text_means(catalogue, fetched(old)),
                seed=seed,
                ridge_lambda=sft.ridge_lambda,
                max_fit_samples=sft.max_fit_samples,
            )
        elif start in NEW_ROWS:
            rows[name] = new_rows(start, old, codes, seed=seed, codebooks=codebooks)
        else:
            raise ValueError(
                f"config.sft.new_rows={start!r}: must be one of {', '.join((*NEW_ROWS, RIDGE))}"
            )
    return rows


def _text_means(
    catalogue: LanguageCatalogue, old: Float32[np.ndarray, "V D"]
) -> Float32[np.ndarray, "N D"]:
    """Returns the mean of the rows of each item's words; of no words, that of all rows."""
    ids, offsets = catalogue.tokenizer.encode_flat(list(catalogue.item_texts))
    item = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    is_old = ids < len(old)  # What looks like a new token has no row yet.
    item, ids = item[is_old], ids[is_old]
    count = np.bincount(item, minlength=len(offsets) - 1)
    shape = (len(count), len(old))
    share = scipy.sparse.csr_array((1.0 / count[item], (item, ids)), shape=shape)
    means = np.asarray(share @ old, np.float32)
    means[count == 0] = old.mean(axis=0)
    return means


def _codebooks(job: Job) -> tuple[Any, ...]:
    if given := job.config.sft.codebooks_path:
        return load_codebooks(Path(given))[0].codebooks
    path = job.sids / CODEBOOKS
    if not path.is_file():
        raise ValueError(
            f"config.sft.new_rows='codebooks' needs {path}, which launch.make_sids writes where it "
            "makes the SIDs itself; SIDs that were given came without: name the quantiser's file "
            "in config.sft.codebooks_path, or use 'ridge', 'mean' or 'random'"
        )
    checked_sids(job.sids, CODEBOOKS)
    codebooks, about, _ = load_codebooks(path)
    if about.get("sids_sha256") != files.sha256(job.sids / SIDS):
        raise ValueError(
            f"{path}: sids_sha256 is {about.get('sids_sha256')!r}: it belongs to other SIDs than "
            f"{job.sids / SIDS}"
        )
    return codebooks.codebooks


def starts(job: Job) -> tuple[str, ...]:
    """Returns what new rows can start from here: codebooks only where the SIDs were made."""
    has_codebooks = bool(job.config.sft.codebooks_path) or (job.sids / CODEBOOKS).is_file()
    return ("mean", "random", *(("codebooks",) if has_codebooks else ()), RIDGE)


def compare_new_rows(
    job: Job,
    catalogue: LanguageCatalogue,
    make_model: Any,
    task: TokenTask,
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
        before = read_new_rows(job)
        if before["record"] == of_run:
            return before
    losses: dict[str, list[float]] = {}
    if num_steps and catalogue.tokenizer.added:
        models = {start: functools.partial(make_model, start) for start in starts(job)}
        losses = first_losses(models, task, stage, num_steps, seed=job.config.seed, mesh=mesh)
    return {"record": of_run, "losses": losses}


def read_new_rows(job: Job) -> dict[str, Any]:
    """Returns the first losses that the run keeps, by start, and of which record they are.

    Raises:
        DamagedError: the file is not as it was written.
        OSError: it cannot be read.
    """
    remedy = "remove it: the steps are taken again"
    return files.read_sealed(job.run / NEW_ROWS_FILE, remedy, _NEW_ROWS)
