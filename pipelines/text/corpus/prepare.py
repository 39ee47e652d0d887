"""Documents to W/text: passages to train on, passages to evaluate on, and what was left out why."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from minirec import files
from pipelines.text.corpus.config import CorpusConfig
from pipelines.text.corpus.documents import BadRowError, input_files, read_pieces
from pipelines.text.corpus.near_duplicates import MinHash, NearDuplicates
from pipelines.text.corpus.rules import LeftOut, Rules
from pipelines.text.corpus.spool import Spool, Spooled, draw
from pipelines.text.passages import EVAL, MANIFEST, TRAIN, Passage

_SPOOL = "spool.jsonl"
_FIRST_BAD = 3  # rows that the manifest names
Progress = Callable[[int], None]


@dataclasses.dataclass
class _Counts:
    """What is counted while the files are read."""

    characters: int = 0
    passages: int = 0
    bad_rows: int = 0
    first_bad: list[str] = dataclasses.field(default_factory=list)


def prepare_corpus(
    config: CorpusConfig, folder: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Writes the passages of all documents and returns the manifest.

    Documents, not passages, are for training or for evaluation. The characters that come in are
    those that go out and those that are left out for a reason, to the letter.

    Args:
        config: which documents, and the rules.
        folder: W/text; it appears whole or not at all, in place of another.
        progress: is told from time to time how many letters were read.

    Raises:
        ValueError: no file is named, a line is no record, nothing is left, there is but one
            document, or no training passage holds the keyword that is required.
        OSError: a file cannot be read, or the disk is full.
    """
    train_files = input_files(config.folder, config.files, "files")
    eval_files = (
        input_files(config.folder, config.eval_files, "eval_files") if (config.eval_files) else []
    )
    if both := set(train_files) & set(eval_files):
        raise ValueError(
            f"config.corpus.eval_files: {sorted(both)[0]} is one of config.corpus.files, too: "
            "nothing may be trained on that is evaluated on"
        )
    left_out, counts = LeftOut(config.require_keyword), _Counts()
    with files.atomic_folder(folder) as new:
        with Spool(new / _SPOOL, config.seed) as spool:
            # Those to evaluate on first: a document of both is theirs.
            for path in eval_files:
                _read(path, config, Rules(config, left_out), spool, counts, True, progress)
            for path in train_files:
                _read(path, config, Rules(config, left_out), spool, counts, False, progress)
            known = spool.known()
            if not len(known.chars):
                raise ValueError(
                    f"no passage is left of {counts.characters} letters: {_said(left_out)}"
                )
            train, held_out = _split(config, known, spool, left_out)
            train = _without_same(known, spool, train, held_out, left_out)
            written = {
                EVAL: _write(new / EVAL, spool.read(held_out), config.require_keyword),
                TRAIN: _write(
                    new / TRAIN,
                    _without_copies(config, spool, train, held_out, left_out),
                    config.require_keyword,
                ),
            }
            del known
        _check_written(config, written, left_out)
        manifest: dict[str, Any] = {
            "config": _plain(config),
            "inputs": corpus_inputs(config),
            "counts": {
                "train": written[TRAIN][0],
                "eval": written[EVAL][0],
                "bad_rows": counts.bad_rows,
                "left_out": dict(left_out.passages),
            },
            "first_bad_rows": counts.first_bad,
            "characters": {
                "in": counts.characters,
                "train": written[TRAIN][1]["characters"],
                "eval": written[EVAL][1]["characters"],
                "left_out": dict(left_out.characters),
            },
            "files": files.checksums(new, [TRAIN, EVAL]),
        }
        manifest["fingerprint"] = _fingerprint(manifest)
        files.write_sealed(new / MANIFEST, manifest)
    return manifest


def corpus_inputs(config: CorpusConfig) -> dict[str, dict[str, Any]]:
    """Returns the checksums of a corpus's files, by their names.

    Raises:
        ValueError: a pattern names no file.
    """
    root = Path(config.folder).expanduser()
    paths = input_files(config.folder, config.files, "files")
    if config.eval_files:
        paths += input_files(config.folder, config.eval_files, "eval_files")
    found = files.checksums(Path(), [str(path.absolute()) for path in paths])
    return {_name(Path(path), root): checksum for path, checksum in found.items()}


def _read(
    path: Path,
    config: CorpusConfig,
    rules: Rules,
    spool: Spool,
    counts: _Counts,
    is_eval: bool,
    progress: Progress | None,
) -> None:
    """Spools the passages of a file."""
    name = _name(path, Path(config.folder).expanduser())
    for piece in read_pieces(path, name, config):
        if isinstance(piece, BadRowError):
            if config.on_bad_rows == "error":
                raise ValueError(
                    f"{piece}; config.corpus.on_bad_rows='skip' leaves such lines out"
                ) from piece
            counts.bad_rows += 1
            counts.first_bad += [str(piece)] if len(counts.first_bad) < _FIRST_BAD else []
            continue
        counts.characters += len(piece.section.text) + piece.section.heading_chars
        for text in rules.passages(piece):
            path_there = piece.section.path
            spool.add(Passage(text, piece.source_url, 0, path_there), is_eval=is_eval)
            counts.passages += 1
            if progress is not None and counts.passages % 10_000 == 0:
                progress(counts.characters)


