"""Versions that several replicas serve together: all prepare one, and only then all serve it.

Every replica reads the same folder. One of them, whichever is asked, writes: a new version's file
before anybody has it, and what serves now (`release.json`) once all are ready. A replica that
starts later begins with what that file says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from minirec import files
from minirec.files.schema import COUNT
from minirec.serving.catalogue import Listing, Stock
from minirec.serving.recommender import Served
from minirec.serving.versions import (
    KEPT,
    STOCK,
    STOCK_LINES,
    Builder,
    Change,
    Versions,
    without,
)
from minirec.serving.wire import Pin, Release, Standing

_RELEASE = "release.json"
_RELEASE_SHAPE = {
    "session": str,
    "number": COUNT,
    "before": [COUNT],
    "model_version": str,
    "run": (str, None),
    "count": COUNT,
    "digest": str,
}
_REMEDY = "remove the file and start the server again"


@dataclasses.dataclass(frozen=True, eq=False)
class _Kept:
    """A release that answers can be made with."""

    release: Release
    served: Served
    stock: Stock
    listing: Listing
    digest: str


class SharedVersions(Versions):
    """One replica's hold of the versions that all serve.

    Of `Versions` it has the checks and the files; what changes, changes by the methods below.
    """

    def __init__(
        self, folder: Path, builder: Builder, first: Served, listing: Listing, session: str
    ):
        """Begins with what the replicas of the session serve, or with what was served before.

        Args:
            folder: where versions are kept, of all replicas.
            builder: makes what answers.
            first: what the run was given.
            listing: its items.
            session: names what all replicas have in common that one start has started.

        Raises:
            ValueError: what is served cannot be made here: the run has other weights by now.
        """
        self._stock_number = self._applied = 0
        super().__init__(folder, builder, first, listing)
        self._session = session
        release = Release(self.number, tuple(self._before), self.served.model_version)
        self._newest_kept = self._keep(release, self.served, self._listing)
        self._kept = {release.key: self._newest_kept}
        self.stock = self._newest_kept.stock
        self._applied = self._stock_number
        written = self._read_release()
        if written is not None:
            release, digest = written
            kept = self._load(release)
            if kept.digest != digest:
                raise ValueError(
                    f"{self._folder / _RELEASE}: {release.model_version} has other weights or items"
                    " here than on the replicas that serve it: a run that has been trained anew is "
                    "served after POST /admin/model"
                )
            self.take(release)

    def at_once(self, pin: Pin) -> tuple[Served, Stock] | None:
        """Returns what answers a request, and what of it can be sold; None where `at` must wait."""
        kept = self._kept.get(pin.release.key)
        # Nothing is locked here: what is counted has been done.
        if kept is None or pin.stock > self._applied:
            return None
        return kept.served, kept.stock

    def at(self, pin: Pin) -> tuple[Served, Stock]:
        """Returns the same, and first makes what is not there, or reads what is not known yet.

        Raises:
            ValueError: there is no such release.
        """
        with self._lock:
            kept = self._load(pin.release)
            if pin.stock > self._stock_number:
                self._read_stock()
            return kept.served, kept.stock

    def standing(self, release: Release | None = None) -> Standing:
        """Returns how a release stands here; None: the one that serves."""
        kept = self._newest_kept if release is None else self._kept[release.key]
        return Standing(
            kept.release, kept.digest, self._stock_number, int(kept.served.catalogue.listed.sum())
        )

    def propose(self, release: Release, change: Change) -> Release:
        """Checks a change of a release, writes the version that it makes, and returns its release.

        Nobody serves it yet.

        Raises:
            ValueError: the change cannot be; the message names file, item and value.
            OSError: the version cannot be written.
        """
        with self._lock:
            kept = self._load(release)
            self._listing = kept.listing
            listing = self._changed(change)
            number = max([release.number, *release.before, *self._on_disk()]) + 1
            served = self._builder.with_listing(kept.served, number, listing)
            self._begin_folder()
            self._write(number, listing)
            before = (*release.before, release.number)[-KEPT:]
            new = dataclasses.replace(release, number=number, before=before)
            self._kept[new.key] = self._keep(new, served, listing)
            return new

    def propose_model(self, release: Release, run: str | None) -> Release:
        """Looks whether another model can take over, and returns the release that it makes.

        Raises:
            ValueError: there is no such run, or its model has another shape.
        """
        with self._lock:
            kept = self._load(release)
            served = self._builder.with_model(kept.served, run, release.count + 1)
            run = run or served.model_version.partition("@")[0]
            new = dataclasses.replace(
                release, model_version=served.model_version, run=run, count=release.count + 1
            )
            self._kept[new.key] = self._keep(new, served, kept.listing)
            return new

    def prepare(self, release: Release) -> Standing:
        """Makes all that answers of a release need, beside what serves.

        Raises:
            ValueError: its file is damaged, or its model cannot be had.
            OSError: its file cannot be read.
        """
        with self._lock:
            self._load(release)
            return self.standing(release)

    def forget(self, release: Release) -> None:
        """Drops a release that was prepared, and is not to serve."""
        with self._lock:
            if release.key != self._newest_kept.release.key:
                self._kept.pop(release.key, None)

    def commit(self, standing: Standing) -> None:
        """Writes down what replicas that start later begin with.

        Raises:
            OSError: it cannot be written; the release before still serves.
        """
        release = standing.release
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            value = {"session": self._session, "digest": standing.digest}
            value |= dataclasses.asdict(release) | {"before": list(release.before)}
            # A server of one process goes on with the current one; at the start there is none yet.
            has_file = self._path(release.number).is_file()
            if has_file:
                self._write_current(release.number, release.before)
            try:
                files.write_sealed(self._folder / _RELEASE, value)
            except OSError:
                if has_file:
                    self._write_current(self.number, self._before)
                raise

    def take(self, release: Release) -> Standing:
        """Serves a release to whoever does not say which; keeps the one before for who does.

        Raises:
            ValueError: see `prepare`.
        """
        with self._lock:
            before = self._newest_kept
            kept = dataclasses.replace(self._load(release), release=release)
            self._kept = {one.release.key: one for one in (before, kept)}
            self._newest_kept = kept
            self.served, self.stock, self._listing = kept.served, kept.stock, kept.listing
            self._before = list(release.before)
            if self._engine is not None:
                self._engine.swap(self.served, self.stock)
            self._drop_old()
            return self.standing()

    def write_stock(self, out: Sequence[str], back: Sequence[str], number: int) -> None:
        """Writes a change of stock down, for all replicas.

        Args:
            out: raw ids of items that are sold out.
            back: raw ids of items that are there again.
            number: changes of stock with this one.

        Raises:
            ValueError: the catalogue has no such item.
            OSError: the change cannot be written.
        """
        with self._lock:
            self._items(out, "out")
            self._items(back, "in")
            self._append_stock({"out": list(out), "in": list(back), "number": number})
            if self._stock_lines >= STOCK_LINES:
                sold_out = sorted(super()._read_sold_out())
                line = files.json_line({"out": sold_out, "in": [], "number": number})
                files.write_text(self._folder / STOCK, line + "\n")
                self._stock_lines = 1

    def apply_stock(
        self, out: Sequence[str], back: Sequence[str], number_before: int, number: int
    ) -> int:
        """Takes a change of stock over that has been written, and returns the changes so far.

        Args:
            out: raw ids of items that are sold out.
            back: raw ids of items that are there again.
            number_before: changes of stock without this one; a replica that knows of fewer reads
                them all again.
            number: with this one.
        """
        with self._lock:
            if self._stock_number < number_before:
                self._read_stock()
            elif self._stock_number < number:
                self._sold_out = (self._sold_out | set(out)) - set(back)
                self._stock_number = number
                for kept in self._kept.values():
                    item_of = kept.served.catalogue.item_of
                    changes = {item_of[raw]: False for raw in out if raw in item_of}
                    changes |= {item_of[raw]: True for raw in back if raw in item_of}
                    kept.stock.change_to(number, changes)
                self._applied = number
            return self._stock_number

    def _load(self, release: Release) -> _Kept:
        """Returns a release, made now where it is not there; the lock is held."""
        kept = self._kept.get(release.key)
        if kept is not None:
            return kept
        alike = (
            one.served
            for one in self._kept.values()
            if one.release.model_version == release.model_version
        )
        served = next(alike, self._newest_kept.served)
        if served.model_version != release.model_version:
            if release.run is None:
                raise ValueError(
                    f"{release.model_version} cannot be had here: the run's newest checkpoint is "
                    f"{served.model_version}; POST /admin/model serves it"
                )
            served = self._builder.with_model(served, release.run, release.count)
            if served.model_version != release.model_version:
                raise ValueError(
                    f"run {release.run!r} has {served.model_version} by now, not "
                    f"{release.model_version}"
                )
        listing = self._listing_of(release.number)
        if served.catalogue.number != release.number:
            served = self._builder.with_listing(served, release.number, listing)
        kept = self._keep(release, served, listing)
        self._kept[release.key] = kept
        return kept

    def _listing_of(self, number: int) -> Listing:
        for kept in self._kept.values():
            if kept.release.number == number:
                return kept.listing
        if number == self._first.catalogue.number and not self._path(number).is_file():
            return self._first_listing
        return self._read(number)

    def _keep(self, release: Release, served: Served, listing: Listing) -> _Kept:
        stock = Stock(without(listing, self._sold_out), self._stock_number)
        return _Kept(release, served, stock, listing, _digest(served))

    def _read_release(self) -> tuple[Release, str] | None:
        path = self._folder / _RELEASE
        if not path.is_file():
            return None
        value = files.read_sealed(path, _REMEDY, _RELEASE_SHAPE)
        if value["session"] != self._session:
            return None
        digest = value["digest"]
        fields = {field.name: value[field.name] for field in dataclasses.fields(Release)}
        return Release(**fields | {"before": tuple(value["before"])}), digest

    def _read_stock(self) -> None:
        """Takes over all changes of stock that are written down; the lock is held."""
        sold_out = self._read_sold_out()
        for kept in self._kept.values():
            in_stock = enumerate(without(kept.listing, sold_out).tolist())
            kept.stock.change_to(self._stock_number, dict(in_stock))
        self._sold_out, self._applied = sold_out, self._stock_number

    def _read_sold_out(self) -> set[str]:
        path = self._folder / STOCK
        if path.is_file():
            for line in reversed(path.read_text(encoding="utf-8").splitlines()):
                try:
                    self._stock_number = max(self._stock_number, json.loads(line)["number"])
                    break
                except (ValueError, KeyError, TypeError):
                    continue  # Cut off, or of a server that does not count across processes.
        return super()._read_sold_out()

    def _tidy_stock(self) -> None:
        """Leaves the file alone: another replica may be writing it."""


def _digest(served: Served) -> str:
    """Returns what two replicas have in common that answer alike: of weights, SIDs and items."""
    digest = hashlib.blake2b(digest_size=16)
    catalogue = served.catalogue
    arrays = [*jax.tree.leaves(served.weights.state), catalogue.item_tokens, catalogue.listed]
    for array in arrays:
        digest.update(np.asarray(array).tobytes())
    digest.update("\0".join(catalogue.raw_item_ids).encode(errors="surrogatepass"))
    return digest.hexdigest()
