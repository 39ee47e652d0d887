"""The flag `--engine`, which names what does a program's work; each program has its own."""

from __future__ import annotations

from absl import flags

from launch.wiring.program import UsageError

# One flag for both, since no two programs may define the same.
_ENGINE = flags.DEFINE_enum(
    "engine",
    None,
    ["polars", "spark", "local", "ray"],
    "launch.prepare: polars (the default) or spark reads, filters and sorts the log; launch.serve: "
    "local (the default), this process answers, or replicas that ray runs.",
)


def engine_of(verb: str, *known: str) -> str:
    """Returns the engine that the flags name, or the verb's first.

    Args:
        verb: the program, for the error.
        *known: engines that it has, the default first.

    Raises:
        UsageError: the engine is another program's.
    """
    given = known[0] if _ENGINE.value is None else _ENGINE.value
    if given not in known:
        raise UsageError(f"--engine={given}: {verb} has {', '.join(known)}")
    return given
