"""A SentencePiece model of a corpus, or somebody else's tokenizer: W/tokenizer."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from minirec import files
from pipelines.text import pieces
from pipelines.text.tokenizer import FILES, TextTokenizer

KINDS = ("bpe", "unigram", "given")
_UNKNOWN = "<|unknown|>"  # A text may well hold "<unk>", as WikiText does.
_THREADS = 4  # whatever the machine has: unigram's sums depend on it
_MEASURED = 5_000  # passages that bytes a token are counted on
_TOO_HIGH = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")
_TOO_LOW = re.compile(r"smaller than required_chars\. (\d+) vs (\d+)")


@dataclasses.dataclass(frozen=True)
class PiecesConfig:
    """How a tokenizer is made.

    Attributes:
        kind: "bpe" or "unigram", of SentencePiece; "given": `path` names one.
        path: a SentencePiece `.model`, or a Hugging Face folder with `tokenizer.json`.
        vocab_size: pieces, with the four that have no text and, with `byte_fallback`, 256 bytes.
        character_coverage: share of the corpus's letters that are pieces of their own; the others
            are spelled by their bytes.
        max_sentence_length: bytes of a line that is learnt from; longer ones are cut at blanks.
        byte_fallback: bytes are pieces, so that there is nothing that cannot be spelled.
        max_sentences: lines that are learnt from, drawn by lot where there are more; 0: all.
        symbols: spellings that are one token wherever they stand; a blank in front belongs to it.
        seed: of the draw.
    """

    kind: str = "bpe"
    path: str = ""
    vocab_size: int = 32_000
    character_coverage: float = 0.9995
    max_sentence_length: int = 4192
    byte_fallback: bool = True
    max_sentences: int = 2_000_000
    symbols: tuple[str, ...] = ()
    seed: int = 13

    def __post_init__(self):
        self._require("kind", self.kind in KINDS, f"one of {', '.join(KINDS)}")
        if (self.kind == "given") != bool(self.path):
            raise ValueError(
                f"config.tokenizer.kind={self.kind!r}, path={self.path!r}: 'given' needs a path, "
                "and the others none"
            )
        least = 4 + 256 * self.byte_fallback + len(self.symbols) + 1
        self._require("vocab_size", self.vocab_size >= least, f"at least {least}")
        self._require("character_coverage", 0.9 <= self.character_coverage <= 1.0, "from .9 to 1")
        self._require("max_sentence_length", self.max_sentence_length >= 16, "at least 16")
        self._require("max_sentences", self.max_sentences >= 0, "0 (all) or more")
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("symbols", all(name.strip() for name in self.symbols), "texts, none empty")

    def _require(self, name: str, right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"config.tokenizer.{name}={getattr(self, name)!r}: must be {what}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Returns the settings of a config's block.

        Raises:
            ValueError: a field has a value that cannot be.
        """
        return cls(**dict(values) | {"symbols": tuple(values.get("symbols", ()))})


def make_pieces(
    config: PiecesConfig, texts: Iterable[str], folder: Path, corpus: str
) -> dict[str, Any]:
    """Trains a tokenizer, or takes the one that is given, into a folder; returns its record.

    Args:
        config: how.
        texts: of the passages to train on; gone through once or twice.
        folder: W/tokenizer; it appears whole or not at all.
        corpus: the fingerprint of the passages.

    Raises:
        ValueError: `sentencepiece` is not installed, the vocabulary is too large or too small for
            the corpus, or what is given is no tokenizer.
    """
    with files.atomic_folder(folder) as new:
        if config.kind == "given":
            kind, names = _take(Path(config.path).expanduser(), new), sorted(_names(new))
        else:
            (new / pieces.MODEL).write_bytes(_train(config, texts))
            kind, names = pieces.SENTENCEPIECE, [pieces.MODEL]
        made = pieces.open_pieces(new, kind)
        record = {
            "kind": kind,
            "config": dataclasses.asdict(config) | {"symbols": list(config.symbols)},
            "vocab_size": made.vocab_size,
            "ids": {name: getattr(made, f"{name}_id") for name in ("unk", "bos", "eos", "pad")},
            # A tokenizer that was given is the same beside any corpus.
            "corpus": None if config.kind == "given" else corpus,
            "bytes_per_token": bytes_per_token(made, texts),
            "files": files.checksums(new, names),
        }
        files.write_sealed(new / pieces.RECORD, record)
    return record


