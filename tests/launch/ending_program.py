"""A program as `launch.wiring.program` starts it, which interrupts itself where told."""

import gc
import json
import os
import signal
import sys
import tempfile

from launch.wiring import ending

ending.watch()  # As `python -m launch.VERB` does.


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


if sys.argv[1] == "importing":
    interrupt()

from launch.wiring import program  # noqa: E402


class Finalised:
    def __del__(self):
        interrupt()


def body():
    where = sys.argv[1]
    print("begun")
    with tempfile.TemporaryDirectory(dir=sys.argv[2]):
        if where == "working":
            interrupt()
        if where == "finaliser":
            Finalised()
            gc.collect()
    if where == "printing":
        print(json.dumps({"title": "é ж \U0001f600 \udce9"}, ensure_ascii=False))
        print(sys.argv[2])
    if where == "much":
        for number in range(100_000):
            print(number)


try:
    program.start(body, sys.argv[:1])
finally:
    if sys.argv[1] == "ending":
        interrupt()
