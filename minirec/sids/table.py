"""The SID table: which tuple of codes each item of a catalogue has, and its file `sids.json`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Int, Int32

from minirec import files

LEVEL_LETTERS = "abcdefghijklmnop"
"""The letter of each level in published SID tokens: level 0 is `a`, level 15 is `p`."""

MAX_LEVELS = len(LEVEL_LETTERS)
MAX_CODEBOOK_SIZE = 65_536

_TOKEN = re.compile(r"<([a-p])_(0|[1-9][0-9]{0,8})>", re.ASCII)
_SID = re.compile(rf"(?:{_TOKEN.pattern})+", re.ASCII)
_TOKEN_SPELLING = re.compile(r"<[^<>]*>")
_NEGATIVE = re.compile(r"<[a-p]_-[0-9]+>", re.ASCII)


def token_string(level: int, code: int) -> str:
    """Returns the published spelling of a code, such as `<b_3>` for code 3 of level 1."""
    if not 0 <= level < MAX_LEVELS:
        raise ValueError(f"level {level}: must lie in [0, {MAX_LEVELS})")
    if not 0 <= code < MAX_CODEBOOK_SIZE:
        raise ValueError(f"code {code}: must lie in [0, {MAX_CODEBOOK_SIZE})")
    return f"<{LEVEL_LETTERS[level]}_{code}>"


def parse_token(text: str) -> tuple[int, int] | None:
    """Returns (level, code) of a spelling such as `<b_3>`, or None if it is not one."""
    match = _TOKEN.fullmatch(text)
    if match is None or int(match[2]) >= MAX_CODEBOOK_SIZE:
        return None
    return LEVEL_LETTERS.index(match[1]), int(match[2])


def sid_string(codes: Sequence[int] | Int[np.ndarray, " L"]) -> str:
    """Returns the published spelling of a SID, such as `<a_12><b_3><c_200>`."""
    return "".join(token_string(level, int(code)) for level, code in enumerate(codes))


def parse_sid(text: str) -> tuple[int, ...]:
    """Returns the codes of a SID spelled like `<a_12><b_3><c_200>`; inverse of `sid_string`.

    Raises:
        ValueError: the text is not a SID, or its levels are not a, b, c, … in this order.
    """
    if _SID.fullmatch(text) is None:
        raise ValueError(f"SID {text!r}: expected something like '<a_12><b_3><c_200>'")
    return tuple(_parse_row(_TOKEN_SPELLING.findall(text), where=f"SID {text!r}"))


@dataclasses.dataclass(frozen=True, eq=False)
class SidTable:
    """The SIDs of a catalogue: row `i` of `codes` is the SID of item `i`.

    Attributes:
        raw_item_ids: what the log calls each item, by dense `item_id`; all different.
        codes: `[N, L]`, read-only; the code at level `l` lies in `[0, codebook_sizes[l])`.
        codebook_sizes: K of each level.
        num_ignored: how many items the file held beside those asked for, where `load` was given
            a catalogue; 0 otherwise.
    """

    raw_item_ids: Sequence[str]
    codes: Int32[np.ndarray, "N L"]
    codebook_sizes: tuple[int, ...]
    num_ignored: int = 0

    def __post_init__(self) -> None:
        """Checks every field and makes `codes` read-only.

        Raises:
            ValueError: no items, repeated items, more than 16 levels, a code outside its
                codebook, or lengths that do not fit each other.
        """
        raw_item_ids = tuple(self.raw_item_ids)
        codes = np.asarray(self.codes)
        sizes = tuple(int(size) for size in self.codebook_sizes)
        if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                f"codes: expected an integer array [N, L], got {codes.dtype} {list(codes.shape)}"
            )
        num_items, num_levels = codes.shape
        if num_items == 0:
            raise ValueError("codes: the table has no items; it needs at least one")
        if not 1 <= num_levels <= MAX_LEVELS:
            raise ValueError(f"codes: {num_levels} levels; there must be 1 to {MAX_LEVELS}")
        if len(raw_item_ids) != num_items:
            raise ValueError(f"raw_item_ids: {len(raw_item_ids)} names for {num_items} rows")
        _check_raw_item_ids(raw_item_ids)
        if len(sizes) != num_levels:
            raise ValueError(f"codebook_sizes: {len(sizes)} given for {num_levels} levels")
        for level, size in enumerate(sizes):
            if not 1 <= size <= MAX_CODEBOOK_SIZE:
                raise ValueError(
                    f"codebook_sizes: {size} at level {level}; must lie in [1, {MAX_CODEBOOK_SIZE}]"
                )
        wrong = (codes < 0) | (codes >= np.asarray(sizes, dtype=np.int64))
        if wrong.any():
            row, level = (int(place) for place in np.argwhere(wrong)[0])
            raise ValueError(
                f"codes: item {raw_item_ids[row]!r} (row {row}) has code {codes[row, level]} at "
                f"level {level}; must lie in [0, {sizes[level]})"
            )
        codes = np.array(codes, dtype=np.int32, order="C")
        codes.flags.writeable = False
        object.__setattr__(self, "raw_item_ids", raw_item_ids)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "codebook_sizes", sizes)

    @property
    def num_items(self) -> int:
        """N, the number of items."""
        return self.codes.shape[0]

    @property
    def num_levels(self) -> int:
        """L, the number of codes of a SID."""
        return self.codes.shape[1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `{"<raw_item_id>": ["<a_12>", "<b_3>", …], …}`, in the order of the rows.

        The format is that of LETTER's and MiniOneRec's `index.json`. It does not hold
        `codebook_sizes`: give them to `load` where the rounded ones would not do.
        """
        columns = [
            [token_string(level, code) for code in range(int(self.codes[:, level].max()) + 1)]
            for level in range(self.num_levels)
        ]
        rows = (
            f"{json.dumps(raw_item_id, ensure_ascii=False)}: "
            + json.dumps([column[code] for column, code in zip(columns, row, strict=True)])
            for raw_item_id, row in zip(self.raw_item_ids, self.codes.tolist(), strict=True)
        )
        files.write_text(path, "{\n" + ",\n".join(rows) + "\n}\n")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        raw_item_ids: Sequence[str] | None = None,
        codebook_sizes: Sequence[int] | None = None,
    ) -> Self:
        """Returns the table in a file as `save`, LETTER or MiniOneRec write it.

        Args:
            path: the JSON file, keyed by raw item id.
            raw_item_ids: the catalogue; the table's rows follow its order, and what the file
                holds beside it is only counted (`num_ignored`). None takes every item of the
                file, in the file's order.
            codebook_sizes: K of each level. None takes, a level, the smallest power of two that
                is above every code in the file.

        Raises:
            ValueError: the file is not such a table, an item occurs twice or is missing, SIDs
                differ in length, or a token is malformed, of the wrong level or outside its
                codebook. The message names file, item and value.
        """
        path = Path(path)
        sids = _read_object(path)
        if not sids:
            raise ValueError(f"{path}: holds no items; expected at least one")
        names = tuple(sids) if raw_item_ids is None else tuple(raw_item_ids)
        _check_raw_item_ids(names)
        missing = [name for name in names if name not in sids]
        if missing:
            raise ValueError(
                f"{path}: item {missing[0]!r} of the catalogue has no SID"
                + (f" ({len(missing)} items lack one)" if len(missing) > 1 else "")
                + f"; the file holds {len(sids)} items, such as {next(iter(sids))!r}"
            )
        # Items beside the catalogue are checked too: a damaged file is not to be trusted.
        codes_of_file = _parse(path, sids)
        if codebook_sizes is None:
            sizes = tuple(1 << int(top).bit_length() for top in codes_of_file.max(axis=0))
        else:
            sizes = tuple(int(size) for size in codebook_sizes)
            _check_sizes(path, tuple(sids), codes_of_file, sizes)
        row_of = {name: row for row, name in enumerate(sids)}
        rows = np.fromiter((row_of[name] for name in names), dtype=np.int64, count=len(names))
        return cls(names, codes_of_file[rows], sizes, num_ignored=len(sids) - len(names))


