"""Runs programs without importing other people's packages for each of them again.

As a program it imports those once, and then splits off a process for each line of its input, a JSON
list `[verb, arguments, environment, folder]`. That process goes on as `python -m launch.VERB`, and
imports this project's modules by itself; what it prints is in the folder's `stdout` and `stderr`. A
line of output tells how it ended.
"""

import gc
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
# What takes most of the time of starting a program, without what has threads of its own by then
# (Polars), which a split process would lack.
PACKAGES = (
    "flax.nnx",
    "grain",
    "jax",
    "ml_collections",
    "optax",
    "orbax.checkpoint",
    "scipy.sparse",
)


class Programs:
    """Runs programs, one after the other."""

    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __call__(self, verb, *arguments):
        """Returns what `subprocess.run` would, with text."""
        request = [verb, arguments, dict(os.environ), str(self.folder)]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        out, err = (
            (self.folder / name).read_bytes().decode("utf-8") for name in ("stdout", "stderr")
        )
        return subprocess.CompletedProcess([verb, *arguments], code, out, err)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()


def serve():
    sys.path[0] = os.getcwd()  # As with `-m`.
    from tests.forked import become

    for package in PACKAGES:
        importlib.import_module(package)
    gc.collect()
    gc.freeze()  # The collector does not go through these again, nor makes copies of their pages.
    ended = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        verb, arguments, environment, folder = json.loads(line)
        process = os.fork()
        if process == 0:
            os.environ.clear()
            os.environ.update(environment)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, "stdout"), (2, "stderr")):
                kind = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(os.path.join(folder, name), kind), number)
            signal.alarm(300)
            become(verb, arguments)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=ended, flush=True)


if __name__ == "__main__":
    serve()
