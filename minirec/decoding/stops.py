"""Where a text ends that is written token by token: at a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a decoder shows of a character of which only some bytes are written yet."""


class StopReader:
    """Reads an answer as it grows.

    Attributes:
        text: what is sure to be part of the answer: no stop string, nor what may become one.
        stopped: whether a stop string was found.
        tokens: how many tokens were read, the one that completes a stop string among them.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]):
        """Makes a reader before the first token.

        Args:
            decode: from an answer's tokens to its text.
            stop: the stop strings.
        """
        self._decode, self._stop = decode, tuple(stop)
        self._read: list[int] = []
        self.text, self.stopped = "", False

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return len(self._read)

    def add(self, token: int) -> str:
        """Reads one more token and returns what it adds to `text`.

        Raises:
            ValueError: the text has ended already.
        """
        if self.stopped:
            raise ValueError("the text has ended at a stop string; there is no more to read")
        self._read.append(token)
        whole = self._decode(self._read)
        found = [at for at in (whole.find(stop) for stop in self._stop) if at >= 0]
        self.stopped = bool(found)
        return self._show(whole[: min(found)] if found else self._sure(whole))

    def end(self) -> str:
        """Returns what is left where no more tokens come: it was no stop string after all."""
        return "" if self.stopped else self._show(self._decode(self._read))

    def _sure(self, whole: str) -> str:
        whole = whole.rstrip(UNFINISHED)
        most = max((len(stop) - 1 for stop in self._stop), default=0)
        for held in range(min(most, len(whole)), 0, -1):
            if any(stop.startswith(whole[-held:]) for stop in self._stop):
                return whole[:-held]
        return whole

    def _show(self, text: str) -> str:
        # A decoder may tell a character otherwise once its bytes are all there.
        if len(text) <= len(self.text):
            return ""
        added, self.text = text[len(self.text) :], text
        return added
