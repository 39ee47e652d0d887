"""HTTP connections that are closed where no whole request comes: half-sent ones hold nothing."""

from __future__ import annotations

import asyncio
from typing import Any

HANG_UP = "minirec.hang_up"
"""Field of a scope: a list of what is called when the client hangs up."""

HEADERS_S = 10.0
"""Seconds in which a request's headers must have come."""


def impatient() -> type[asyncio.Protocol]:
    """Returns uvicorn's fastest HTTP protocol, with a deadline for the headers."""
    kinds: list[Any] = []
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        kinds.append(HttpToolsProtocol)
    except ImportError:  # Slower, and the same.
        from uvicorn.protocols.http.h11_impl import H11Protocol

        kinds.append(H11Protocol)
    (base,) = kinds

    class Impatient(base):
        """Closes a connection whose headers do not come."""

        headers_timer: asyncio.TimerHandle | None = None

        def on_message_begin(self) -> None:
            """Lets who answers hear of it when the client hangs up."""
            super().on_message_begin()
            self.scope[HANG_UP] = []

        def connection_made(self, transport: Any) -> None:
            """Begins to wait."""
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            """Stops waiting once a request is there, and begins where a new one is half sent."""
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before and self.cycle is not None:
                self._stop()
            elif self.headers_timer is None and (
                self.cycle is None or self.cycle.response_complete
            ):
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forgets the timer."""
            self._stop()
            super().connection_lost(exc)
            for hang_up in list((self.scope or {}).get(HANG_UP, ())):
                hang_up()

        def _wait(self) -> None:
            self.headers_timer = self.loop.call_later(HEADERS_S, self._too_slow)

        def _stop(self) -> None:
            if self.headers_timer is not None:
                self.headers_timer.cancel()
                self.headers_timer = None

        def _too_slow(self) -> None:
            self.headers_timer = None
            if not self.transport.is_closing():
                self.transport.close()

    return Impatient