def _check_raw_item_ids(names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        seen: set[str] = set()
        name = next(name for name in names if name in seen or seen.add(name))
        raise ValueError(f"raw_item_ids: {name!r} occurs more than once; ids must differ")
    for row, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(f"raw_item_ids: {name!r} (row {row}) is not a string")


def _read_object(path: Path) -> dict[str, Any]:
    value = files.read_json(path)
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: holds a {type(value).__name__}; expected an object "
            '{"<raw_item_id>": ["<a_12>", "<b_3>", …], …}'
        )
    return value


class _CodesOfLevel(dict[str, int]):
    """Spelling to code of one level, filled as spellings turn up: each is parsed only once."""

    def __init__(self, level: int):
        super().__init__()
        self._level = level

    def __missing__(self, spelling: str) -> int:
        parsed = parse_token(spelling)
        if parsed is None or parsed[0] != self._level:
            raise ValueError(spelling)
        self[spelling] = parsed[1]
        return parsed[1]


def parse_sids(
    path: Path, sids: dict[str, Any], codebook_sizes: Sequence[int]
) -> Int32[np.ndarray, "N L"]:
    """Returns the codes of SIDs that are lists of tokens, by raw item id.

    Raises:
        ValueError: a token that is malformed, of the wrong level or outside its codebook; the
            message names `path`, item and value.
    """
    codes = _parse(path, sids)
    _check_sizes(path, tuple(sids), codes, tuple(codebook_sizes))
    return codes


