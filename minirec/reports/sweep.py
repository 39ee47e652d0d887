"""What a sweep leaves for people: `table.md`, `plot.svg` and `index.html`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minirec import files
from minirec.reports.html_parts import Cell, Figure, Row, Table, cells, render
from minirec.reports.report import CHOSEN, chosen_note, marked
from minirec.reports.seeds import METRICS, Estimate, SettingRow, distinct_baselines, recommenders


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as far as it has come.

    Attributes:
        name: its name.
        dataset: name of the config that its settings change.
        split: "valid" or "test".
        by: the recommender whose NDCG@10 sorts the rows.
        rows: a row a setting, best first.
        config: the config that the settings change, as JSON knows it.
        notes: sentences on the logs that the runs are of, for the table's caption.
    """

    name: str
    dataset: str
    split: str
    by: str
    rows: Sequence[SettingRow]
    config: Any
    notes: Sequence[str] = ()

    @property
    def chosen_on(self) -> dict[str, int]:
        """By recommender, how many users of a row at most chose what it is; see `Report`."""
        found: dict[str, int] = {}
        for row in self.rows:
            for name, number in row.chosen_on.items():
                found[name] = max(number, found.get(name, 0))
        return found

    @property
    def num_wanted(self) -> int:
        """Runs that were asked for."""
        return sum(row.num_wanted for row in self.rows)

    @property
    def num_finished(self) -> int:
        """Runs that are finished."""
        return sum(row.num_seeds for row in self.rows)

    @property
    def num_failed(self) -> int:
        """Runs whose last try failed."""
        return sum(len(row.errors) for row in self.rows)

    def file_name(self, name: str) -> str:
        """Returns a file's name: what is of the test split stands beside what is of validation."""
        return name if self.split == "valid" else f"{self.split}_{name}"


def write_sweep(folder: str | os.PathLike[str], sweep: Sweep) -> Path:
    """Writes `table.md`, `plot.svg` (once a run is finished) and `index.html`; returns its path.

    Each file appears whole or not at all. The page goes first and comes last: where it is, the
    others are those of the same state. It is one file that needs no network. The test split's have
    `test_` before their names.
    """
    folder = Path(folder)
    path = folder / sweep.file_name("index.html")
    path.unlink(missing_ok=True)
    files.write_text(folder / sweep.file_name("table.md"), markdown(sweep))
    plot = None
    if sweep.num_finished:
        from minirec.reports import sweep_plots  # matplotlib is slow to import

        plot = _plot(sweep)
        standalone = sweep_plots.standalone(plot.svg, plot.legend)
        files.write_text(folder / sweep.file_name("plot.svg"), standalone)
    files.write_text(path, _page(sweep, plot))
    return path


def caption(sweep: Sweep) -> str:
    """Returns what the table's figures are."""
    users = sorted({row.users for row in sweep.rows if row.users})
    if not users:
        return f"{sweep.split} split, no run is finished yet."
    counts = " or ".join(f"{count:,}" for count in users)
    text = (
        f"{sweep.split} split, {counts} users; item level; rows by {METRICS[-1].upper()} of "
        f"{sweep.by}; "
    )
    numbers = {row.num_seeds for row in sweep.rows if row.num_seeds}
    several = any(number > 1 for number in numbers)
    over_seeds = "over seeds (mean ± t · s / √n, Student's t with n − 1 degrees of freedom)"
    over_users = "over users (bootstrap)"
    if several and 1 in numbers:
        spread = f"{over_seeds}, of rows with one seed {over_users}"
    else:
        spread = over_seeds if several else over_users
    text = f"{text}in brackets the 95% interval {spread}."
    commits = sorted({commit for row in sweep.rows for commit in row.commits})
    if len(commits) > 1:
        text += f" Runs of different code stand here: {', '.join(commits)}."
    if sweep.chosen_on:
        text += " " + chosen_note(sweep.chosen_on, "Of a row's users")
        text += " The best row is chosen on them, too." * (len(sweep.rows) > 1)
    return " ".join((text, *sweep.notes))