def bytes_per_token(made: pieces.Pieces, texts: Iterable[str]) -> float:
    """Returns how many bytes of UTF-8 a token stands for, over the first passages of some."""
    num_bytes = num_tokens = 0
    for _, text in zip(range(_MEASURED), texts, strict=False):
        num_bytes += len(text.encode())
        num_tokens += len(made.encode([text])[0])
    return num_bytes / max(num_tokens, 1)


def _take(path: Path, new: Path) -> str:
    """Copies a tokenizer and returns of which kind it is."""
    if path.is_dir():
        TextTokenizer.load(path).save(new)
        return pieces.TOKENIZER_JSON
    if not path.is_file():
        raise ValueError(
            f"config.tokenizer.path={str(path)!r}: must be a SentencePiece .model, or a Hugging "
            "Face folder with tokenizer.json"
        )
    pieces.SentencePieces(path.read_bytes(), str(path))  # Says what is wrong with it.
    shutil.copyfile(path, new / pieces.MODEL)
    return pieces.SENTENCEPIECE


def _names(folder: Path) -> list[str]:
    return [name for name in (*FILES, pieces.MODEL) if (folder / name).is_file()]


def _train(config: PiecesConfig, texts: Iterable[str]) -> bytes:
    """Returns the bytes of a SentencePiece model.

    Nothing of a text is normalised, no blank is put before it or folded: what it spells comes back.
    """
    library = pieces.require_sentencepiece()
    out = io.BytesIO()
    lines = _lines(texts, config.max_sentence_length)
    if config.max_sentences:
        lines = _drawn(lines, config.max_sentences, config.seed)
    symbols = [name.replace(" ", "\u2581") for name in config.symbols]
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=out,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            max_sentence_length=config.max_sentence_length,
            byte_fallback=config.byte_fallback,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            unk_id=pieces.UNK_ID,
            bos_id=pieces.BOS_ID,
            eos_id=pieces.EOS_ID,
            pad_id=pieces.PAD_ID,
            unk_piece=_UNKNOWN,
            user_defined_symbols=symbols,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explained(config, str(error))) from error
    return out.getvalue()


def _explained(config: PiecesConfig, error: str) -> str:
    field = f"config.tokenizer.vocab_size={config.vocab_size}"
    if match := _TOO_HIGH.search(error):
        return (
            f"{field}: too large for this corpus, which has pieces for {match[1]} at most; set "
            f"--config.tokenizer.vocab_size={match[1]} or less"
        )
    if match := _TOO_LOW.search(error):
        return (
            f"{field}: too small for this corpus, whose letters alone are {match[2]}; set at least "
            "that, or a smaller config.tokenizer.character_coverage"
        )
    return f"config.tokenizer: SentencePiece cannot be trained: {error}"


def _lines(texts: Iterable[str], most: int) -> Iterator[str]:
    """Yields lines of at most so many bytes: SentencePiece leaves out longer ones silently."""
    for text in texts:
        # It takes a NUL for the end of what it learns from.
        for line in text.replace("\0", " ").split("\n"):
            while len(line.encode()) > most:
                head = line.encode()[:most].decode("utf-8", "ignore")
                end = head.rfind(" ") if " " in head[1:] else len(head)
                yield line[:end]
                line = line[end:]
            if line.strip():
                yield line


def _drawn(lines: Iterable[str], most: int, seed: int) -> list[str]:
    """Returns so many lines at most, each as likely as any other, in their order."""
    rng = np.random.default_rng(seed)
    kept: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if number < most:
            kept.append((number, line))
        elif (place := int(rng.integers(number + 1))) < most:
            kept[place] = (number, line)
    return [line for _, line in sorted(kept)]
