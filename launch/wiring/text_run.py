"""A trained language model of one's own, and what is read, measured and written with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from launch.wiring import made_with
from launch.wiring.catalogue import check_trained_on
from launch.wiring.program import Job, UsageError
from launch.wiring.search import make_mesh
from launch.wiring.text_corpus import load_corpus, load_tokenizer, text_folder
from minirec.decoding import Sampler, SamplingSettings
from minirec.evaluation.text_scores import TextMeasure, Windows
from minirec.evaluation.words import beginnings, words_of
from minirec.files.schema import require_whole
from minirec.models import SidDecoder, SidDecoderConfig, sharding
from minirec.models.depth import trunk_of_depth
from minirec.training import load_best
from pipelines.text.document_batches import document_text, document_tokens, read_documents
from pipelines.text.passages import EVAL, TRAIN
from pipelines.text.pieces import Pieces

SAMPLES = "samples"
"""The monitor of what a model writes as training goes."""

_NO_SAMPLING = ("prompts", "every")


@dataclasses.dataclass(frozen=True, eq=False)
class TextRun:
    """A trained language model.

    Attributes:
        config: the experiment.
        model: the run's best model.
        pieces: its tokenizer.
        mesh: the devices that it lies on; None for one.
    """

    config: ConfigDict
    model: SidDecoder
    pieces: Pieces
    mesh: Mesh | None

    def sampler(self, **options: Any) -> Sampler:
        """Returns what writes text with the model; `options` are further ones of `Sampler`."""
        return text_sampler(self.config, self.model, self.pieces, **options)

    def prompt(self, text: str) -> list[int]:
        """Returns the tokens of a text that begins a document."""
        return prompt_tokens(self.pieces, text)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The documents of a run, as whole texts.

    Attributes:
        train: what is trained on.
        valid: what selects the best model.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]


def load(job: Job, **options: Any) -> TextRun:
    """Returns the best model of a job's run, and its tokenizer.

    Args:
        job: whose run.
        **options: of other families; they change nothing.

    Raises:
        ValueError: there is no such run, or it was trained with other data or settings.
        FileNotFoundError: the run has saved no model yet.
    """
    del options
    corpus = load_corpus(job)
    pieces, tokenizer = load_tokenizer(job)
    if not (job.run / "config.json").is_file():
        raise UsageError(f"{job.run / 'config.json'} is missing: run launch.train first")
    trained = made_with.check_run(job)
    check_trained_on(job, trained, trained_on(corpus, tokenizer))
    mesh = make_mesh(job.config)
    model = nnx.eval_shape(lambda: make_model(job.config, pieces))
    sharding.place(model, mesh)
    return TextRun(job.config, load_best(job.run, model), pieces, mesh)


def require_shape(config: ConfigDict) -> SidDecoderConfig:
    """Returns the model's shape but for its vocabulary, which counts as 1.

    Raises:
        ValueError: sizes that cannot be.
    """
    fields = config.model.to_dict()
    tied = fields.pop("tie_embeddings")
    if fields.pop("logits_at_once") < 1:
        raise UsageError("config.model.logits_at_once: must be at least 1")
    try:
        return SidDecoderConfig(trunk_of_depth(**fields), 1, tied)
    except ValueError as error:
        raise UsageError(f"config.model: {error}") from error


def make_model(config: ConfigDict, pieces: Pieces) -> SidDecoder:
    """Returns the model that a config describes, with weights drawn by its seed."""
    shape = dataclasses.replace(require_shape(config), vocab_size=pieces.vocab_size)
    return SidDecoder(shape, rngs=nnx.Rngs(config.seed))


def read_texts(job: Job) -> Texts:
    """Returns the training documents of a job, cut into those to train on and to select by.

    Raises:
        ValueError: there are too few documents to hold any out.
    """
    ratio = job.config.evaluate.valid_ratio
    if not 0 <= ratio < 1:
        raise UsageError(f"config.evaluate.valid_ratio={ratio}: must lie in [0, 1)")
    documents = read_documents(text_folder(job) / TRAIN)
    texts = [document_text(document, joiner(job.config)) for document in documents]
    held_out = max(1, round(ratio * len(texts))) if ratio else 0
    if held_out >= len(texts):
        raise UsageError(
            f"config.evaluate.valid_ratio={ratio} holds out {held_out} of {len(texts)} documents: "
            "none is left to train on; set it to 0, with config.train.eval_every=0"
        )
    order = np.random.default_rng(job.config.seed).permutation(len(texts))
    chosen = set(order[:held_out].tolist())
    return Texts(
        tuple(text for number, text in enumerate(texts) if number not in chosen),
        tuple(text for number, text in enumerate(texts) if number in chosen),
    )


def split_texts(job: Job, split: str) -> tuple[str, ...]:
    """Returns the documents of "valid" or "test".

    Raises:
        ValueError: the run holds out none for "valid".
    """
    if split == "test":
        documents = read_documents(text_folder(job) / EVAL)
        return tuple(document_text(document, joiner(job.config)) for document in documents)
    texts = read_texts(job).valid
    if not texts:
        raise UsageError(
            "--split=valid: config.evaluate.valid_ratio=0 holds out no documents; take --split=test"
        )
    return texts


def joiner(config: ConfigDict) -> str:
    """Returns what stands between a document's passages."""
    return "" if config.corpus.whitespace == "keep" else "\n"


