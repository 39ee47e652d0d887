"""The family `text`: a language model of one's own, trained from nothing on a corpus.

`load` gives a trained one with its tokenizer to whoever writes text with it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from launch.wiring import made_with, training
from launch.wiring.experiment import Experiment, Training
from launch.wiring.program import Job, UsageError
from launch.wiring.text_corpus import load_corpus, load_tokenizer
from launch.wiring.text_report import report
from launch.wiring.text_run import (
    SAMPLES,
    TextRun,
    load,
    make_model,
    read_texts,
    require_shape,
    samples,
    sampling_settings,
    text_measure,
    trained_on,
)
from minirec import files
from minirec.evaluation.words import words_of
from minirec.models.depth import learning_rate_of_width
from minirec.training import Monitor, Stage, TokenTask
from pipelines.text.document_batches import document_tokens, document_windows
from pipelines.text.pieces import Pieces
from pipelines.text.row_batches import RowsConfig, row_batches

__all__ = ["EXPERIMENT", "METADATA", "TextRun", "load", "metadata", "training_of"]

METADATA = "metadata.json"
"""Says beside the checkpoints what model and tokenizer they are of."""

_SELECT_METRIC = "compression"


def training_of(job: Job) -> Training:
    """Returns what trains a language model as the job's config says.

    Raises:
        ValueError: a step before this one has not run, or the config asks for what cannot be.
    """
    config = job.config
    decoder = require_shape(config)
    mesh = training.fitting_mesh(config)
    corpus = load_corpus(job)
    pieces, tokenizer = load_tokenizer(job)
    texts = read_texts(job)
    if config.train.eval_every and not texts.valid:
        raise UsageError(
            f"config.train.eval_every={config.train.eval_every}: config.evaluate.valid_ratio=0 "
            "leaves no documents to select by; set eval_every=0, or a valid_ratio above 0"
        )
    loader = config.loader.to_dict()
    shifts = loader.pop("shifts")
    rows = document_windows(document_tokens(texts.train, pieces), config.loader.row_tokens, shifts)
    batches = row_batches(
        {"documents": rows},
        {"documents": 1.0},
        RowsConfig(**loader),
        seed=config.seed,
        pad=pieces.pad_id,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    rated = config.copy_and_resolve_references()
    rated.train.learning_rate = config.train.learning_rate or learning_rate_of_width(
        decoder.trunk.width
    )
    settings, stage_options, label_smoothing = training.train_settings(
        dataclasses.replace(job, config=rated), batches.num_rows
    )
    task = TokenTask(
        text_measure(config, texts.valid, pieces) if config.train.eval_every else lambda _: {},
        select_metric=_SELECT_METRIC,
        label_smoothing=label_smoothing,
        logits_at_once=config.model.logits_at_once,
    )

    def keep() -> None:
        files.write_json(job.run / METADATA, metadata(config, pieces, corpus, tokenizer))

    return Training(
        make_model=lambda: make_model(config, pieces),
        task=task,
        stages=[Stage("train", lambda: batches, **stage_options)],
        settings=settings,
        record={
            "config": made_with.run_part(config),
            **trained_on(corpus, tokenizer),
        },
        describe_batch=batches.describe,
        mesh=mesh,
        keep=keep,
        monitors=_monitors(config, pieces),
    )


def metadata(
    config: ConfigDict, pieces: Pieces, corpus: dict[str, Any], tokenizer: dict[str, Any]
) -> dict[str, Any]:
    """Returns what `metadata.json` holds."""
    shape = require_shape(config)
    model = nnx.eval_shape(lambda: make_model(config, pieces))
    sizes = (leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return {
        "model": {
            "trunk": dataclasses.asdict(shape.trunk),
            "vocab_size": pieces.vocab_size,
            "tie_embeddings": shape.tie_embeddings,
            "parameters": sum(sizes),
            "row_tokens": config.loader.row_tokens,
        },
        "tokenizer": {
            "kind": tokenizer["kind"],
            "bytes_per_token": tokenizer["bytes_per_token"],
            "unk_id": pieces.unk_id,
            "bos_id": pieces.bos_id,
            "eos_id": pieces.eos_id,
            "pad_id": pieces.pad_id,
            "files": tokenizer["files"],
        },
        "corpus": corpus["fingerprint"],
    }


def _monitors(config: ConfigDict, pieces: Pieces) -> list[Monitor]:
    """Returns the monitor of what the model writes, where the config asks for one."""
    sampling_settings(config)  # What cannot be is said before anything is trained.
    if not config.sampling.every or not config.sampling.prompts or jax.process_count() > 1:
        return []

    def measure(model: Any) -> dict[str, float | str]:
        found = samples(config, model, pieces)
        words = [word for sample in found for word in words_of(sample["text"])]
        texts = {str(number): sample["text"] for number, sample in enumerate(found)}
        return {"distinct_words": len(set(words)) / max(len(words), 1), **texts}

    return [Monitor(SAMPLES, measure, config.sampling.every, "distinct_words")]


EXPERIMENT = Experiment(training_of, load, report=report)
