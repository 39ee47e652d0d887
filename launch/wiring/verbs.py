"""Programs of several verbs: `python -m launch.artifacts VERB --flag=value`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from absl import flags

from launch.wiring import program

DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what would be done, or use a built-in example, and touch nothing."
)
"""The flag of every program that has such a mode; `--dry-run` is the same."""


def start(verbs: Mapping[str, Callable[[], None]], argv: Sequence[str]) -> None:
    """Runs the verb that the command line begins with; see `program.start`.

    Args:
        verbs: what each does, by name.
        argv: program, verb, flags.
    """
    name, arguments = argv[0], list(argv[1:])
    # Without one there may still be a --help.
    verb = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""

    def unknown() -> None:
        what = f"{verb!r} is not a verb" if verb else "the verb is missing"
        raise program.UsageError(f"{what}; known are {', '.join(verbs)}")

    program.start(verbs.get(verb, unknown), [name, *underscored(arguments)])


def underscored(arguments: Sequence[str]) -> list[str]:
    """Returns flags spelled with dashes, as other tools have them, as absl spells them."""
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        plain = name.lstrip("-").replace("-", "_")
        known = plain in flags.FLAGS or plain.removeprefix("no") in flags.FLAGS
        spelled.append(f"--{plain}{equals}{value}" if name.startswith("--") and known else argument)
    return spelled
