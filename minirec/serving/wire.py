"""What a front and the replicas behind it say to each other, beside the messages of clients."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from minirec.serving.refusals import BadRequestError, LateError, RefusedError, SearchFailedError


@dataclasses.dataclass(frozen=True)
class Release:
    """A catalogue with a model, as all replicas serve it.

    Attributes:
        number: of the catalogue's version.
        before: the versions that a rollback leads to, the last one first to come.
        model_version: names the model in answers.
        run: whose model it is; None: what the replicas began with.
        count: models that have been taken over so far.
    """

    number: int
    before: tuple[int, ...]
    model_version: str
    run: str | None = None
    count: int = 0

    @property
    def key(self) -> tuple[int, str]:
        """What an answer names of it."""
        return self.number, self.model_version


@dataclasses.dataclass(frozen=True)
class Pin:
    """What a request is to be answered with.

    Attributes:
        release: the version.
        stock: changes of stock that the answer must know of.
    """

    release: Release
    stock: int


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a replica serves.

    Attributes:
        release: the version.
        digest: of its weights and its items: the same on all replicas.
        stock: changes of stock so far.
        num_listed: items that the version holds.
    """

    release: Release
    digest: str
    stock: int
    num_listed: int


class ReplicaLostError(Exception):
    """A replica ended while it was asked."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """An exception that a replica raised, without its traceback.

    Attributes:
        kind: which.
        message: what it says.
        detail: what else it holds.
    """

    kind: str
    message: str
    detail: Any = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Returns what tells of an exception; any that a front has no use for is "failed"."""
        if isinstance(error, BadRequestError):
            return cls("bad_request", str(error).removeprefix(f"{error.field}: "), error.field)
        if isinstance(error, RefusedError):
            return cls("refused", str(error), (error.reason, error.retry_after_s))
        if isinstance(error, LateError):
            return cls("late", str(error))
        if isinstance(error, msgspec.MsgspecError):
            return cls("message", str(error))
        if isinstance(error, SearchFailedError):
            return cls("failed", error.failure_id)
        if isinstance(error, ValueError):
            return cls("value", str(error))
        if isinstance(error, OSError):
            return cls("os", str(error), error.errno)
        return cls("failed", f"{type(error).__name__}: {error}")

    def error(self) -> Exception:
        """Returns the exception again."""
        if self.kind == "bad_request":
            return BadRequestError(self.detail, self.message)
        if self.kind == "refused":
            return RefusedError(self.detail[0], self.message, self.detail[1])
        if self.kind == "late":
            return LateError(self.message)
        if self.kind == "message":
            return msgspec.ValidationError(self.message)
        if self.kind == "value":
            return ValueError(self.message)
        if self.kind == "os":
            # The number picks the kind of OSError, such as FileNotFoundError.
            return OSError(*(() if self.detail is None else (self.detail,)), self.message)
        return SearchFailedError(self.message)
