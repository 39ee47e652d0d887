"""A language model's tokenizer, read from a Hugging Face folder, with SID tokens added."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Int32, Int64

from minirec import files
from minirec.sids.table import parse_token
from pipelines.text.added_tokens import (
    ADDED,
    CONFIG,
    SPECIAL,
    TOKENIZER,
    add_special,
    add_stated,
    naming_files,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# In which files ends and padding are looked for, where the two before say nothing.
_DEFAULTS = ("generation_config.json", "config.json")
FILES = (TOKENIZER, CONFIG, SPECIAL, ADDED, *_DEFAULTS)
"""What a folder's tokenizer is read from."""
_TEXTS_A_CALL = 16_384  # as many encodings are held at once


@dataclasses.dataclass(frozen=True, eq=False)
class TextTokenizer:
    """Text to token ids and back; an instance never changes.

    Nothing is added to a text: no BOS, no end. A spelling of an added token, such as `<|im_end|>`
    or a SID's `<a_12>`, becomes that token wherever it stands in a text; `plain` takes such
    spellings out of a text from elsewhere.

    Attributes:
        eos_token_id: the token that ends an answer.
        pad_token_id: fills up rows; the end token where the folder names none.
        bos_token_id: begins every sequence; None where the tokenizer has none, as Qwen's (their
            `config.json` names one all the same, which is never written).
        added: the tokens that `with_tokens` and `with_sid_tokens` added, in the order of their ids;
            those that were there before are not among them. Empty after `load`.
        settings: what `tokenizer_config.json` holds.
    """

    _tokenizer: Tokenizer
    eos_token_id: int
    pad_token_id: int
    bos_token_id: int | None = None
    added: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Reads a folder's tokens, as transformers does, and which of them begin, end and pad.

        Tokens come from `tokenizer.json`, the `added_tokens_decoder` of `tokenizer_config.json`,
        and `added_tokens.json`, with the ids that are stated there; special tokens that have no
        id in any of them get the next ones. What begins, ends and pads is named by
        `tokenizer_config.json`, then `special_tokens_map.json` (the other way round in folders
        without an `added_tokens_decoder`); end and padding, where neither names them, by
        `generation_config.json`, then `config.json` (of a list of ends, its first).

        Raises:
            ValueError: a file is missing or broken, `tokenizers` is not installed, or no end token
                is named, or one that the tokenizer lacks, or the files disagree on an id; the
                message names file and field.
        """
        folder = Path(folder)
        tokenizer, values = read_tokenizer(folder)
        found = _special_tokens(folder, values, tokenizer)
        add_special(tokenizer, folder, values, require_tokenizers().AddedToken)
        eos = found["eos"]
        if eos is None:
            raise ValueError(
                f"{folder}: no end token: {CONFIG} must name an eos_token, or "
                "generation_config.json or config.json an eos_token_id"
            )
        pad = eos if found["pad"] is None else found["pad"]
        return cls(tokenizer, eos, pad, found["bos"], (), values[CONFIG])

    @functools.cached_property
    def size(self) -> int:
        """The next free id: one more than the largest.

        A checkpoint may have more embedding rows than that: Qwen2.5 has 151,665 tokens and 151,936
        rows, the rest being padding that no token uses. New tokens take those rows first, as
        `resize_token_embeddings(len(tokenizer))` of transformers has it; only what goes beyond
        them needs new rows. (It also cuts padding rows that stay unused; a model that
        `minirec.models.vocabulary.grow` has grown has one row a token, too.)
        """
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def added_ids(self) -> Int32[np.ndarray, " n"]:
        """The ids of `added`, ascending and without gaps."""
        return self.ids(self.added)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_flat(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, " total"], Int64[np.ndarray, " n_and_one"]]:
        """Returns the ids of all texts, one behind the other, and where each begins.

        Returns:
            `ids` and `offsets`: text `i` is `ids[offsets[i]:offsets[i + 1]]`.
        """
        parts, sizes = [np.zeros(0, np.int32)], [0]
        for some in itertools.batched(texts, _TEXTS_A_CALL):
            encoded = self.encode_batch(some)
            sizes.extend(map(len, encoded))
            parts.append(np.fromiter(itertools.chain.from_iterable(encoded), np.int32))
        return np.concatenate(parts), np.cumsum(np.array(sizes, np.int64))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; the end token and others that are special are left out."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)

    def decode_batch(self, sequences: Iterable[Sequence[int]]) -> list[str]:
        """Returns the text of each sequence of ids, as `decode` does."""
        return self._tokenizer.decode_batch(
            [[int(token) for token in ids] for ids in sequences], skip_special_tokens=True
        )

    def ids(self, names: Iterable[str]) -> Int32[np.ndarray, " n"]:
        """Returns the ids of tokens by their spelling.

        Raises:
            ValueError: a spelling that the tokenizer does not have.
        """
        names = list(names)
        found = [self._tokenizer.token_to_id(name) for name in names]
        for name, token in zip(names, found, strict=True):
            if token is None:
                raise ValueError(f"{name!r} is not a token of the tokenizer ({self.size} tokens)")
        return np.array(found, np.int32)

    def spelling(self, token: int) -> str | None:
        """Returns how a token is spelled; None where none has this id."""
        return self._tokenizer.id_to_token(token)

    def plain(self, text: str) -> str:
        """Returns the text in one line, in which nothing reads as an added token.

        White space is folded to single blanks; the characters of an added token's spelling are set
        apart by blanks, so that a title cannot end an answer or name an item.
        """
        text = " ".join(text.split())
        if self._spellings is None:
            return text
        return self._spellings.sub(lambda match: " ".join(match[0]), text)

    @functools.cached_property
    def _spellings(self) -> re.Pattern[str] | None:
        contents = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        # A run of blanks is a token of some models and harmless; one character cannot be set apart.
        contents = [content for content in contents if len(content.strip()) > 1]
        contents.sort(key=len, reverse=True)
        return re.compile("|".join(map(re.escape, contents))) if contents else None

    def with_sid_tokens(self, names: Iterable[str]) -> Self:
        """Returns a tokenizer that has a token for each SID token, such as `<a_12>`.

        Those that it has already keep their ids; the others get the ids from `size` on, in the
        order of their spelling (`<a_10>` before `<a_2>`), as MiniOneRec adds them. Each becomes
        exactly one id wherever it stands in a text.

        Raises:
            ValueError: a name is not spelled like a SID token, or does not become one id of its
                own.
        """
        names = sorted(set(names))
        for name in names:
            if parse_token(name) is None:
                raise ValueError(f"SID token {name!r}: expected something like '<a_12>'")
        return self.with_tokens(names)

    def with_tokens(self, names: Sequence[str]) -> Self:
        """Returns a tokenizer that has a token for each name.

        Those that it has already keep their ids; the others get the ids from `size` on, in the
        order given. Each becomes exactly one id wherever it stands in a text, and decoding leaves
        none out.

        Args:
            names: their spellings, all different.

        Raises:
            ValueError: a name stands there twice, or does not become one id of its own.
        """
        if len(set(names)) < len(names):
            again = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"token {again!r} stands there twice: spellings must differ")
        library = require_tokenizers()
        tokenizer = library.Tokenizer.from_str(self._tokenizer.to_str())
        new = tuple(name for name in names if tokenizer.token_to_id(name) is None)
        # Those in the model's own vocabulary are added as well: merges need not lead to them. They
        # keep their ids. No SID token is special, or decoding would leave it out.
        tokenizer.add_tokens(
            [library.AddedToken(name, normalized=False, special=False) for name in names]
        )
        before = self._tokenizer.get_added_tokens_decoder().values()
        if {token.content for token in before if token.special}.intersection(names):
            # The library goes on leaving them out until it has read its own words again.
            tokenizer = library.Tokenizer.from_str(tokenizer.to_str())
        made = dataclasses.replace(self, _tokenizer=tokenizer, added=(*self.added, *new))
        got = made.ids(new).tolist()
        if got != list(range(self.size, self.size + len(new))):
            raise ValueError(
                f"the tokenizer gave the new tokens the ids {got[:3]}…, not those from its "
                f"size on ({self.size}): its vocabulary has gaps or double ids"
            )
        for name, token, ids in zip(names, made.ids(names), made.encode_batch(names), strict=True):
            if ids != [token]:
                raise ValueError(
                    f"token {name!r} becomes the ids {ids} instead of its own, {token}: the "
                    "tokenizer's normalizer or pre-tokenizer takes it apart"
                )
        return made

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which transformers reads, too."""
        folder = Path(folder)
        decoder = self._tokenizer.get_added_tokens_decoder()
        added = {
            str(token): {
                "content": entry.content,
                "lstrip": entry.lstrip,
                "normalized": entry.normalized,
                "rstrip": entry.rstrip,
                "single_word": entry.single_word,
                "special": entry.special,
            }
            for token, entry in sorted(decoder.items())
        }
        spelled = {
            f"{name}_token": None if token is None else self._tokenizer.id_to_token(token)
            for name, token in (
                ("bos", self.bos_token_id),
                ("eos", self.eos_token_id),
                ("pad", self.pad_token_id),
            )
        }
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self.settings, **spelled}
        files.write_text(folder / TOKENIZER, self._tokenizer.to_str(pretty=True) + "\n")
        files.write_json(folder / CONFIG, settings | {"added_tokens_decoder": added})


