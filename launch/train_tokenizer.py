"""Passages to a tokenizer: `python -m launch.train_tokenizer --config=text_quickstart --workdir=W`.

Writes W/tokenizer: `tokenizer.model` of SentencePiece, learnt from the training passages alone, and
pieces.json. `--config.tokenizer.kind=given` with `--config.tokenizer.path` takes a model that is
there, or a Hugging Face folder's tokenizer.json.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from launch.wiring import made_with, program
from launch.wiring.text_corpus import load_corpus, require_text, text_folder, tokenizer_folder
from pipelines.text.passages import EVAL, TRAIN, read_passages
from pipelines.text.pieces import RECORD, load_pieces, read_record
from pipelines.text.train_pieces import PiecesConfig, bytes_per_token, make_pieces


class _Texts:
    """The texts of a file's passages, as often as they are gone through."""

    def __init__(self, path: Path):
        self._path = path

    def __iter__(self) -> Iterator[str]:
        return (passage.text for passage in read_passages(self._path))


def main(job: program.Job) -> None:
    """Makes the tokenizer and prints its size and how many bytes a token stands for.

    Raises:
        ValueError: what `make_pieces` raises, or another tokenizer lies there and the job does not
            say to overwrite it.
    """
    require_text(job, "launch.train_tokenizer")
    config = PiecesConfig.from_mapping(job.config.tokenizer.to_dict())
    begin = time.monotonic()
    folder = tokenizer_folder(job)
    corpus = load_corpus(job)["fingerprint"]
    if not _lies_there(job, corpus):
        make_pieces(config, _Texts(text_folder(job) / TRAIN), folder, corpus)
    record = read_record(folder)
    held_out = bytes_per_token(load_pieces(folder), _Texts(text_folder(job) / EVAL))
    print(f"kind={record['kind']} vocab_size={record['vocab_size']}")
    print(f"bytes_per_token train={record['bytes_per_token']:.3f} eval={held_out:.3f}")
    print(f"seconds={time.monotonic() - begin:.1f}")
    print(f"wrote {folder}")


def _lies_there(job: program.Job, corpus: str) -> bool:
    """Returns whether the tokenizer of this config and corpus lies there.

    Raises:
        UsageError: another one does, and the job does not say to overwrite it.
    """
    folder = tokenizer_folder(job)
    if job.overwrite:
        return False
    try:
        record = read_record(folder)
    except ValueError:  # None, or damaged: to be made again.
        return False
    differences = made_with.part_differences(job.config, "tokenizer", record["config"])
    if record["corpus"] not in (None, corpus):
        differences.append("it was trained on other passages")
    if differences:
        raise program.UsageError(
            f"{folder / RECORD}: {'; '.join(differences)}: --overwrite it, or take another "
            "--workdir"
        )
    return True


if __name__ == "__main__":
    program.run(main)
