"""SIDs as JSON lines, one item a line, with tokens of any spelling: `<L1_1348><L2_1019>…`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from minirec import files
from minirec.sids.table import SidTable


@dataclasses.dataclass(frozen=True)
class SidFields:
    """What the fields of a line are called.

    Attributes:
        item_id: a whole number, the item's.
        semantic_id: its SID as one text.
        tokens: the tokens of the SID, which make up that text.
        codes: the code of each level.
        name: its title; "" for none.
    """

    item_id: str = "item_id"
    semantic_id: str = "semantic_id"
    tokens: str = "tokens"
    codes: str = "codes"
    name: str = "name"


@dataclasses.dataclass(frozen=True, eq=False)
class SidLines:
    """The SIDs of a file, in its order.

    Attributes:
        item_id: int64 [N], all different.
        codes: int32 [N, L].
        sids: [N] each SID as one text, all different.
        tokens: by level, the spelling of each code that occurs.
        names: [N] titles; "" where a line has none.
    """

    item_id: Int64[np.ndarray, " N"]
    codes: Int32[np.ndarray, "N L"]
    sids: tuple[str, ...]
    tokens: tuple[Mapping[int, str], ...]
    names: tuple[str, ...]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The smallest power of two above all codes of each level."""
        return tuple(1 << int(top).bit_length() for top in self.codes.max(axis=0))

    def spellings(self) -> tuple[str, ...]:
        """Returns the spellings of all codes that occur, level after level, by code."""
        return tuple(level[code] for level in self.tokens for code in sorted(level))

    def table(self) -> SidTable:
        """Returns the table of these items, called by their ids in decimal."""
        return SidTable(
            [str(one) for one in self.item_id.tolist()], self.codes, self.codebook_sizes
        )


def read_sid_lines(path: str | os.PathLike[str], fields: SidFields | None = None) -> SidLines:
    """Returns the SIDs in a file of JSON lines.

    Args:
        path: the file.
        fields: what its fields are called; None takes `SidFields()`, with the item's id in the one
            field of the first line that ends in `_id`, beside the SID's.

    Raises:
        ValueError: the file is missing, empty or not JSON; a field is missing or of another type;
            an id or a SID stands there twice; tokens do not make up the SID, differ in number from
            the codes or from the lines before; or one code has two spellings. The message names
            file, line, field and value.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it must hold a SID a line, as JSON")
    if fields is None:
        first = next((value for _, value in files.read_json_lines(path, dict)), {})
        names = [name for name in first if name.endswith("_id") and name != SidFields.semantic_id]
        fields = SidFields(item_id=names[0]) if len(names) == 1 else SidFields()
    ids: dict[int, int] = {}
    sids: dict[str, int] = {}
    rows: list[list[int]] = []
    names: list[str] = []
    tokens: list[dict[int, str]] = []
    for line, value in files.read_json_lines(path, dict):
        where = f"{path}, line {line}"
        item = value.get(fields.item_id)
        if type(item) is not int or not -(2**63) <= item < 2**63:
            raise ValueError(f"{where}: {fields.item_id} is {item!r:.80}; must be a whole number")
        if item in ids:
            raise ValueError(
                f"{where}: {fields.item_id} {item} stands in line {ids[item]} already; an item has "
                "one SID"
            )
        sid, parts = value.get(fields.semantic_id), value.get(fields.tokens)
        if not isinstance(sid, str) or not sid:
            raise ValueError(f"{where}: {fields.semantic_id} is {sid!r:.80}; must be text")
        if sid in sids:
            raise ValueError(
                f"{where}: {fields.semantic_id} {sid!r:.200} stands in line {sids[sid]} already; "
                "two items must not share a SID"
            )
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"{where}: {fields.tokens} is {parts!r:.200}; must be a list of texts")
        if "".join(parts) != sid:
            raise ValueError(
                f"{where}: {fields.tokens} {parts!r:.200} do not make up {fields.semantic_id} "
                f"{sid!r:.200}"
            )
        codes = value.get(fields.codes)
        if (
            not isinstance(codes, list)
            or len(codes) != len(parts)
            or not all(type(code) is int and 0 <= code < 2**31 for code in codes)
        ):
            raise ValueError(
                f"{where}: {fields.codes} is {codes!r:.200}; must be {len(parts)} whole numbers "
                f"from 0, as many as {fields.tokens}"
            )
        if rows and len(codes) != len(rows[0]):
            raise ValueError(
                f"{where}: {fields.codes} has {len(codes)} levels; the lines before it have "
                f"{len(rows[0])}"
            )
        tokens = tokens or [{} for _ in codes]
        for level, (code, part) in enumerate(zip(codes, parts, strict=True)):
            if (known := tokens[level].setdefault(code, part)) != part:
                raise ValueError(
                    f"{where}: code {code} of level {level} is spelled {part!r:.80}, but "
                    f"{known!r:.80} before"
                )
        name = value.get(fields.name) if fields.name else ""
        ids[item], sids[sid] = line, line
        rows.append(codes)
        names.append(name if isinstance(name, str) else "")
    if not rows:
        raise ValueError(f"{path}: holds no SIDs; expected a JSON object a line")
    return SidLines(
        np.array(list(ids), np.int64),
        np.array(rows, np.int32),
        tuple(sids),
        tuple(tokens),
        tuple(names),
    )