def _parse(path: Path, sids: dict[str, Any]) -> Int32[np.ndarray, "N L"]:
    """Returns the codes of all items; a fault sends it to `_explain`, which names the item."""
    try:
        if not all(type(sid) is list for sid in sids.values()):
            raise TypeError
        columns = list(zip(*sids.values(), strict=True))
        if not 1 <= len(columns) <= MAX_LEVELS:
            raise ValueError
        return np.stack(
            [
                np.fromiter(
                    map(_CodesOfLevel(level).__getitem__, column), np.int32, count=len(column)
                )
                for level, column in enumerate(columns)
            ],
            axis=1,
        )
    except (ValueError, TypeError):
        _explain(path, sids)
        raise


def _explain(path: Path, sids: dict[str, Any]) -> None:
    """Raises the error that names the first item at fault."""
    num_levels = None
    for name, sid in sids.items():
        where = f"{path}: item {name!r}"
        if not isinstance(sid, list):
            raise ValueError(
                f"{where}: {sid!r} is not a list of tokens such as ['<a_12>', '<b_3>']"
            )
        if not 1 <= len(sid) <= MAX_LEVELS:
            raise ValueError(f"{where}: {sid!r} has {len(sid)} levels; expected 1 to {MAX_LEVELS}")
        num_levels = num_levels or len(sid)
        if len(sid) != num_levels:
            raise ValueError(
                f"{where}: {sid!r} has {len(sid)} levels; the items before it have {num_levels}"
            )
        _parse_row(sid, where)


def _parse_row(tokens: Sequence[Any], where: str) -> list[int]:
    """Returns one SID's codes, or raises the error that says what is wrong with which token."""
    codes = []
    if len(tokens) > MAX_LEVELS:
        raise ValueError(f"{where}: {len(tokens)} levels; expected 1 to {MAX_LEVELS}")
    for level, token in enumerate(tokens):
        expected = f"expected '<{LEVEL_LETTERS[level]}_CODE>'"
        if not isinstance(token, str):
            raise ValueError(f"{where}: {token!r} at level {level} is not a token; {expected}")
        if _NEGATIVE.fullmatch(token):
            raise ValueError(f"{where}: {token!r} at level {level} has a negative code")
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ValueError(f"{where}: {token!r} at level {level} is malformed; {expected}")
        if match[1] != LEVEL_LETTERS[level]:
            raise ValueError(
                f"{where}: {token!r} at level {level} carries another level's letter; {expected}"
            )
        if int(match[2]) >= MAX_CODEBOOK_SIZE:
            raise ValueError(
                f"{where}: {token!r} at level {level}: codes lie in [0, {MAX_CODEBOOK_SIZE})"
            )
        codes.append(int(match[2]))
    return codes


def _check_sizes(
    path: Path, names: tuple[str, ...], codes: Int32[np.ndarray, "N L"], sizes: tuple[int, ...]
) -> None:
    if len(sizes) != codes.shape[1]:
        raise ValueError(
            f"{path}: SIDs of {codes.shape[1]} levels, but codebook_sizes has {len(sizes)}: {sizes}"
        )
    above = codes >= np.asarray(sizes, dtype=np.int64)
    if above.any():
        row, level = (int(place) for place in np.argwhere(above)[0])
        raise ValueError(
            f"{path}: item {names[row]!r}: {token_string(level, int(codes[row, level]))!r} at "
            f"level {level} lies outside its codebook; codes lie in [0, {sizes[level]})"
        )