def _split(
    config: CorpusConfig, known: Spooled, spool: Spool, left_out: LeftOut
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Returns the places of the passages to train on and to evaluate on, in their order.

    Raises:
        ValueError: there is but one document.
    """
    documents, first, of = np.unique(known.document, return_index=True, return_inverse=True)
    if config.eval_files:
        chosen = np.zeros(len(documents), bool)
        chosen[of[known.is_eval]] = True
    else:
        if len(documents) < 2:
            raise ValueError(
                "all passages are of one document, and a document is for training or for "
                "evaluation: name files of others in config.corpus.eval_files, or more in "
                "config.corpus.files"
            )
        lot = draw(documents)
        chosen = lot < np.uint64(math.floor(config.eval_ratio * 2**64))
        if not chosen.any():
            chosen = lot == lot.min()
        if chosen.all():
            chosen = lot != lot.max()
    # A document's number is drawn by lot: by it, they are shuffled. Sorting keeps the order within.
    key = known.document if config.shuffle else first[of]
    order = np.argsort(key, kind="stable")
    held_out = order[chosen[of[order]]]
    train = order[~chosen[of[order]]]
    if config.eval_files:
        foreign = ~known.is_eval[held_out]
        _count(spool, held_out[foreign], "evaluation_document", left_out)
        held_out = held_out[~foreign]
    if config.max_chunks:
        most = (
            len(held_out) if config.eval_files else math.ceil(config.max_chunks * config.eval_ratio)
        )
        _count(spool, held_out[most:], "max_chunks", left_out)
        held_out = held_out[:most]
        most = config.max_chunks - (0 if config.eval_files else len(held_out))
        _count(spool, train[most:], "max_chunks", left_out)
        train = train[:most]
    return train, held_out


def _count(spool: Spool, places: Int64[np.ndarray, " n"], reason: str, left_out: LeftOut) -> None:
    for passage in spool.read(places):
        left_out.add(reason, passage.text)


def _without_same(
    known: Spooled,
    spool: Spool,
    train: Int64[np.ndarray, " n"],
    held_out: Int64[np.ndarray, " m"],
    left_out: LeftOut,
) -> Int64[np.ndarray, " n"]:
    """Returns what to train on without the documents whose text one to evaluate on has, too.

    A document's name is its file's and its own: a copy in another file has another name.
    """
    _, texts = _texts(known, held_out)
    of, own = _texts(known, train)
    copies = (np.isin(own, texts) & (own > 0))[of]  # Blank ones are nobody's copies.
    _count(spool, train[copies], "same_document", left_out)
    return train[~copies]


def _texts(
    known: Spooled, places: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], UInt64[np.ndarray, " d"]]:
    """Returns the document of each place, counted from 0, and what its passages' hashes sum to."""
    documents, of = np.unique(known.document[places], return_inverse=True)
    sums = np.zeros(len(documents), np.uint64)
    np.add.at(sums, of, known.text[places])
    return of, sums


def _without_copies(
    config: CorpusConfig,
    spool: Spool,
    train: Int64[np.ndarray, " n"],
    held_out: Int64[np.ndarray, " m"],
    left_out: LeftOut,
) -> Iterable[Passage]:
    """Yields the passages to train on that are not almost one to evaluate on."""
    if not config.near_duplicate or not len(held_out):
        yield from spool.read(train)
        return
    hashes = MinHash(config.seed)
    signatures = np.stack([hashes.signature(passage.text) for passage in spool.read(held_out)])
    found = NearDuplicates(signatures, config.near_duplicate)
    for passage in spool.read(train):
        if found.has(hashes.signature(passage.text)):
            left_out.add("near_duplicate", passage.text)
        else:
            yield passage


def _write(
    path: Path, passages: Iterable[Passage], keyword: str
) -> tuple[dict[str, int], dict[str, int]]:
    """Writes passages, numbered within their document; returns how much of what."""
    num_passages = num_documents = characters = with_keyword = number = 0
    before, keyword = None, keyword.casefold()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for passage in passages:
            number = number + 1 if passage.source_url == before else 0
            num_documents += number == 0
            before = passage.source_url
            file.write(dataclasses.replace(passage, chunk_id=number).as_line())
            num_passages += 1
            characters += len(passage.text)
            with_keyword += bool(keyword) and keyword in passage.text.casefold()
    counts = {"documents": num_documents, "passages": num_passages}
    return counts, {"characters": characters, "with_keyword": with_keyword}


def _check_written(
    config: CorpusConfig,
    written: dict[str, tuple[dict[str, int], dict[str, int]]],
    left_out: LeftOut,
) -> None:
    """Raises ValueError where nothing is left of a part, or the required keyword is missing."""
    for name, (counts, _) in written.items():
        if not counts["passages"]:
            raise ValueError(f"{name}: no passage is left: {_said(left_out)}")
    if config.require_keyword and not written[TRAIN][1]["with_keyword"]:
        where = {"of an evaluation document": written[EVAL][1]["with_keyword"]}
        where |= dict(left_out.with_keyword)
        found = ", ".join(f"{reason}: {count}" for reason, count in where.items() if count)
        raise ValueError(
            f"config.corpus.require_keyword={config.require_keyword!r}: no training passage holds "
            f"it; {f'it was left out with ({found})' if found else 'no document does either'}"
        )


def _said(left_out: LeftOut) -> str:
    counts = {reason: count for reason, count in left_out.passages.items() if count}
    said = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"left out were {said or 'none'} (passages, lines or sections)"


def _name(path: Path, root: Path) -> str:
    """Returns what a file is called: from the folder on, where it lies in there."""
    try:
        return path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return path.name


def _plain(config: CorpusConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _fingerprint(manifest: dict[str, Any]) -> str:
    config = {name: value for name, value in manifest["config"].items() if name != "folder"}
    content = json.dumps([config, manifest["files"]])
    return hashlib.sha256(content.encode()).hexdigest()
