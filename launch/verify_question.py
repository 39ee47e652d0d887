"""What the gate says: `python -m launch.verify_question --config=… --workdir=W --question="…"`.

Prints for each question whether a passage covers it, which of its words that holds and which are
missing, as `launch.chat` decides before it answers. `--question_file=FILE` takes a question a line.
The exit code is 1 where one is not covered.

`--measure` asks made questions instead: recall@k and MRR of retrieval, precision and recall of the
gate and the thresholds that are best; they go to W/retrieval_report.json, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from launch.wiring import program
from launch.wiring.text_corpus import require_text
from launch.wiring.text_dense import load_retriever
from launch.wiring.text_index import gate_of
from launch.wiring.text_measures import measure
from minirec import files
from minirec.recommend.passages.gate import Verdict

REPORT = "retrieval_report.json"
_QUESTION = flags.DEFINE_string("question", None, "The question.")
_QUESTIONS = flags.DEFINE_string("question_file", None, "A file with a question a line.")
_MEASURE = flags.DEFINE_bool("measure", False, "Measure retrieval and gate on made questions.")


def verify(job: program.Job, questions: list[str]) -> bool:
    """Prints the gate's verdict on each question and returns whether all are covered.

    Raises:
        ValueError: there is no corpus, or a setting cannot be.
    """
    retriever, gate = load_retriever(job), gate_of(job)
    all_covered = True
    for question in questions:
        found = [
            retriever.bm25.passages[number]
            for number in retriever.search(question, job.config.gate.passages).tolist()
        ]
        verdict = gate.judge(question, found)
        all_covered &= verdict.covered
        print(files.shown(f"question: {question}"))
        print(f"covered={verdict.covered} {said(verdict)}")
        if verdict.passage is not None:
            best = found[verdict.passage]
            print(files.shown(f"best passage: {best.heading} ({best.source_url})"))
    return all_covered


def said(verdict: Verdict) -> str:
    """Returns a verdict's words in one line."""
    lists = (("words", verdict.words), ("held", verdict.matched), ("missing", verdict.missing))
    parts = [f"{name}={','.join(spelled) or '-'}" for name, spelled in lists]
    return files.shown(" ".join([f"needed={verdict.needed}", *parts]))


def measured(job: program.Job) -> None:
    """Prints how retrieval and gate do on made questions.

    Raises:
        ValueError: there is no corpus, or it is too small.
    """
    report = measure(job)
    retrieval, gate = report["retrieval"], report["gate"]
    print(f"retrieval passages={retrieval['passages']} questions={retrieval['questions']}")
    for name, row in retrieval["measures"].items():
        print(f"{name:22}", " ".join(f"{key}={value:.4f}" for key, value in row.items()))
    print(
        f"gate questions={gate['questions']} documents={gate['documents']} "
        f"left_out={gate['documents_left_out']} chosen: "
        f"min_keyword_matches={gate['chosen']['min_keyword_matches']} "
        f"match_ratio={gate['chosen']['match_ratio']}"
    )
    for name, row in gate["measures"].items():
        print(f"{name:22}", " ".join(f"{key}={value:.4g}" for key, value in row.items()))
    files.write_json(job.workdir / REPORT, report)
    print(f"wrote {job.workdir / REPORT}")


def main(job: program.Job) -> None:
    """Says what the flags ask.

    Raises:
        UsageError: no question is given.
    """
    require_text(job, "launch.verify_question")
    if _MEASURE.value:
        measured(job)
        return
    questions = [] if _QUESTION.value is None else [_QUESTION.value]
    if _QUESTIONS.value is not None:
        lines = Path(_QUESTIONS.value).read_text(encoding="utf-8").splitlines()
        questions += [line.strip() for line in lines if line.strip()]
    if not questions:
        raise program.UsageError("no question: give --question, --question_file=FILE or --measure")
    if not verify(job, questions):
        sys.exit(1)


if __name__ == "__main__":
    program.run(main)
