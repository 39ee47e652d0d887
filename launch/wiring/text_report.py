"""What `launch.evaluate` measures of a language model of one's own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from launch.wiring import made_with, text_run
from launch.wiring.program import Job, UsageError
from launch.wiring.reporting import REPORTS
from minirec import files
from minirec.evaluation.kneser_ney import KneserNey, best_mixture, mixed, numbered
from minirec.evaluation.text_scores import score
from minirec.evaluation.words import word_log_probs, words_of
from minirec.reports import curves_of
from minirec.reports.text_report import BOTH, KNESER_NEY, MODEL, TextReport, write_text_report
from minirec.training import read_metrics
from minirec.training.processes import is_first
from pipelines.text.document_batches import document_tokens
from pipelines.text.pieces import Pieces

_FOLDS = 2


def report(job: Job, split: str) -> TextReport:
    """Measures a job's run on the documents of a split, and writes its report.

    Raises:
        ValueError: data, tokenizer and run do not belong together, or there are no such documents.
    """
    started = time.monotonic()
    config = job.config
    order = config.evaluate.kneser_ney_order
    if not 0 <= order <= 9:
        raise UsageError(f"config.evaluate.kneser_ney_order={order}: must lie in [0, 9]")
    run = text_run.load(job)
    made_with.check_report(job, job.run / REPORTS[split] / "report.json")
    files.check_writable(job.run / REPORTS[split])
    texts, read = text_run.split_texts(job, split), text_run.read_texts(job).train
    measure = text_run.text_measure(config, texts, run.pieces, config.evaluate.overlap)
    log_probs, begins = score(run.model, measure.windows, measure.begins, measure.batch_size)
    metrics = {MODEL: measure.of_scores(log_probs)}
    documents = [words_of(one) for one in texts]
    known = {word for one in read for word in words_of(one)}
    about, notes = {}, []
    if order:
        beside = _kneser_ney(read, documents, order)
        metrics[KNESER_NEY] = _of_words(beside)
        ours = _by_word(run.pieces, texts, log_probs, begins)
        if ours is None:
            notes.append(
                "A token of this tokenizer may span two words: the model's words have no "
                "probability of their own, and are not mixed with Kneser-Ney's."
            )
        else:
            both, shares = cross_mixed(ours, beside)
            metrics[BOTH] = _of_words(both)
            about = {"model_share": shares}
            notes.append(
                f"Mixed word by word, with a share of the model of {' and '.join(shares.values())}"
                ": each half of the documents has the share that explains the other best."
            )
    found = TextReport(
        name=job.run.name,
        dataset=config.name,
        split=split,
        metrics=metrics,
        counts={
            "documents": len(texts),
            "bytes": measure.num_bytes,
            "words": measure.num_words,
            "tokens": len(log_probs),
            "new_words": sum(word not in known for one in documents for word in one),
        },
        about=about,
        samples=text_run.samples(config, run.model, run.pieces) if config.sampling.prompts else (),
        progress=[
            (line["step"], line[f"{text_run.SAMPLES}/0"])
            for line in read_metrics(job.run)
            if f"{text_run.SAMPLES}/0" in line
        ],
        config=config.to_dict(),
        seed=config.seed,
        seconds=time.monotonic() - started,
        curves=curves_of(read_metrics(job.run)),
        notes=notes,
    )
    if is_first():
        write_text_report(job.run / REPORTS[split], found)
    return found


def cross_mixed(
    ours: Sequence[Float[np.ndarray, " n"]], others: Sequence[Float[np.ndarray, " n"]]
) -> tuple[list[Float[np.ndarray, " n"]], dict[str, str]]:
    """Returns two models' words mixed, document by document, and the shares of the first.

    The share of every other document is the one that explains the rest best, and the other way
    round, so that no word has a part in how it is mixed itself.

    Args:
        ours: log-probabilities of each document's words.
        others: those of the other model.
    """
    shares = []
    for fold in range(_FOLDS):
        rest = [n for n in range(len(ours)) if n % _FOLDS != fold] or [0]
        first, second = (np.concatenate([side[n] for n in rest]) for side in (ours, others))
        shares.append(min(max(best_mixture(first, second), 1e-6), 1 - 1e-6))
    both = [
        mixed(one, other, shares[n % _FOLDS])
        for n, (one, other) in enumerate(zip(ours, others, strict=True))
    ]
    return both, {f"fold_{fold}": f"{share:.3f}" for fold, share in enumerate(shares)}


def _kneser_ney(
    read: Sequence[str], documents: Sequence[Sequence[str]], order: int
) -> list[Float[np.ndarray, " n"]]:
    """Returns the log-probabilities of each document's words by a model of the texts read."""
    train = [word for one in read for word in words_of(one)]
    numbers, asked, size = numbered(train, [word for one in documents for word in one])
    log_probs = KneserNey.fit(numbers, size, min(order, len(train))).log_probs(asked)
    return np.split(log_probs, np.cumsum([len(one) for one in documents])[:-1])


def _by_word(
    pieces: Pieces,
    texts: Sequence[str],
    log_probs: Float[np.ndarray, " tokens"],
    begins: Float[np.ndarray, " tokens"],
) -> list[Float[np.ndarray, " n"]] | None:
    """Returns the log-probabilities of each document's words by the model, where they have one."""
    found, surfaces = [], text_run.surfaces(pieces)
    documents = document_tokens(texts, pieces)
    cuts = np.cumsum([len(tokens) - 1 for tokens in documents])[:-1]
    parts = zip(documents, np.split(log_probs, cuts), np.split(begins, cuts), strict=True)
    for one, (tokens, scores, masses) in zip(texts, parts, strict=True):
        words = word_log_probs(tokens[1:], scores, masses, surfaces)
        if words is None or len(words) != len(words_of(one)):
            return None
        found.append(words)
    return found


def _of_words(log_probs: Sequence[Float[np.ndarray, " n"]]) -> dict[str, float]:
    """Returns the measure of words, which knows of no blanks and so of no bits a byte."""
    total = -float(sum(np.sum(one, dtype=np.float64) for one in log_probs))
    count = sum(len(one) for one in log_probs)
    return {"word_perplexity": float(np.exp(min(total / count, 700.0)))}
