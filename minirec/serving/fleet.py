"""Several replicas as one: who is asked, what is asked again, and how a version reaches all.

A roll has two phases. All replicas prepare the new version beside the one that serves, and say what
they have made; where one cannot, or two differ, nothing changes. Then what serves is written down,
and from one request to the next the front asks for the new version: a request names its version,
and a replica answers with that one or not at all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from minirec.serving.messages import RecommendRequest
from minirec.serving.refusals import RefusedError
from minirec.serving.versions import Change
from minirec.serving.wire import Failure, Pin, Release, ReplicaLostError, Standing

_LOG = logging.getLogger(__name__)

_ADMIN = "admin"  # Who writes is the same replica for as long as it lives.
_ATTEMPTS = 2


class Replicas(Protocol):
    """Replicas that can be called; see `minirec.serving.replica.Replica.call`."""

    async def one(self, key: str, method: str, *args: Any) -> Any:
        """Calls one: the same for the same key, while the same replicas live.

        Raises:
            ReplicaLostError: it ended before it answered.
        """
        ...

    async def every(self, method: str, *args: Any) -> Sequence[Any]:
        """Calls all that live; of one that ends meanwhile the result is a `ReplicaLostError`.

        Raises:
            ReplicaLostError: none lives.
        """
        ...


def key_of(message: RecommendRequest, request_id: str) -> str:
    """Returns what requests have in common that are to go to the same replica.

    That is the user, or else the history: what it was read into lies in that replica's cache.
    Requests without either have nothing there, and are spread.
    """
    if message.user is not None:
        return f"user {message.user}"
    if message.history:
        # The ids' own lengths keep ["ab"] and ["a", "b"] apart.
        text = "".join(f"{len(raw)}:{raw}" for raw in message.history)
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16)
        return f"history {digest.hexdigest()}"
    return f"request {request_id}"


class Fleet:
    """Replicas that all serve the same versions.

    Attributes:
        pin: what requests that come now are answered with.
        num_listed: items that its catalogue holds.
        lost: calls whose replica ended before it answered.
        retried: those that were asked again.
        rolls: versions that have taken over.
    """

    def __init__(self, replicas: Replicas, standing: Standing):
        """Begins with what all replicas serve; see `joined`."""
        self._replicas = replicas
        self._rolling = asyncio.Lock()
        self.pin = Pin(standing.release, standing.stock)
        self.num_listed = standing.num_listed
        self.lost = self.retried = self.rolls = 0

    @classmethod
    async def joined(cls, replicas: Replicas) -> Fleet:
        """Returns a fleet, once all its replicas are found to serve the same.

        Raises:
            ValueError: two serve different things.
            ReplicaLostError: none lives.
        """
        standings = _checked(await replicas.every("standing"))
        _same(standings)
        newest = max(standings, key=lambda standing: standing.stock)
        fleet = cls(replicas, newest)
        await fleet.ask(_ADMIN, "commit", newest)
        return fleet

    async def ask(self, key: str, method: str, *args: Any) -> Any:
        """Calls one replica, and once more, another one, where it ends before it answers.

        Raises:
            RefusedError: the second ended too.
            BadRequestError: and the other refusals, `ValueError` and `OSError`, as the replica
                raised them.
        """
        return await self.ask_with(key, method, lambda: args)

    async def ask_with(self, key: str, method: str, args: Callable[[], Sequence[Any]]) -> Any:
        """Does the same with arguments that are made anew for each attempt."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _value(await self._replicas.one(key, method, *args()))
            except ReplicaLostError:
                self.lost += 1
                self.retried += attempt < _ATTEMPTS
        message = f"{_ATTEMPTS} replicas ended before they answered; ask again"
        raise RefusedError("replica_lost", message, 1.0)

    async def every(self, method: str, *args: Any) -> list[Any]:
        """Returns what all replicas answer that do not end meanwhile.

        Raises:
            RefusedError: none lives.
            ValueError: and what else one of them raised.
        """
        try:
            return _checked(await self._replicas.every(method, *args))
        except ReplicaLostError as error:
            raise RefusedError("replica_lost", "no replica lives; ask again", 1.0) from error

    async def change(self, change: Change) -> None:
        """Serves another version of the catalogue, once all replicas have it.

        Raises:
            ValueError: a replica cannot make it; nothing was changed.
            OSError: it cannot be written; nothing was changed.
            RefusedError: no replica lives.
        """
        async with self._rolling:
            await self._roll(await self.ask(_ADMIN, "propose", self.pin.release, change))

    async def rollback(self) -> None:
        """Serves the version of the catalogue before again; see `change`.

        Raises:
            ValueError: there is none.
        """
        async with self._rolling:
            release = self.pin.release
            if not release.before:
                raise ValueError("there is no version of the catalogue before this one")
            *before, number = release.before
            await self._roll(dataclasses.replace(release, number=number, before=tuple(before)))

    async def change_model(self, run: str | None) -> None:
        """Serves another run's model, or the run's newest checkpoint; see `change`."""
        async with self._rolling:
            await self._roll(await self.ask(_ADMIN, "propose_model", self.pin.release, run))

    async def change_stock(self, out: Sequence[str], back: Sequence[str]) -> None:
        """Takes items out of stock and puts others back, on all replicas.

        Raises:
            ValueError: the catalogue has no such item.
            OSError: the change cannot be written.
            RefusedError: no replica lives.
        """
        async with self._rolling:
            number_before = self.pin.stock
            number = number_before + bool(out) + bool(back)
            given = (list(out), list(back))
            await self.ask(_ADMIN, "write_stock", *given, number)
            # It is written: the number is taken, whatever becomes of the calls. A replica that is
            # not reached reads the file when a request names this number.
            self.pin = dataclasses.replace(self.pin, stock=number)
            await self.every("apply_stock", *given, number_before, number)

    async def _roll(self, release: Release) -> None:
        try:
            standings = await self.every("prepare", release)
            if not standings:
                raise RefusedError("replica_lost", "no replica lives; ask again", 1.0)
            _same(standings)
            await self.ask(_ADMIN, "commit", standings[0])
        except Exception:
            await self._tell("forget", release)
            raise
        self.pin = dataclasses.replace(self.pin, release=release)
        self.num_listed, self.rolls = standings[0].num_listed, self.rolls + 1
        # A replica that is not reached takes it when a request names it.
        await self._tell("take", release)

    async def _tell(self, method: str, *args: Any) -> None:
        """Calls all replicas, whatever becomes of it."""
        try:
            await self.every(method, *args)
        except Exception:
            _LOG.exception("%s did not reach all replicas", method)


def _value(result: Any) -> Any:
    if isinstance(result, Failure):
        raise result.error()
    return result


def _checked(results: Sequence[Any]) -> list[Any]:
    """Returns what those replicas answered that live still."""
    return [_value(result) for result in results if not isinstance(result, ReplicaLostError)]


def _same(standings: Sequence[Standing]) -> None:
    different = {(standing.release.key, standing.digest) for standing in standings}
    if len(different) > 1:
        names = ", ".join(sorted(f"{key}: {digest[:8]}" for key, digest in different))
        raise ValueError(
            f"the replicas have made different things of one version ({names}): their machines "
            "must see the same --workdir, and nobody may train the run meanwhile"
        )
