"""Questions and answers to rows for a second stage: `python -m launch.prepare_qa --pairs=FILE`.

A line of the file is a JSON object with `question` and `answer`. W/qa/qa.jsonl gets a row each, as
a chat's model reads it: the passage that covers the question, `Question: …`, `Answer: …`. Questions
that no passage covers are left out and counted, or, with `--refuse`, answered by the config's "I
don't know"; those that a held-out document covers are left out and counted, too. The file is a
corpus itself: --config.corpus.files=…/qa.jsonl in another workdir.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from launch.wiring import program
from launch.wiring.text_corpus import require_text
from launch.wiring.text_dense import load_retriever
from launch.wiring.text_index import gate_of
from minirec import files
from minirec.serving.chat.prompt import passage_text, question_text
from pipelines.text.passages import EVAL, TEXT, read_passages

FOLDER, ROWS = "qa", "qa.jsonl"
_PAIRS = flags.DEFINE_string("pairs", None, "JSON lines with `question` and `answer`.")
_REFUSE = flags.DEFINE_bool("refuse", False, "Keep what no passage covers, answered by a refusal.")
_PAIR = {"question": str, "answer": str}


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the questions and answers of a file.

    Raises:
        ValueError: a line holds none; the message names file, line and field.
        OSError: the file cannot be read.
    """
    for number, value in files.read_json_lines(path, _PAIR):
        for field in _PAIR:
            if not value[field].strip():
                raise ValueError(f"{path}, line {number}: {field} is empty")
        yield " ".join(value["question"].split()), value["answer"].strip()


def prepare(job: program.Job, path: Path, *, refuse: bool) -> dict[str, int]:
    """Writes the rows and returns how many of which there are.

    Raises:
        ValueError: a line holds no question, no row is left, or there is no corpus.
    """
    retriever, gate = load_retriever(job), gate_of(job)
    # What is evaluated on must not come back as a row to train on.
    held_out = {(one.source_url, one.text) for one in read_passages(job.workdir / TEXT / EVAL)}
    counts = {"rows": 0, "refused": 0, "left_out": 0, "held_out": 0}
    out = job.workdir / FOLDER / ROWS
    with files.atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as rows:
        for number, (question, answer) in enumerate(read_pairs(path)):
            numbers = retriever.search(question, job.config.gate.passages).tolist()
            found = [retriever.bm25.passages[place] for place in numbers]
            verdict = gate.judge(question, found)
            text, source = "", ""
            if verdict.covered and verdict.passage is not None:
                passage = found[verdict.passage]
                if (passage.source_url, passage.text) in held_out:
                    counts["held_out"] += 1
                    continue
                text, source = passage_text(passage), passage.source_url
            elif refuse:
                answer = job.config.gate.refusal
                counts["refused"] += 1
            else:
                counts["left_out"] += 1
                continue
            row = {
                "url": f"{path.name}#{number}",
                "text": f"{text}{question_text(question, answer)}\n",
                "question": question,
                "answer": answer,
                "passage_url": source,
            }
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts["rows"] += 1
        if not counts["rows"]:
            raise program.UsageError(
                f"{path}: no row is left: no passage covers one of its "
                f"{counts['left_out'] + counts['held_out']} questions"
            )
    return counts


def main(job: program.Job) -> None:
    """Writes the rows and prints how many there are.

    Raises:
        UsageError: no file is given.
    """
    require_text(job, "launch.prepare_qa")
    if _PAIRS.value is None:
        raise program.UsageError("--pairs is missing: a file with question and answer a line")
    counts = prepare(job, Path(_PAIRS.value), refuse=_REFUSE.value)
    print(" ".join(f"{name}={value}" for name, value in counts.items()))
    print(f"wrote {job.workdir / FOLDER / ROWS}")


if __name__ == "__main__":
    program.run(main)
