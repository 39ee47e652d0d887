"""The sweeps of the beam step as one picture: a panel a sweep, a line an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from minirec.files import atomic_path

_PANELS = {
    "num_sids": "SIDs in the catalogue",
    "vocab": "Vocabulary V",
    "beams": "Beams M",
    "children": "Children a node (level 1)",
}
_LABELS = {
    "log_softmax_mask_top_k": "plain XLA: log-softmax, mask, top-k",
    "static": "STATIC, exact",
    "static_30": "STATIC, 30 tokens a beam, not exact",
}
_STYLES = {1: "-", 2: "--"}


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draws rows of `kernels.bench.sweep` into `beam_step.svg` and `beam_step.png`.

    Args:
        rows: microseconds of each `sweep`, `value`, `implementation` and `level`.
        folder: made where it does not exist.

    Returns:
        The files.
    """
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    lines: dict[str, Any] = {}
    for axes, (sweep, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for color, name in enumerate(names):
            for level, style in _STYLES.items():
                points = sorted(
                    (row["value"], row["microseconds"])
                    for row in rows
                    if (row["sweep"], row["implementation"], row["level"]) == (sweep, name, level)
                )
                if points:
                    (line,) = axes.plot(
                        *zip(*points, strict=True), style, c=f"C{color}", marker="."
                    )
                    if style == "-":
                        lines[name] = line
        axes.set(xscale="log", yscale="log", xlabel=title, ylabel="microseconds a step")
        values = sorted({row["value"] for row in rows if row["sweep"] == sweep})
        axes.set_xticks(values, [_short(value) for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    device = rows[0]["device"] if rows else "no rows"
    figure.suptitle(f"One beam step on {device}: level 1 solid, level 2 dashed")
    labels = [_LABELS.get(name, f"beam_step, {name}") for name in lines]
    figure.legend(list(lines.values()), labels, loc="outside lower center", ncols=2)

    files = [folder / "beam_step.svg", folder / "beam_step.png"]
    for file in files:
        with atomic_path(file) as temporary:
            figure.savefig(temporary, dpi=150)
    return files


def _short(value: int) -> str:
    """Returns 2048 as "2048", 20_000 as "20k", 1_000_000 as "1M"."""
    for unit, sign in ((1_000_000, "M"), (1_000, "k")):
        if value % unit == 0:
            return f"{value // unit}{sign}"
    return str(value)
