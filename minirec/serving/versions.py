"""Versions of the catalogue: checked whole, built beside the one that serves, kept on disk.

A folder holds each version as a sealed JSON file, which of them serves, and the changes of stock
since. What a program that was killed left half done is not looked at: the last version that served
is served again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from minirec import files
from minirec.files.schema import COUNT, NUMBER
from minirec.serving.catalogue import Known, Listing, Stock
from minirec.serving.engine import Engine
from minirec.serving.recommender import Served
from minirec.sids import SidTable
from minirec.sids.append import AppendedItems
from minirec.sids.table import parse_sids, token_string

KEPT = 5
"""Versions that stay on disk, the newest ones."""

STOCK = "stock.jsonl"
"""Changes of stock, a line each."""

STOCK_LINES = 100_000
"""Lines after which they are written as one."""

_CURRENT = "current.json"
_REMEDY = "remove the folder: the server begins anew with the catalogue that its run was given"
_ITEM = {
    "title": str,
    "sid": [str],
    "listed": bool,
    "attributes?": [str],
    "columns?": {str: (str, NUMBER)},
}
_VERSION = {"number": COUNT, "of": str, "items": {str: _ITEM}}
_CURRENT_SHAPE = {"number": COUNT, "before": [COUNT], "of": str}


@dataclasses.dataclass(frozen=True)
class Change:
    """What is to become of the catalogue; all of it, or nothing.

    Attributes:
        sids: path of a whole new file of SIDs, of the same vocabulary; the items that it lacks are
            withdrawn. None: they stay.
        titles: path of a JSON object of titles, by raw item id, of items that are new in `sids`.
        appended: path of what `launch.make_sids --append` wrote; its items come in addition.
        withdraw: raw ids of items that are not listed any more.
        restore: raw ids of items that are listed again.
    """

    sids: str | None = None
    titles: str | None = None
    appended: str | None = None
    withdraw: Sequence[str] = ()
    restore: Sequence[str] = ()


class Builder(Protocol):
    """Makes what answers, of a version's items; `launch.serve` brings it."""

    @property
    def fingerprint(self) -> str:
        """Names the run's records and SIDs: what versions on disk must be of."""
        ...

    @property
    def sids_sha256(self) -> str:
        """Of the file of SIDs that the run was trained with."""
        ...

    @property
    def num_known(self) -> int:
        """Items of the records, which come first in every version."""
        ...

    def with_listing(self, served: Served, number: int, listing: Listing) -> Served:
        """Returns the same model with another version of the catalogue.

        Raises:
            ValueError: the version has codes that the model has no token for, no item at all, or
                more than there is room for.
        """
        ...

    def with_model(self, served: Served, run: str | None, count: int | None = None) -> Served:
        """Returns the same version of the catalogue with another run's model, or the run's newest.

        Args:
            served: what is served.
            run: whose model; None: of the run that is served.
            count: which of all models that were taken over this is, from 1, for the version's
                name; None: the next one.

        Raises:
            ValueError: there is no such run, or its model has another shape.
        """
        ...