def text_measure(
    config: ConfigDict, texts: Sequence[str], pieces: Pieces, overlap: int = 0
) -> TextMeasure:
    """Returns the measure of a model on documents.

    Raises:
        ValueError: a batch of no windows, or an overlap that leaves nothing of one to measure.
    """
    require_whole("config.evaluate.batch_size", config.evaluate.batch_size)
    try:
        windows = Windows.of_documents(
            document_tokens(texts, pieces), config.loader.row_tokens, overlap
        )
    except ValueError as error:
        raise UsageError(f"config.evaluate.overlap={overlap}: {error}") from error
    return TextMeasure(
        windows,
        beginnings(surfaces(pieces), (pieces.eos_id,)),
        sum(len(text.encode()) for text in texts),
        sum(len(words_of(text)) for text in texts),
        config.evaluate.batch_size,
    )


def surfaces(pieces: Pieces) -> list[str]:
    """Returns each token's text."""
    return [pieces.decode([token]) for token in range(pieces.vocab_size)]


def prompt_tokens(pieces: Pieces, text: str) -> list[int]:
    """Returns the tokens of a text that begins a document."""
    return [pieces.bos_id, *pieces.encode([text])[0].tolist()]


def text_sampler(config: ConfigDict, model: Any, pieces: Pieces, **options: Any) -> Sampler:
    """Returns what writes text with a model; `options` are further ones of `Sampler`."""
    options = {"context": config.loader.row_tokens} | options
    return Sampler(model, ends=(pieces.eos_id,), decode=pieces.decode, **options)


def sampling_settings(config: ConfigDict) -> SamplingSettings:
    """Returns how samples are drawn.

    Raises:
        ValueError: a setting that cannot be.
    """
    fields = config.sampling.to_dict()
    fields = {name: value for name, value in fields.items() if name not in _NO_SAMPLING}
    try:
        return SamplingSettings(**fields | {"stop": tuple(fields["stop"])})
    except ValueError as error:
        raise UsageError(f"config.sampling: {error}") from error


def samples(config: ConfigDict, model: Any, pieces: Pieces) -> list[dict[str, str]]:
    """Returns the config's prompts with what the model writes behind each."""
    prompts = list(config.sampling.prompts)
    sampler = text_sampler(config, model, pieces)
    answers = sampler.generate(
        [prompt_tokens(pieces, prompt) for prompt in prompts], sampling_settings(config)
    )
    return [
        {"prompt": prompt, "text": answer.text or "", "reason": answer.reason}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def trained_on(corpus: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Returns what tells the passages and the tokenizer that a run was trained with from others."""
    return {"corpus": corpus["fingerprint"], "tokenizer": tokenizer["files"]}
