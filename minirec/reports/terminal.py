"""A report for the terminal: a table to read and lines for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minirec.evaluation.evaluate import LEVELS, SHOWN
from minirec.files import shown
from minirec.reports.log_health import tied_text
from minirec.reports.report import Report, marked

if TYPE_CHECKING:
    from rich.table import Table

_LEVEL_NAMES = {"item": "item level", "sid": "SID level"}


def metric_lines(report: Report) -> list[str]:
    """Returns `hr@10=0.0793`, `ndcg@10=0.0502`, …, `invalid=0`, one line a figure.

    The model's item level comes first under the plain names, then its SID level as `sid_hr@10`,
    then counts (`tied_targets` of the split's `targets`: those with a neighbour's time;
    `system_chosen_on` users of these chose the system's weights, see `Report`), then the baselines
    as `item_transition_hr@10` and `item_transition_sid_hr@10`.
    """
    lines = []
    for level, prefix in (("item", ""), ("sid", "sid_")):
        lines += [
            f"{prefix}{key}={value:.4f}" for key, value in report.model.metrics[level].items()
        ]
    lines += [
        f"invalid={report.model.invalid}",
        f"dead_beams={report.model.dead_beams}",
        f"coverage@{SHOWN}={report.model.coverage:.4f}",
        f"users={report.num_users}",
    ]
    if report.health is not None:
        targets = report.health["targets"][report.split]
        tied = "no_times" if targets["tied"] is None else targets["tied"]
        lines += [f"targets={targets['views']}", f"tied_targets={tied}"]
    lines += [f"{name}_chosen_on={number}" for name, number in report.chosen_on.items()]
    for name, evaluation in list(report.evaluations.items())[1:]:
        for level, prefix in (("item", ""), ("sid", "sid_")):
            lines += [
                f"{name}_{prefix}{key}={value:.4f}"
                for key, value in evaluation.metrics[level].items()
            ]
    return lines


def metric_table(report: Report, ks: Sequence[int] = (5, 10)) -> Table:
    """Returns a table with the model beside the baselines at both levels, the best in bold.

    It fits 80 columns. The last column is the bootstrap interval of the last NDCG shown.

    Args:
        report: what to show.
        ks: list lengths to show; where the model's lists reach none of them, the two longest that
            they do reach.
    """
    from rich.markup import escape
    from rich.table import Table

    metrics = report.model.metrics["item"]
    reached = [int(key.removeprefix("hr@")) for key in metrics if key.startswith("hr@")]
    ks = [k for k in ks if k in reached] or sorted(reached)[-2:]
    names = [f"{metric}@{k}" for metric in ("hr", "ndcg") for k in ks]
    table = Table(
        title=escape(
            shown(f"{report.name} · {report.dataset} · {report.split}, {report.num_users:,} users")
        ),
        title_justify="left",
        caption=(
            f"invalid {report.model.invalid} · dead beams {report.model.dead_beams} · coverage of "
            f"the first {SHOWN} {report.model.coverage:.1%}{_tied(report)}"
            + (f"\n{report.chosen_note}" if report.chosen_note else "")
        ),
        caption_justify="left",
    )
    table.add_column("")
    for name in names:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    table.add_column("95%", justify="right", style="dim", no_wrap=True)
    for level in LEVELS:
        table.add_section()
        table.add_row(f"[dim]{_LEVEL_NAMES[level]}[/dim]")
        rows = {name: values.metrics[level] for name, values in report.evaluations.items()}
        best = {name: max(row.get(name, -1.0) for row in rows.values()) for name in names}
        for recommender, values in rows.items():
            cells = []
            for name in names:
                text = f"{values[name]:.4f}" if name in values else "–"
                cells.append(f"[bold]{text}[/bold]" if values.get(name) == best[name] else text)
            interval = report.evaluations[recommender].intervals[level].get(names[-1], ())
            span = "–".join(f"{end:.4f}".removeprefix("0") for end in interval)
            table.add_row(escape(marked(recommender, report.chosen_on)), *cells, span)
    return table


def _tied(report: Report) -> str:
    if report.health is None:
        return ""
    return f" · tied targets {tied_text(report.health['targets'][report.split])}"