def table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table as text, a row a setting."""
    trained = recommenders(sweep.rows)
    named = any(row.name for row in sweep.rows)
    failed = bool(sweep.num_failed)
    fields = list(sweep.rows[0].fields)
    many = len(trained) > 1 or trained not in ([], ["model"])
    mark = {name: f" {CHOSEN}" if name in sweep.chosen_on else "" for name in trained}
    head = ["setting"] * named + fields + ["seeds"]
    for name in trained:
        named_metrics = (
            f"{name} {metric.upper()}" if many else metric.upper() for metric in METRICS
        )
        head += [text + mark[name] for text in named_metrics]
    head += ["failed"] * failed
    lines = []
    for row in sweep.rows:
        line = [row.name or "–"] * named + [_text(row.fields[field]) for field in fields]
        whole = row.num_seeds == row.num_wanted
        line.append(str(row.num_seeds) if whole else f"{row.num_seeds} of {row.num_wanted}")
        for name in trained:
            estimates = row.estimates.get(name)
            line += [_cell(estimates[metric]) if estimates else "–" for metric in METRICS]
        if failed:
            line.append("; ".join(row.errors) or "–")
        lines.append(line)
    return head, lines


def baseline_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the baselines' table as text."""
    lines = [
        [name, *(_cell(metrics[metric]) for metric in METRICS)]
        for name, metrics in distinct_baselines(sweep.rows)
    ]
    return ["baseline", *(metric.upper() for metric in METRICS)], lines


def markdown(sweep: Sweep) -> str:
    """Returns both tables in Markdown, aligned so that a terminal shows them as well."""
    parts = [files.shown(f"{sweep.name}: {caption(sweep)}"), _markdown_table(*table(sweep))]
    head, lines = baseline_table(sweep)
    if lines:
        parts += [_markdown_table(head, lines)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    escaped = [[files.shown(text).replace("|", "\\|") for text in line] for line in (head, *lines)]
    widths = [max(len(line[place]) for line in escaped) for place in range(len(head))]
    # The errors come last and are long: nothing is gained by aligning them.
    widths = [min(width, 60) for width in widths]
    texts = [
        "| " + " | ".join(map(str.ljust, line, widths)) + " |"
        for line in (escaped[0], ["-" * width for width in widths], *escaped[1:])
    ]
    return "\n".join(texts)


def row_names(rows: Sequence[SettingRow]) -> list[str]:
    """Returns each setting in a few words: its name, or the fields in which settings differ."""
    fields = list(rows[0].fields)
    told = [
        field for field in fields if any(row.fields[field] != rows[0].fields[field] for row in rows)
    ]
    names = []
    for row in rows:
        said = (
            f"{field.rpartition('.')[2]}={_text(row.fields[field])}" for field in told or fields
        )
        names.append(row.name or ", ".join(said) or "the config as it is")
    return names


def _page(sweep: Sweep, plot: Figure | None) -> str:
    return render(
        "sweep.html",
        sweep=sweep,
        plot=plot,
        chosen=chosen_note(sweep.chosen_on, "Of a row's users"),
        settings=_page_table("Settings", *table(sweep), caption=caption(sweep)),
        baselines=_page_table("Baselines", *baseline_table(sweep)),
        config=json.dumps(sweep.config, indent=2, ensure_ascii=False),
    )


def _page_table(
    title: str, head: Sequence[str], lines: Sequence[Sequence[str]], caption: str = ""
) -> Table:
    rows = [Row(Cell(line[0]), [_page_cell(text) for text in line[1:]]) for line in lines]
    return Table(title, cells(*head), rows, title=title, caption=caption, breaks=False)


def _page_cell(text: str) -> Cell:
    estimate = re.fullmatch(r"([\d.]+) (\[[-\d., ]+\])", text)
    return Cell(estimate[1], estimate[2]) if estimate else Cell(text)


def _plot(sweep: Sweep) -> Figure:
    from minirec.reports import sweep_plots

    rows = [row for row in sweep.rows if row.num_seeds]
    names = row_names(rows)
    spoken = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{recommender} {metric.upper()} {_cell(estimates[metric])}"
            for recommender, estimates in row.estimates.items()
            for metric in METRICS
        )
        for name, row in zip(names, rows, strict=True)
    )
    chosen = chosen_note(sweep.chosen_on, "Of a row's users")
    label = f"Settings of {sweep.name} with 95% intervals. {spoken}. {chosen}".strip()
    baselines = distinct_baselines(rows)
    svg = sweep_plots.setting_dots(rows, names, baselines, label=label)
    series = sweep_plots.series_of(recommenders(rows)) | {name: name for name, _ in baselines}
    legend = [Cell(marked(name, sweep.chosen_on), swatch=css) for name, css in series.items()]
    return Figure("Settings, best first", svg, legend=legend, wide=True)


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _text(value: Any) -> str:
    return str(value) if value != "" else "''"
