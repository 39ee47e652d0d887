"""The tokenizer of a language model of one's own: SentencePiece, or a Hugging Face folder's.

`launch.train_tokenizer` leaves it in W/tokenizer: `tokenizer.model` (or `tokenizer.json` and
`tokenizer_config.json`) and `pieces.json`, which says what made it. `load_pieces` reads the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int32

from minirec import files
from minirec.files.schema import COUNT, NUMBER, SHA256
from pipelines.text.tokenizer import TextTokenizer

MODEL = "tokenizer.model"
RECORD = "pieces.json"
SENTENCEPIECE = "sentencepiece"
TOKENIZER_JSON = "tokenizer_json"
UNK_ID, BOS_ID, EOS_ID, PAD_ID = range(4)
"""Of a tokenizer that is trained here; another one has its own."""

REMEDY = "run launch.train_tokenizer --overwrite"
_RECORD = {
    "kind": str,
    "config": dict,
    "vocab_size": COUNT,
    "bytes_per_token": NUMBER,
    "corpus": (SHA256, None),
    "files": {str: dict},
}
# SentencePiece writes a blank so; in a text it is spelled by its bytes.
_BLANK = "\u2581"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in _BLANK.encode())


class Pieces(Protocol):
    """Text to ids and back; `decode(encode([text])[0]) == text` for one that is trained here."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def unk_id(self) -> int:
        """Stands for what no piece spells; never written where bytes are pieces."""
        ...

    @property
    def bos_id(self) -> int:
        """Begins a document; the end where a tokenizer has no beginning."""
        ...

    @property
    def eos_id(self) -> int:
        """Ends a document."""
        ...

    @property
    def pad_id(self) -> int:
        """Fills up rows."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " n"]]:
        """Returns the ids of each text, without beginning and end.

        Raises:
            ValueError: a text is no Unicode (half of a surrogate pair).
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; beginning, end and padding have none.

        Bytes that are no UTF-8, such as the first half of a letter, become U+FFFD.
        """
        ...


class SentencePieces:
    """The pieces of a SentencePiece model."""

    def __init__(self, model: bytes, where: str = MODEL):
        """Reads a model.

        Args:
            model: the bytes of a `.model` file.
            where: the file, for errors.

        Raises:
            ValueError: `sentencepiece` is not installed, or it is no model, or one that has no end.
        """
        library = require_sentencepiece()
        try:
            self._model = library.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"{where}: is no SentencePiece model: {error}") from error
        if self._model.eos_id() < 0:
            raise ValueError(f"{where}: has no end token; it must be trained with an eos_id")
        self._blank = [self._model.piece_to_id(name) for name in _BYTES]
        if self.unk_id in self._blank:  # Bytes are no pieces of this model.
            self._blank = [self.unk_id]

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._model.vocab_size()

    @property
    def unk_id(self) -> int:
        """Stands for what no piece spells."""
        return self._model.unk_id()

    @property
    def bos_id(self) -> int:
        """Begins a document."""
        return self._model.bos_id() if self._model.bos_id() >= 0 else self.eos_id

    @property
    def eos_id(self) -> int:
        """Ends a document."""
        return self._model.eos_id()

    @property
    def pad_id(self) -> int:
        """Fills up rows."""
        return self._model.pad_id() if self._model.pad_id() >= 0 else self.eos_id

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " n"]]:
        """Returns the ids of each text, without beginning and end; see `Pieces`."""
        for text in texts:
            _check_unicode(text)
        if not any(_BLANK in text for text in texts):
            return [np.array(ids, np.int32) for ids in self._model.encode(list(texts))]
        return [np.array(self._with_blanks(text), np.int32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; see `Pieces`."""
        return self._model.decode([int(token) for token in ids])

    def _with_blanks(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(_BLANK)):
            ids += [*(self._blank if number else ()), *self._model.encode(part)]
        return ids


class JsonPieces:
    """The pieces of a Hugging Face folder's `tokenizer.json`."""

    def __init__(self, tokenizer: TextTokenizer):
        """Takes a tokenizer as the language family reads it."""
        self._tokenizer = tokenizer

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._tokenizer.size

    @property
    def unk_id(self) -> int:
        """The padding: byte-level tokenizers have none, others write their own."""
        return self.pad_id

    @property
    def bos_id(self) -> int:
        """Begins a document."""
        bos = self._tokenizer.bos_token_id
        return self.eos_id if bos is None else bos

    @property
    def eos_id(self) -> int:
        """Ends a document."""
        return self._tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        """Fills up rows."""
        return self._tokenizer.pad_token_id

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " n"]]:
        """Returns the ids of each text, without beginning and end; see `Pieces`."""
        for text in texts:
            _check_unicode(text)
        return [np.array(ids, np.int32) for ids in self._tokenizer.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; see `Pieces`."""
        return self._tokenizer.decode(ids)


def load_pieces(folder: str | os.PathLike[str]) -> Pieces:
    """Returns the tokenizer that `launch.train_tokenizer` left in a folder.

    Raises:
        ValueError: there is none, it has been damaged, or its library is not installed.
    """
    return open_pieces(Path(folder), read_record(folder)["kind"])


def open_pieces(folder: Path, kind: str) -> Pieces:
    """Returns the tokenizer in a folder, of the kind `SENTENCEPIECE` or `TOKENIZER_JSON`.

    Raises:
        ValueError: it is no tokenizer, or its library is not installed.
    """
    if kind == SENTENCEPIECE:
        return SentencePieces((folder / MODEL).read_bytes(), str(folder / MODEL))
    return JsonPieces(TextTokenizer.load(folder))


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what made the tokenizer in a folder, once its files are found to be unchanged.

    Raises:
        ValueError: there is none, or it has been damaged.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise ValueError(f"{path} is missing: run launch.train_tokenizer first")
    record = files.read_sealed(path, REMEDY, _RECORD)
    files.check_files(Path(folder), record["files"], remedy=REMEDY)
    return record


def require_sentencepiece() -> Any:
    """Returns the library `sentencepiece`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ValueError(
            "a text model needs the Python package sentencepiece: pip install 'minirec[text]'"
        ) from error
    return sentencepiece


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text {text[max(0, error.start - 10) : error.start + 10]!r}: holds half of a "
            "surrogate pair, which is no letter"
        ) from error
