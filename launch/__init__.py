"""Programs, one a verb: `python -m launch.prepare`, `make_sids`, `train`, `evaluate`, …"""

import os
import sys
from pathlib import Path

from launch.wiring.hidden import hidden

if problem := hidden(Path(__file__).resolve().parent.parent):
    if sys.argv[:1] == ["-m"]:  # `python -m launch.VERB` is looking for the verb.
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(problem)

from launch.wiring import ending

if sys.argv[:1] == ["-m"]:  # `python -m launch.VERB` is looking for the verb.
    ending.watch()

# Where no accelerator is, JAX's plugins for some (the development environment has them, to compile
# for chips that are not there) can only complain. This stands before anything imports JAX.
_DEVICES = ("nvidia*", "accel*", "vfio/[0-9]*", "dxg", "kfd")
if not any(any(Path("/dev").glob(pattern)) for pattern in _DEVICES):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
