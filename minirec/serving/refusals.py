"""Why a request gets no answer: each is an exception, named in metrics and answers."""

from __future__ import annotations


class BadRequestError(ValueError):
    """What was asked for cannot be.

    Attributes:
        field: where in the request the mistake is, such as `history[3]`.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


class RefusedError(Exception):
    """The request is not taken on now; the same may be taken on later.

    Attributes:
        reason: "overloaded", "queue_full", "draining" or "replica_lost".
        retry_after_s: when to ask again, in seconds.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float):
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class LateError(Exception):
    """The deadline passed before there was an answer."""


class SearchFailedError(Exception):
    """The search of the request's batch raised an error.

    Attributes:
        failure_id: stands in the server's log beside the error.
    """

    def __init__(self, failure_id: str):
        super().__init__(f"the search failed; the server's log has it as {failure_id}")
        self.failure_id = failure_id
