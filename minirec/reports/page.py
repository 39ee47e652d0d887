"""`index.html`: the report as one page that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from minirec.evaluation.evaluate import LEVELS, SHOWN
from minirec.evaluation.strata import metrics_by_stratum
from minirec.recommend import BASELINES
from minirec.reports import plots
from minirec.reports.html_parts import Cell, Figure, Row, Table, cells, render, signed
from minirec.reports.log_health import health_rows
from minirec.reports.report import (
    CHOSEN,
    SYSTEM,
    Report,
    codebook_use,
    common_ks,
    marked,
)

_LEVEL_TITLES = {"item": "Item level", "sid": "SID level"}
_LEVEL_NOTES = {
    "item": "The item itself must be found. Among items that share a SID the one more popular in "
    "training comes first.",
    "sid": "Any item with the target's SID counts. A list holds a SID once, at its first place.",
}
_MOST_FIRST_STEPS = 12


def render_page(report: Report) -> str:
    """Returns the whole page. All that comes from data or configuration is escaped."""
    k = _headline_k(report)
    return render(
        "report.html",
        report=report,
        k=k,
        shown=SHOWN,
        facts=_facts(report, k),
        verdicts=_verdicts(report, f"ndcg@{k}"),
        metrics=[_metric_table(report, level) for level in LEVELS],
        training=_training(report),
        first_losses=_first_losses(report),
        strata=_strata(report),
        health=_health(report),
        config=json.dumps(report.config, indent=2, ensure_ascii=False, sort_keys=True),
        **_ranks(report),
        **_catalogue(report),
    )


def _facts(report: Report, k: int) -> list[tuple[str, str, str]]:
    values = report.model.metrics["item"]
    level = f"item level {CHOSEN}" if report.main in report.chosen_on else "item level"
    return [
        (f"NDCG@{k}", f"{values[f'ndcg@{k}']:.4f}", level),
        (f"HR@{k}", f"{values[f'hr@{k}']:.4f}", level),
        (f"Coverage@{SHOWN}", f"{report.model.coverage:.1%}", "of the catalogue"),
        ("Invalid SIDs", f"{report.model.invalid:,}", f"{report.model.dead_beams:,} dead beams"),
    ]


def _headline_k(report: Report) -> int:
    shared = common_ks(report, "item") or [
        int(name.removeprefix("hr@"))
        for name in report.model.metrics["item"]
        if name.startswith("hr@")
    ]
    return 10 if 10 in shared else max(shared)


def _verdicts(report: Report, metric: str) -> list[dict[str, str]]:
    """Returns how the model, and the system, stand beside the strongest baseline, if any."""
    rivals = {
        name: evaluation.metrics["item"][metric]
        for name, evaluation in report.evaluations.items()
        if name in BASELINES and metric in evaluation.metrics["item"]
    }
    if not rivals:
        return []
    rival = max(rivals, key=lambda name: rivals[name])
    verdicts = []
    for name, differences in (
        (report.main, report.differences),
        (SYSTEM, report.system_differences),
    ):
        if name not in report.evaluations:
            continue
        low, high = differences[rival]["item"][metric]
        judgement = "above" if low > 0 else "below" if high < 0 else "not clearly apart from"
        gap = report.evaluations[name].metrics["item"][metric] - rivals[rival]
        interval = f"95% interval {signed(low)} to {signed(high)}"
        said = {"name": marked(name, report.chosen_on), "judgement": judgement, "rival": rival}
        verdicts.append(said | {"gap": signed(gap), "interval": interval})
    return verdicts


def _metric_table(report: Report, level: str) -> Table:
    rows = []
    for metric in ("hr", "ndcg"):
        keys = [key for key in report.model.metrics[level] if key.partition("@")[0] == metric]
        rows += [
            Row(Cell(key.upper()), _metric_cells(report, level, key), first=key == keys[0])
            for key in keys
        ]
    title = _LEVEL_TITLES[level]
    heads = [Cell("Metric"), *_named(report.evaluations, report)]
    return Table(title, heads, rows, title=title, caption=_LEVEL_NOTES[level])


def _metric_cells(report: Report, level: str, key: str) -> list[Cell]:
    evaluations = report.evaluations.values()
    best = max(evaluation.metrics[level].get(key, -1.0) for evaluation in evaluations)
    line = []
    for evaluation in evaluations:
        value = evaluation.metrics[level].get(key)
        if value is None:
            line.append(Cell("–"))
            continue
        low, high = evaluation.intervals[level][key]
        line.append(Cell(f"{value:.4f}", f"{_short(low)}–{_short(high)}", best=value == best))
    return line


def _training(report: Report) -> list[Figure]:
    figures = []
    steps, values = report.curves.loss
    if values:
        label = f"Training loss over {len(values)} points, from {values[0]:.3f} to {values[-1]:.3f}"
        svg = plots.line_plot(
            report.curves.loss, label=label, x_label="step", y_label="loss", smooth=True
        )
        note = f"From {values[0]:.3f} to {values[-1]:.3f} at step {steps[-1]:,.0f}."
        figures.append(Figure("Training loss", svg, note))
    shown = [name for name in ("ndcg@10", "hr@10") if name in report.curves.validation]
    for name in (shown or list(report.curves.validation))[:1]:
        steps, values = report.curves.validation[name]
        best = int(np.argmax(values))
        note = f"Best {values[best]:.4f} at step {steps[best]:,.0f}; by real beam search."
        svg = plots.line_plot(
            report.curves.validation[name],
            label=f"Validation {name} by step. {note}",
            x_label="step",
            y_label=name.upper(),
        )
        figures.append(Figure(f"Validation {name.upper()}", svg, note))
    return figures


def _first_losses(report: Report) -> Table | None:
    """Returns the losses of the first steps, a column for each start of the new tokens' rows."""
    lines = report.first_losses
    if not lines:
        return None
    num_steps = min(len(line) for line in lines.values())
    shown = np.unique(np.linspace(0, num_steps - 1, min(num_steps, _MOST_FIRST_STEPS)).astype(int))
    rows = []
    for step in shown:
        losses = [line[step] for line in lines.values()]
        line = [Cell(f"{loss:.4f}", best=loss == min(losses)) for loss in losses]
        rows.append(Row(Cell(f"{step + 1}"), line))
    return Table("First losses", cells("Step", *lines), rows)