def read_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, dict[str, Any]]]:
    """Returns the tokenizer of a folder, and the objects in the `FILES` that describe it.

    It has all tokens that a file gives an id to, and neither pads nor cuts.

    Raises:
        ValueError: a file is missing or broken, `tokenizers` is not installed, or the files
            disagree on an id.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: needs a Hugging Face folder that holds a fast tokenizer's "
            "tokenizer.json"
        )
    library = require_tokenizers()
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{path}: not a tokenizer: {error}") from error
    # transformers writes down the last ones that were asked for.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    values = {file: _object(folder / file) for file in FILES}
    add_stated(tokenizer, folder, values, library.AddedToken)
    return tokenizer, values


def require_tokenizers() -> Any:
    """Returns the library `tokenizers`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            "text needs the Python package tokenizers: pip install 'minirec[lm]'"
        ) from error
    return tokenizers


def _object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    return files.read_json(path, dict)


def _special_tokens(
    folder: Path, values: Mapping[str, Mapping[str, Any]], tokenizer: Tokenizer
) -> dict[str, int | None]:
    """Returns the ids of bos, eos and pad; None for one that no file names."""
    found: dict[str, int | None] = dict.fromkeys(("bos", "eos", "pad"))
    for file in naming_files(values):
        settings = values[file]
        for name, before in found.items():
            value = settings.get(f"{name}_token")
            if before is not None or value is None:
                continue
            spelling = value.get("content") if isinstance(value, dict) else value
            token = tokenizer.token_to_id(spelling) if isinstance(spelling, str) else None
            if token is None:
                raise ValueError(
                    f"{folder / file}: {name}_token is {value!r}: it must be a token of "
                    f"{TOKENIZER}, or {CONFIG} must state its id in added_tokens_decoder"
                )
            found[name] = token
    for file in _DEFAULTS:
        settings = values[file]
        for name in ("eos", "pad"):
            value = settings.get(f"{name}_token_id")
            if isinstance(value, list):
                value = value[0] if value else None
            if found[name] is not None or value is None:
                continue
            is_id = type(value) is int and 0 <= value < 2**31
            if not is_id or tokenizer.id_to_token(value) is None:
                raise ValueError(
                    f"{folder / file}: {name}_token_id is {value!r}: it must be the id of a token "
                    f"of {TOKENIZER}"
                )
            found[name] = value
    return found
