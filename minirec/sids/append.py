"""SIDs of items that came later: new ones for them, none of the old ones moves."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Int32

from minirec import files
from minirec.files.schema import NUMBER
from minirec.sids.codebooks import Codebooks
from minirec.sids.collisions import nearest_first
from minirec.sids.free_sids import FreeSids
from minirec.sids.table import SidTable, parse_sids, token_string

_ITEM = {"title": str, "sid": [str], "attributes?": [str], "columns?": {str: (str, NUMBER)}}
_FILE = {"sids_sha256": str, "items": {str: _ITEM}}
_REMEDY = "remove the file and append the items again"


def append_sids(
    codes: Int[np.ndarray, "N L"],
    quantiser: Codebooks,
    vectors: Float[np.ndarray, "n D"],
    policy: Literal["extra_level", "spare_capacity", "keep"],
    trained: Int[np.ndarray, "M L"] | None = None,
) -> Int32[np.ndarray, "n L"]:
    """Returns SIDs of new items, in their order.

    Only codes are given that some item has already, since only these have a token that a trained
    model knows. Where SIDs are unique (all policies but `keep`) a new item gets the free SID that
    shares the longest prefix with its nearest one.

    Args:
        codes: the SIDs that are taken.
        quantiser: what made them.
        vectors: the new items' vectors.
        policy: how the SIDs were told apart (`minirec.sids.collisions`).
        trained: the SIDs whose codes have tokens; None: all that are taken.

    Raises:
        ValueError: no SID is left, or the SIDs are not the quantiser's.
    """
    trained = codes if trained is None else trained
    num_levels, made = codes.shape[1], len(quantiser.codebooks)
    if num_levels != made + (policy == "extra_level"):
        raise ValueError(
            f"codes: {num_levels} levels, but the codebooks are of {made} and the policy is "
            f"{policy!r}"
        )
    allowed = [np.unique(trained[:, level]) for level in range(num_levels)]
    known = dataclasses.replace(
        quantiser,
        counts=tuple(
            np.isin(np.arange(size), allowed[level]).astype(np.int64)
            for level, size in enumerate(quantiser.codebook_sizes)
        ),
    )
    wanted = known.encode(vectors)
    if policy == "keep":
        return wanted
    free = FreeSids(allowed, codes)
    if free.num_free < len(vectors):
        raise ValueError(
            f"{len(vectors)} new items, but only {free.num_free} SIDs over the codes that the "
            "model knows are free; make SIDs anew and train again"
        )
    sids = []
    for sid, vector in zip(wanted, known.latent(vectors), strict=True):
        nearest = nearest_first(known, vector)

        def preference(prefix: Sequence[int], nearest: Any = nearest) -> np.ndarray:
            level = len(prefix)
            if level == made:  # The level that only tells items apart: its lowest free number.
                return allowed[level]
            order = nearest(prefix)
            return order[np.isin(order, allowed[level])]

        sids.append(free.take(sid, preference))
    return np.array(sids, np.int32).reshape(len(vectors), num_levels)


@dataclasses.dataclass(frozen=True, eq=False)
class AppendedItems:
    """Items that were given SIDs after the others.

    Attributes:
        sids_sha256: of the file of SIDs that they were appended to.
        raw_item_ids: what the log calls them.
        titles: what people call them.
        codes: `[n, L]` their SIDs.
        attributes: of each, written `name=value`; empty: nothing is known of any.
        columns: of each, what the columns that the records carry say of it: texts and finite
            numbers by name, without those that are missing; empty: nothing is known of any.
    """

    sids_sha256: str
    raw_item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    codes: Int32[np.ndarray, "n L"]
    attributes: tuple[Sequence[str], ...] = ()
    columns: tuple[Mapping[str, str | float], ...] = ()

    def attributes_of(self, place: int) -> Sequence[str]:
        """Returns the attributes of the item at a place."""
        return self.attributes[place] if self.attributes else ()

    def columns_of(self, place: int) -> Mapping[str, str | float]:
        """Returns what the columns say of the item at a place."""
        return self.columns[place] if self.columns else {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `{"sids_sha256": …, "items": {raw_item_id: {"title": …, "sid": […]}}}`, sealed.

        An item of which they are known has "attributes" and "columns" as well.
        """
        rows = zip(self.raw_item_ids, self.titles, self.codes.tolist(), strict=True)
        items: dict[str, dict[str, Any]] = {
            raw: {"title": title, "sid": [token_string(*entry) for entry in enumerate(sid)]}
            for raw, title, sid in rows
        }
        for place, item in enumerate(items.values()):
            if attributes := self.attributes_of(place):
                item["attributes"] = list(attributes)
            if columns := self.columns_of(place):
                item["columns"] = dict(columns)
        files.write_sealed(path, {"sids_sha256": self.sids_sha256, "items": items})

    @classmethod
    def load(cls, path: str | os.PathLike[str], table: SidTable, sids_sha256: str) -> AppendedItems:
        """Returns what `save` wrote; nothing where there is no such file.

        Args:
            path: where.
            table: the SIDs that they were appended to.
            sids_sha256: of the file of these.

        Raises:
            ValueError: the file is damaged, or belongs to other SIDs.
        """
        path = Path(path)
        if not path.is_file():
            empty = np.zeros((0, table.num_levels), np.int32)
            return cls(sids_sha256, (), (), empty)
        value = files.read_sealed(path, _REMEDY, _FILE)
        items = value["items"]
        if value["sids_sha256"] != sids_sha256:
            raise ValueError(
                f"{path}: sids_sha256 is {value['sids_sha256']!r}, but the SIDs at hand are "
                f"{sids_sha256!r}: the items were appended to other SIDs. Remove the file and "
                "append them again"
            )
        known = set(table.raw_item_ids)
        twice = next((raw for raw in items if raw in known), None)
        if twice is not None:
            raise ValueError(f"{path}: item {twice!r} is among the others already")
        if not items:
            return cls(sids_sha256, (), (), np.zeros((0, table.num_levels), np.int32))
        sids = {raw: item["sid"] for raw, item in items.items()}
        codes = parse_sids(path, sids, table.codebook_sizes)
        titles = tuple(item["title"] for item in items.values())
        return cls(
            sids_sha256,
            tuple(items),
            titles,
            codes,
            tuple(item.get("attributes", []) for item in items.values()),
            tuple(item.get("columns", {}) for item in items.values()),
        )