def _ranks(report: Report) -> dict[str, Any]:
    ranks = {name: evaluation.ranks["item"] for name, evaluation in report.evaluations.items()}
    longest = max(common_ks(report, "item") or [_headline_k(report)])
    found = "; ".join(
        f"{name} {((line >= 0) & (line < longest)).mean():.1%}" for name, line in ranks.items()
    )
    hits = plots.hit_curves(
        ranks, longest, label=f"HR@K at item level for K from 1 to {longest}. At the end: {found}."
    )
    bars = plots.rank_bars(
        ranks, longest, label=f"Share of users by the target's place. Within {longest}: {found}."
    )
    legend = _named(ranks, report)
    figures = [
        Figure("Hit rate by length of the list", hits, legend=legend),
        Figure("Place of the target", bars, legend=legend),
    ]
    return {"longest": longest, "found": found, "ranks": figures}


def _strata(report: Report) -> Table | None:
    """Returns how each recommender fares among users of each stratum."""
    strata = metrics_by_stratum(report.evaluations, report.strata)
    if not strata:
        return None
    rows = []
    for stratum, content in strata.items():
        for metric in (f"hr@{SHOWN}", f"ndcg@{SHOWN}"):
            values = [content.metrics.get(name, {}).get(metric) for name in report.evaluations]
            line = cells(*("–" if value is None else f"{value:.4f}" for value in values))
            share = content.users / report.num_users
            rows.append(Row(Cell(f"{stratum} ({share:.1%}) {metric.upper()}"), line))
    return Table(
        "Strata",
        [Cell("Users, metric"), *_named(report.evaluations, report)],
        rows,
        caption="Users whose target followed their newest item in training, at most three places "
        "behind, and all others; of these, those whose target has no training interaction. Where "
        "both occur: users whom training knows and others, and targets that stand in the history "
        "and others. Item level.",
    )


def _catalogue(report: Report) -> dict[str, Any]:
    catalogue = report.catalogue
    order = np.argsort(-catalogue.train_count, kind="stable")
    num_items = len(order)
    counts = {name: evaluation.recommended for name, evaluation in report.evaluations.items()}
    counts["target"] = np.bincount(report.target, minlength=num_items)
    head = max(1, num_items // 100)
    shares = "; ".join(
        f"{name} {count[order[:head]].sum() / max(count.sum(), 1):.0%}"
        for name, count in counts.items()
    )
    popularity = plots.popularity_curves(
        counts,
        order,
        label=f"Cumulative share of places by popularity. Most popular 1% of items: {shares}.",
    )
    coverage = "; ".join(
        f"{name} {evaluation.coverage:.1%}" for name, evaluation in report.evaluations.items()
    )
    levels = codebook_use(report)
    summary = "; ".join(
        f"level {level['level']}: {level['used']} of {level['size']} codes" for level in levels
    )
    bars = plots.codebook_bars(
        report.codebook_counts, label=f"Items a code, a panel a level. {summary}."
    )
    _, shared = np.unique(catalogue.codes, axis=0, return_counts=True)
    colliding = int(shared[shared > 1].sum())
    rows = []
    for level in levels:
        line = cells(f"{level['size']:,}", f"{level['used']:,}", f"{level['perplexity']:,.1f}")
        rows.append(Row(Cell(str(level["level"])), line))
    codebooks = Table(
        "",
        cells("Level", "Codes", "Used", "Perplexity"),
        rows,
        css="plain",
        caption="Perplexity: as many equally used codes would spread the items as widely. "
        f"{len(shared):,} different SIDs; {colliding:,} items share theirs.",
    )
    note = "Items of each code, most used code first; the dashed line is an even spread."
    return {
        "long_tail": Figure("Long tail", popularity, legend=_named(counts, report)),
        "shares": shares,
        "coverage": coverage,
        "codes": Figure("Codebook use", bars, note),
        "codebooks": codebooks,
    }


def _health(report: Report) -> Table | None:
    if not report.health:
        return None
    rows = [Row(Cell(name), [Cell(text)]) for name, text in health_rows(report.health)]
    return Table("The log", (), rows, css="plain words", breaks=False)


def _named(names: Iterable[str], report: Report) -> list[Cell]:
    """Returns recommenders' names beside their colours, for a table's head or a legend."""
    css = {name: "target" if name == "target" else plots.css_name(name) for name in names}
    return [Cell(marked(name, report.chosen_on), swatch=swatch) for name, swatch in css.items()]


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
