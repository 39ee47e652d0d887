"""The command `minirec`: `minirec train --config=…` is `python -m launch.train --config=…`.

Unlike that it does not look into the working folder for packages, so that it starts beside a
`configs/` or a `launch/` of somebody else, too.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from launch.wiring import ending

_LAUNCH = Path(__file__).resolve().parent.parent


def verbs() -> dict[str, str]:
    """Returns the verbs with a line each on what they do, the first of their docstrings."""
    files = {path.stem: path for path in _LAUNCH.glob("*.py")}
    files |= {path.parent.name: path for path in _LAUNCH.glob("*/__main__.py")}
    return {
        name: _line(files[name].read_text(encoding="utf-8"))
        for name in sorted(files)
        if name != "__init__"
    }


def _line(source: str) -> str:
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return first.partition(": `")[0].rstrip(".")  # The command follows.


def main() -> None:
    """Runs the verb that the command line names, or lists them all."""
    name, known = (sys.argv[1:] or [""])[0], verbs()
    if name not in known:
        asked = name not in ("", "help", "--help", "-h", "-help")
        out = sys.stderr if asked else sys.stdout
        if asked:
            print(f"error: {name!r} is not a verb", file=out)
        print("minirec VERB --flag=value …; minirec VERB --help lists its flags\n", file=out)
        width = max(map(len, known))
        for verb, line in known.items():
            print(f"  {verb:{width}}  {line}", file=out)
        sys.exit(2 if asked else 0)
    ending.watch()
    del sys.argv[1]
    runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
