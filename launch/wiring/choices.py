"""What a run's validation users have chosen, and the file that keeps it beside the run.

A choice holds for as long as what it depends on is the same. Whoever asks first, evaluation or
recommendation, it comes out the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from minirec import files

_MADE_OF = "made_of"
_REMEDY = "remove it: what it holds is chosen anew"


def kept(path: Path, name: str, of: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the choice in a file; None where there is none, or of something else.

    Args:
        path: the file.
        name: what the choice is called there.
        of: what the choice depends on, as JSON.

    Raises:
        ValueError: a damaged file.
    """
    shape = {_MADE_OF: dict, name: dict}
    found = files.read_sealed(path, _REMEDY, shape) if path.is_file() else None
    return None if found is None or found[_MADE_OF] != of else found[name]


def keep(path: Path, name: str, of: dict[str, Any], choice: dict[str, Any], what: str) -> None:
    """Writes a choice; where that cannot be, as on a read-only disk, says so and goes on.

    Args:
        path: the file.
        name: what the choice is called there.
        of: what the choice depends on, as JSON.
        choice: a JSON object.
        what: how a person calls it.
    """
    try:
        files.write_sealed(path, {_MADE_OF: of, name: choice})
    except OSError as error:
        print(
            f"note: {path} cannot be written ({error.strerror or error}): {what} were chosen in "
            "memory and will be chosen again each time; run launch.evaluate where the folder can "
            "be written to keep them",
            file=sys.stderr,
        )
