"""Trains, is stopped by a signal to one process, goes on and evaluates: see `test_processes.py`.

It takes the launchers' flags. The signal comes with the third batch of the last process.
"""

import os
import signal

import jax

from launch import evaluate, train
from launch.wiring import program, sid


class Signalling:
    """A loader whose third batch comes with a signal."""

    def __init__(self, batches):
        self.describe, self.num_rows = batches.describe, batches.num_rows
        self._batches, self._given = iter(batches), 0

    def __iter__(self):
        return self

    def __next__(self):
        self._given += 1
        if self._given == 3 and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self._batches)

    def get_state(self):
        return self._batches.get_state()

    def set_state(self, state):
        self._batches.set_state(state)


def main(job):
    make = sid.train_batches
    sid.train_batches = lambda *given, **named: Signalling(make(*given, **named))
    train.main(job)
    train.train_batches = make
    train.main(job)
    evaluate.main(job)


if __name__ == "__main__":
    program.run(main, many_processes=True)
