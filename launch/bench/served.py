"""Servers in processes of their own, and the load that a client in another one brings."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.bench import peer
from launch.wiring.child import module_command, tied


@contextlib.contextmanager
def serving_process(command: Sequence[str], folder: Path) -> Iterator[None]:
    """Runs a server from its first line of output, which says that it is ready, to its end.

    Args:
        command: starts it.
        folder: gets `server.log`, what it says on standard error.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    path = folder / "server.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            tied(list(command)), stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ
        )
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(
                    f"{' '.join(command)} failed: {path.read_text().strip()[-2000:]}"
                )
            yield
        finally:
            process.terminate()
            process.wait()


def load(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Returns what `launch.bench.http_load` says of a plan, which is written into a folder."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    return peer.measured(module_command("launch.bench.http_load", str(path)))


def free_port() -> int:
    """Returns a port that was free just now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def get(port: int, route: str) -> Any:
    """Returns the JSON value that a server of this machine answers a route with.

    Raises:
        OSError: it does not answer, or not with 200.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{route}", timeout=60) as answer:
        return json.loads(answer.read())
