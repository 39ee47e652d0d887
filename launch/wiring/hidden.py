"""Tells when another package has the name of one of ours and stands before it on Python's path.

`python -m` puts the working directory first: a folder `configs` there hides this project's.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("configs", "pipelines", "minirec", "kernels")


def hidden(root: Path, names: Iterable[str] = PACKAGES) -> str:
    """Returns in a line which package is another one than `root/NAME`, and where; "" if none is.

    Args:
        root: the folder that holds them all, side by side.
        names: top-level packages; none of them is imported.
    """
    for name in names:
        own = root / name
        if name in sys.modules or not own.is_dir():
            continue  # Imported already, for better or worse; or not installed at all.
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec else []
        found = places or ([spec.origin] if spec and spec.origin else [])
        if own.resolve() not in (Path(place).resolve() for place in found):
            where = found[0] if found else "no folder at all"
            return (
                f"{where} hides {own}: Python takes the package {name!r} from there; start in "
                f"another folder, rename that one, or put {root} first in PYTHONPATH"
            )
    return ""
