"""The model's vocabulary: which token stands for which code of which level."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Int, Int32

from minirec import files
from minirec.sids.table import LEVEL_LETTERS, SidTable, parse_token, token_string

# Two letters at least, so that a damaged code such as `<a_1x>` cannot pass for a special token.
_SPECIAL = re.compile(r"<[A-Za-z]{2,}[A-Za-z0-9_]*>", re.ASCII)


@dataclasses.dataclass(frozen=True, eq=False)
class SidVocab:
    """An explicit table between tokens and (level, code).

    Only codes that have a token are in it, in any order, as checkpoints hold them: the position
    of a spelling in `token_strings` is its token. Tokens 0 and 1 are always `<pad>` and `<bos>`;
    other names in angle brackets (`<eos>`) are specials that encode nothing.

    Attributes:
        token_strings: the spelling of every token.
        level_of_token: `[V]` int32, -1 for specials; read-only.
        code_of_token: `[V]` int32, -1 for specials; read-only.
    """

    PAD: ClassVar[int] = 0
    BOS: ClassVar[int] = 1
    PAD_STRING: ClassVar[str] = "<pad>"
    BOS_STRING: ClassVar[str] = "<bos>"

    token_strings: tuple[str, ...]
    level_of_token: Int32[np.ndarray, " V"] = dataclasses.field(init=False, repr=False)
    code_of_token: Int32[np.ndarray, " V"] = dataclasses.field(init=False, repr=False)
    _token_of_code: Int32[np.ndarray, "L K"] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the spellings and builds the arrays.

        Raises:
            ValueError: a spelling is malformed or occurs twice, `<pad>` or `<bos>` is not where
                it belongs, there is no code at all, or a level between others has none.
        """
        strings = tuple(self.token_strings)
        if strings[:2] != (self.PAD_STRING, self.BOS_STRING):
            raise ValueError(
                f"tokens 0 and 1 are {list(strings[:2])}; expected "
                f"{[self.PAD_STRING, self.BOS_STRING]}"
            )
        token_of: dict[str, int] = {}
        places = np.full((len(strings), 2), -1, dtype=np.int32)
        for token, string in enumerate(strings):
            parsed = parse_token(string) if isinstance(string, str) else None
            if parsed is not None:
                places[token] = parsed
            elif not (isinstance(string, str) and _SPECIAL.fullmatch(string)):
                raise ValueError(
                    f"token {token}: {string!r} is neither a code such as '<b_3>' nor a special "
                    "token such as '<eos>'"
                )
            if token_of.setdefault(string, token) != token:
                raise ValueError(
                    f"token {token}: {string!r} is token {token_of[string]} already; "
                    "each spelling has one token"
                )
        levels, codes = places[:, 0].copy(), places[:, 1].copy()
        num_levels = int(levels.max()) + 1
        if num_levels == 0:
            raise ValueError("no token stands for a code; expected some such as '<a_12>'")
        empty = sorted(set(range(num_levels)) - set(levels.tolist()))
        if empty:
            raise ValueError(
                f"no token of level {empty[0]} ('<{LEVEL_LETTERS[empty[0]]}_CODE>'), though level "
                f"{num_levels - 1} has some"
            )
        token_of_code = np.full((num_levels, int(codes.max()) + 1), -1, dtype=np.int32)
        is_code = levels >= 0
        token_of_code[levels[is_code], codes[is_code]] = np.flatnonzero(is_code)
        for name, array in (
            ("level_of_token", levels),
            ("code_of_token", codes),
            ("_token_of_code", token_of_code),
        ):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "token_strings", strings)

    @classmethod
    def from_table(cls, table: SidTable) -> Self:
        """Returns the vocabulary of the codes that occur in `table`, by level, then by code."""
        return cls(
            (
                cls.PAD_STRING,
                cls.BOS_STRING,
                *(
                    token_string(level, int(code))
                    for level in range(table.num_levels)
                    for code in np.unique(table.codes[:, level])
                ),
            )
        )

    @classmethod
    def from_token_strings(cls, token_strings: Sequence[str]) -> Self:
        """Returns the vocabulary in exactly the order given, such as a checkpoint's."""
        return cls(tuple(token_strings))

    @property
    def size(self) -> int:
        """V, the number of tokens, specials included."""
        return len(self.token_strings)

    @property
    def num_levels(self) -> int:
        """L, the number of tokens of a SID."""
        return self._token_of_code.shape[0]

    def encode(self, codes: Int[np.ndarray, "*shape L"]) -> Int32[np.ndarray, "*shape L"]:
        """Returns the tokens of SIDs; the last axis runs over the levels.

        Raises:
            ValueError: the last axis has not L entries, or a code has no token; the message
                names its level.
        """
        codes = self._integers("codes", codes)
        known = (codes >= 0) & (codes < self._token_of_code.shape[1])
        levels = np.arange(self.num_levels)
        tokens = self._token_of_code[levels, np.where(known, codes, 0)]
        known &= tokens >= 0
        if not known.all():
            place = tuple(int(axis) for axis in np.argwhere(~known)[0])
            raise ValueError(
                f"codes{list(place)}: code {codes[place]} of level {place[-1]} has no token; this "
                f"level has {int((self._token_of_code[place[-1]] >= 0).sum())} codes with one. The "
                "vocabulary was made for another SID table"
            )
        return tokens

    def decode(self, tokens: Int[np.ndarray, "*shape L"]) -> Int32[np.ndarray, "*shape L"]:
        """Returns the codes of SIDs; inverse of `encode`.

        Raises:
            ValueError: the last axis has not L entries, or a token is not a code of the level it
                stands at (specials never are; a dead beam has no SID to decode).
        """
        tokens = self._integers("tokens", tokens)
        inside = (tokens >= 0) & (tokens < self.size)
        safe = np.where(inside, tokens, 0)
        right = inside & (self.level_of_token[safe] == np.arange(self.num_levels))
        if not right.all():
            place = tuple(int(axis) for axis in np.argwhere(~right)[0])
            token = int(tokens[place])
            what = repr(self.token_strings[token]) if inside[place] else f"outside [0, {self.size})"
            raise ValueError(
                f"tokens{list(place)}: token {token} ({what}) is not a code of level {place[-1]}"
            )
        return self.code_of_token[safe]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `{"tokens": ["<pad>", "<bos>", "<a_0>", …]}`, sealed; the place is the token."""
        files.write_sealed(path, {"tokens": list(self.token_strings)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the vocabulary that `save` wrote.

        Raises:
            ValueError: the file is not one, or damaged; the message names file, token and value.
        """
        remedy = "train again, which writes it anew"
        value = files.read_sealed(path, remedy, {"tokens": [str]})
        try:
            return cls(tuple(value["tokens"]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _integers(self, name: str, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name}: expected integers, got {values.dtype}")
        if values.ndim == 0 or values.shape[-1] != self.num_levels:
            raise ValueError(
                f"{name}: shape {list(values.shape)}; the last axis must have the "
                f"{self.num_levels} levels of a SID"
            )
        return values
