"""Measures retrieval and gate of a corpus on questions that are made of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from launch.wiring.program import Job, UsageError
from launch.wiring.text_dense import load_retriever
from launch.wiring.text_index import all_passages, bm25_settings, gate_of, load_index
from minirec.recommend.passages.bm25 import Bm25Index
from minirec.recommend.passages.measures import (
    GateFigures,
    GateTrial,
    Search,
    overlap_search,
    retrieval_measures,
)
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.questions import heading_questions, topic_questions

_MOST_OVERLAP = 20_000  # passages that every question is compared with, letter by letter
_QUESTIONS = 100
_LEFT_OUT = 4  # every fourth document cannot be found, in the gate's trial


def measure(job: Job) -> dict[str, Any]:
    """Returns recall@k and MRR of retrieval, precision and recall of the gate, as JSON.

    Raises:
        ValueError: there is no corpus, or it is too small to make questions of.
    """
    return {"retrieval": _retrieval(job), "gate": _gate(job)}


def _retrieval(job: Job) -> dict[str, Any]:
    """How passages are found by titles and section heads."""
    settings, gate = bm25_settings(job), gate_of(job)
    index = load_index(job)
    asked = job.config.retrieval
    questions = heading_questions(all_passages(job), asked.questions, asked.seed)
    if not questions:
        raise UsageError("no passage has a heading to make a question of")
    searches: dict[str, Search] = {"bm25": index.search}
    if asked.method != "bm25":
        searches[asked.method] = load_retriever(job).search
    with tempfile.TemporaryDirectory() as folder:
        plain = type(settings)(0, 0, settings.k1, settings.b)
        bare = Bm25Index.build(Path(folder) / "bare", all_passages(job), plain, {})
        searches["bm25, text alone"] = bare.search
        if len(index) <= _MOST_OVERLAP:
            for name, headings in (("overlap", True), ("overlap, text alone", False)):
                searches[name] = overlap_search(
                    all_passages(job), gate.stop_words, headings=headings
                )
        measures = {
            name: retrieval_measures(search, questions) for name, search in searches.items()
        }
    return {"passages": len(index), "questions": len(questions), "measures": measures}


def _gate(job: Job) -> dict[str, Any]:
    """How the gate tells questions after documents that can be found from others.

    A quarter of the documents is left out of an index; half of the questions are after those. The
    thresholds are chosen on some of the documents' questions and reported on others'.
    """
    gate, seed = gate_of(job), job.config.retrieval.seed
    passages = list(all_passages(job))
    urls = sorted({passage.source_url for passage in passages})
    order = np.random.default_rng(seed).permutation(len(urls))
    unknown = {urls[place] for place in order[::_LEFT_OUT].tolist()}
    if len(unknown) == len(urls):
        raise UsageError("the gate's trial leaves documents out, and there is but one")
    known = [passage for passage in passages if passage.source_url not in unknown]
    left_out = [passage for passage in passages if passage.source_url in unknown]

    def half(some: list[Passage], side: int) -> list[Passage]:
        """The passages of every other document."""
        ranks = {url: rank for rank, url in enumerate(sorted({p.source_url for p in some}))}
        if len(ranks) < 2:
            return some
        return [passage for passage in some if ranks[passage.source_url] % 2 == side]

    with tempfile.TemporaryDirectory() as folder:
        index = Bm25Index.build(Path(folder) / "known", known, bm25_settings(job), {})
        trials = [
            GateTrial(
                index,
                topic_questions(
                    half(known, side),
                    half(left_out, side),
                    _QUESTIONS,
                    seed + side,
                    gate.content_words,
                ),
                gate,
                job.config.gate.passages,
            )
            for side in (0, 1)
        ]
    chosen = trials[0].best_thresholds()
    given = (gate.min_keyword_matches, gate.match_ratio)
    return {
        "questions": _QUESTIONS,
        "documents": len(urls),
        "documents_left_out": len(unknown),
        "chosen": {"min_keyword_matches": chosen[0], "match_ratio": chosen[1]},
        "measures": {
            "chosen": _plain(trials[1].figures(*chosen)),
            "config": _plain(trials[1].figures(*given)),
            "substrings": _plain(trials[1].substring_figures()),
        },
    }


def _plain(figures: GateFigures) -> dict[str, float]:
    return {
        "precision": figures.precision,
        "recall": figures.recall,
        "f1": figures.f1,
        "answered": figures.answered,
    }