class Versions:
    """The versions of an engine's catalogue; one change at a time."""

    def __init__(self, folder: Path, builder: Builder, first: Served, listing: Listing):
        """Looks for what was served before.

        Args:
            folder: where versions are kept; made when the first change comes.
            builder: makes what answers.
            first: what the run was given.
            listing: its items.
        """
        self._first, self._first_listing = first, listing
        # Versions of other records or SIDs mean other items: they stay in folders of their own.
        name = hashlib.sha256(builder.fingerprint.encode()).hexdigest()[:12]
        self._folder, self._builder = folder / name, builder
        self._lock = threading.Lock()
        self._listing, self._before = listing, []
        self._engine: Engine | None = None
        self.served, self.stock = first, Stock(np.ones(listing.table.num_items, bool))
        self._newest, self._stock_lines = first.catalogue.number, 0
        if (self._folder / _CURRENT).is_file():
            self._take_up(first)
        self._sold_out = self._read_sold_out()
        if self._sold_out:
            self.stock = Stock(without(self._listing, self._sold_out))
        if (self._folder / STOCK).is_file():
            self._tidy_stock()

    def serve(self, engine: Engine) -> None:
        """Changes this engine's catalogue from now on."""
        self._engine = engine

    @property
    def number(self) -> int:
        """The version that serves."""
        return self.served.catalogue.number

    def change(self, change: Change) -> Served:
        """Serves another version, once it is found to be whole and lies on disk.

        Raises:
            ValueError: the change cannot be; the message names file, item and value.
            OSError: the version cannot be written; the one before still serves.
        """
        with self._lock:
            listing = self._changed(change)
            number = self._newest + 1
            served = self._builder.with_listing(self.served, number, listing)
            self._begin_folder()
            self._write(number, listing)
            self._serve(served, listing, [*self._before, self.number])
            return served

    def rollback(self) -> Served:
        """Serves the version before again.

        Raises:
            ValueError: there is none.
            OSError: the folder cannot be written.
        """
        with self._lock:
            if not self._before:
                raise ValueError("there is no version of the catalogue before this one")
            *before, number = self._before
            listing = self._read(number)
            served = self._builder.with_listing(self.served, number, listing)
            self._serve(served, listing, before)
            return served

    def change_stock(self, sold_out: Sequence[str], back: Sequence[str]) -> int:
        """Takes items out of stock and puts others back, from the next tile on.

        Returns:
            Changes of stock so far.

        Raises:
            ValueError: the catalogue has no such item.
            OSError: the change cannot be written.
        """
        with self._lock:
            changes = [
                (self._items(ids, name), in_stock)
                for ids, in_stock, name in ((sold_out, False, "out"), (back, True, "in"))
                if len(ids)
            ]
            self._append_stock({"out": list(sold_out), "in": list(back)})
            self._sold_out = (self._sold_out | set(sold_out)) - set(back)
            for items, in_stock in changes:
                self.stock.change(items, in_stock)
            if self._stock_lines >= STOCK_LINES:
                self._write_sold_out()
            return self.stock.number

    def _append_stock(self, change: Mapping[str, Any]) -> None:
        """Writes a line, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / STOCK).open("ab", buffering=0) as file:
            before = file.tell()
            line = (files.json_line(change) + "\n").encode()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise
        self._stock_lines += 1

    def change_model(self, run: str | None) -> Served:
        """Serves another run's model, or the run's newest checkpoint.

        Raises:
            ValueError: there is no such run, or its model has another shape.
        """
        with self._lock:
            self.served = self._builder.with_model(self.served, run)
            if self._engine is not None:
                self._engine.swap(self.served, self.stock)
            return self.served

    def _items(self, ids: Sequence[str], field: str) -> list[int]:
        item_of = self.served.catalogue.item_of
        for place, raw in enumerate(ids):
            if raw not in item_of:
                raise ValueError(f"{field}[{place}]: the catalogue has no item {raw!r}")
        return [item_of[raw] for raw in ids]

    def _changed(self, change: Change) -> Listing:
        listing = self._listing
        if change.sids is not None:
            listing = _replaced(listing, Path(change.sids), change.titles)
        if change.appended is not None:
            listing = self._appended(listing, Path(change.appended))
        item_of = {raw: item for item, raw in enumerate(listing.table.raw_item_ids)}
        listed = listing.listed.copy()
        for name, ids, value in (
            ("withdraw", change.withdraw, False),
            ("restore", change.restore, True),
        ):
            for place, raw in enumerate(ids):
                if raw not in item_of:
                    raise ValueError(f"{name}[{place}]: the catalogue has no item {raw!r}")
                listed[item_of[raw]] = value
        if not listed.any():
            raise ValueError("the version would hold no item; a catalogue needs at least one")
        return dataclasses.replace(listing, listed=listed)

    def _appended(self, listing: Listing, path: Path) -> Listing:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        table, num_known = listing.table, self._builder.num_known
        known = SidTable(
            tuple(table.raw_item_ids)[:num_known], table.codes[:num_known], table.codebook_sizes
        )
        later = AppendedItems.load(path, known, self._builder.sids_sha256)
        here = {raw: item for item, raw in enumerate(table.raw_item_ids)}
        new = []
        for place, raw in enumerate(later.raw_item_ids):
            item = here.get(raw)
            if item is None:
                new.append(place)
            elif (table.codes[item] != later.codes[place]).any():
                raise ValueError(f"{path}: item {raw!r} has another SID in the catalogue")
        return _longer(
            listing,
            [later.raw_item_ids[place] for place in new],
            [later.titles[place] for place in new],
            later.codes[new],
            [Known(later.attributes_of(place), later.columns_of(place)) for place in new],
        )

    def _serve(self, served: Served, listing: Listing, before: Sequence[int]) -> None:
        self._write_current(served.catalogue.number, before)
        self.stock = Stock(without(listing, self._sold_out), self.stock.number)
        self.served, self._listing = served, listing
        self._before = list(before)[-KEPT:]
        self._newest = max(self._newest, served.catalogue.number)
        if self._engine is not None:
            self._engine.swap(served, self.stock)
        self._drop_old()

    def _begin_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._path(self.number).is_file():
            self._write(self.number, self._listing)

    def _path(self, number: int) -> Path:
        return self._folder / f"catalogue-{number:06}.json"

    def _write(self, number: int, listing: Listing) -> None:
        rows = zip(
            listing.table.raw_item_ids,
            listing.titles,
            listing.table.codes.tolist(),
            listing.listed.tolist(),
            strict=True,
        )
        items = {
            raw: {
                "title": title,
                "sid": [token_string(*entry) for entry in enumerate(codes)],
                "listed": listed,
            }
            for raw, title, codes, listed in rows
        }
        for raw, known in zip(list(items)[self._builder.num_known :], listing.later, strict=True):
            if known.attributes:
                items[raw]["attributes"] = list(known.attributes)
            if known.columns:
                items[raw]["columns"] = dict(known.columns)
        value = {"number": number, "of": self._builder.fingerprint, "items": items}
        files.write_sealed(self._path(number), value)

    def _write_current(self, number: int, before: Sequence[int]) -> None:
        value = {"number": number, "before": list(before)[-KEPT:], "of": self._builder.fingerprint}
        files.write_sealed(self._folder / _CURRENT, value)

    def _read(self, number: int) -> Listing:
        path = self._path(number)
        items = files.read_sealed(path, _REMEDY, _VERSION)["items"]
        sizes = self._listing.table.codebook_sizes
        sids = {raw: item["sid"] for raw, item in items.items()}
        return Listing(
            SidTable(tuple(items), parse_sids(path, sids, sizes), sizes),
            tuple(item["title"] for item in items.values()),
            np.array([item["listed"] for item in items.values()], bool),
            tuple(
                Known(item.get("attributes", []), item.get("columns", {}))
                for item in list(items.values())[self._builder.num_known :]
            ),
        )

    def _take_up(self, first: Served) -> None:
        """Serves what was served before, or the newest version of it that is whole."""
        current = files.read_sealed(self._folder / _CURRENT, _REMEDY, _CURRENT_SHAPE)
        numbers = [current["number"], *reversed(current["before"])]
        for number in numbers:
            try:
                listing = self._read(number)
                served = self._builder.with_listing(first, number, listing)
            except (ValueError, OSError) as error:
                _say(f"{error}; the version before is served")
                continue
            self._listing, self.served = listing, served
            self._before = [one for one in current["before"] if one < number]
            self._newest = max([*numbers, *self._on_disk()])
            self.stock = Stock(np.ones(listing.table.num_items, bool))
            return
        _say(f"{self._folder}: no version is whole; the run's own catalogue is served")

    def _on_disk(self) -> list[int]:
        return [int(path.stem[-6:]) for path in self._folder.glob("catalogue-*.json")]

    def _read_sold_out(self) -> set[str]:
        """Returns who is out of stock after all changes that are written down."""
        path = self._folder / STOCK
        sold_out: set[str] = set()
        if not path.is_file():
            return sold_out
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                change = json.loads(line)
                sold_out = (sold_out | set(change["out"])) - set(change["in"])
            except (ValueError, KeyError, TypeError):
                continue  # Cut off where the program was killed.
        return sold_out

    def _tidy_stock(self) -> None:
        """Makes one line of the changes of stock that lie there at the start."""
        self._write_sold_out()

    def _write_sold_out(self) -> None:
        """Writes all changes as one line; where that cannot be, those there are say the same."""
        line = files.json_line({"out": sorted(self._sold_out), "in": []}) + "\n"
        try:
            files.write_text(self._folder / STOCK, line)
        except OSError as error:
            _say(f"{self._folder / STOCK} cannot be written ({error.strerror or error})")
        self._stock_lines = 1

    def _drop_old(self) -> None:
        kept = {self.number, *self._before[-KEPT:]}
        for number in self._on_disk():
            if number not in kept and number < self.number - KEPT:
                self._path(number).unlink(missing_ok=True)


def _replaced(listing: Listing, path: Path, titles_path: str | None) -> Listing:
    """Returns the items of a whole new file of SIDs, those it lacks not listed."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    table = listing.table
    new = SidTable.load(path, None, table.codebook_sizes)
    if new.num_levels != table.num_levels:
        raise ValueError(
            f"{path}: SIDs of {new.num_levels} levels; the model writes {table.num_levels}"
        )
    titles: Mapping[str, str] = {}
    if titles_path is not None:
        titles = files.read_json(Path(titles_path), {str: str})
    place_of = {raw: place for place, raw in enumerate(new.raw_item_ids)}
    codes, listed = table.codes.copy(), np.zeros(table.num_items, bool)
    for item, raw in enumerate(table.raw_item_ids):
        place = place_of.pop(raw, None)
        if place is not None:
            codes[item], listed[item] = new.codes[place], True
    codes_before = SidTable(table.raw_item_ids, codes, table.codebook_sizes)
    ids = list(place_of)
    return _longer(
        dataclasses.replace(listing, table=codes_before, listed=listed),
        ids,
        [titles.get(raw, raw) for raw in ids],
        new.codes[list(place_of.values())],
        [Known()] * len(ids),
    )


def _longer(
    listing: Listing,
    ids: Sequence[str],
    titles: Sequence[str],
    codes: np.ndarray,
    known: Sequence[Known],
) -> Listing:
    table = listing.table
    return Listing(
        SidTable(
            (*table.raw_item_ids, *ids),
            np.concatenate([table.codes, codes.reshape(len(ids), table.num_levels)]),
            table.codebook_sizes,
        ),
        (*listing.titles, *(title or raw for title, raw in zip(titles, ids, strict=True))),
        np.concatenate([listing.listed, np.ones(len(ids), bool)]),
        (*listing.later, *known),
    )


def without(listing: Listing, sold_out: set[str]) -> Bool[np.ndarray, " N"]:
    """Returns which items of a version are in stock."""
    return np.array([raw not in sold_out for raw in listing.table.raw_item_ids], bool)


def _say(text: str) -> None:
    print(f"note: {files.shown(os.fspath(text))}", file=sys.stderr)
