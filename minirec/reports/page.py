"""`index.html`: the report as one page that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from minirec.evaluation.evaluate import LEVELS, SHOWN
from minirec.evaluation.strata import metrics_by_stratum
from minirec.reports import plots
from minirec.reports.html_parts import breakable, code, document, figure, section, shown_html
from minirec.reports.log_health import health_section
from minirec.reports.report import (
    BASELINES,
    CHOSEN,
    MODEL,
    SYSTEM,
    Example,
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
_MOST_HISTORY = 8
_MOST_RECOMMENDED = 10
_MOST_FIRST_STEPS = 12


def render_page(report: Report) -> str:
    """Returns the whole page. All that comes from data or configuration is escaped."""
    title = shown_html(f"{report.name} · {report.dataset} · {report.split}")
    sections = [
        _header(report),
        *(f'<p class="verdict">{shown_html(note)}</p>' for note in report.notes),
        _metrics(report),
        _training(report),
        _first_losses(report),
        _ranks(report),
        _strata(report),
        _catalogue(report),
        health_section(report.health) if report.health else "",
        _examples(report),
        _configuration(report),
    ]
    return document(title, [part for part in sections if part])


def _header(report: Report) -> str:
    k = _headline_k(report)
    values = report.model.metrics["item"]
    exclusion = "items seen before left out" if report.exclude_seen else "items seen before allowed"
    level = f"item level {CHOSEN}" if MODEL in report.chosen_on else "item level"
    chosen = f'<p class="meta">{shown_html(report.chosen_note)}</p>' if report.chosen_note else ""
    facts = [
        (f"NDCG@{k}", f"{values[f'ndcg@{k}']:.4f}", level),
        (f"HR@{k}", f"{values[f'hr@{k}']:.4f}", level),
        (f"Coverage@{SHOWN}", f"{report.model.coverage:.1%}", "of the catalogue"),
        ("Invalid SIDs", f"{report.model.invalid:,}", f"{report.model.dead_beams:,} dead beams"),
    ]
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in facts
    )
    return (
        f'<header><p class="kicker">minirec report</p><h1>{shown_html(report.name)}</h1>'
        f'<p class="meta">{shown_html(report.dataset)} · {shown_html(report.split)} split · '
        f"{report.num_users:,} users · {len(report.catalogue.codes):,} items · {exclusion}</p>"
        f'<p class="verdict">{_verdict(report, k)}</p>{chosen}'
        f'<dl class="tiles">{tiles}</dl></header>'
    )


def _headline_k(report: Report) -> int:
    shared = common_ks(report, "item") or [
        int(name.removeprefix("hr@"))
        for name in report.model.metrics["item"]
        if name.startswith("hr@")
    ]
    return 10 if 10 in shared else max(shared)


def _verdict(report: Report, k: int) -> str:
    """Returns a sentence on the model, and one on the system, beside the strongest baseline."""
    metric = f"ndcg@{k}"
    rivals = {
        name: evaluation.metrics["item"][metric]
        for name, evaluation in report.evaluations.items()
        if name in BASELINES and metric in evaluation.metrics["item"]
    }
    if not rivals:
        return "No baseline stands beside the model."
    rival = max(rivals, key=lambda name: rivals[name])
    model = _judgement(report, MODEL, rival, report.differences, metric)
    sentences = f"In NDCG@{k} at item level the {marked(MODEL, report.chosen_on)} is {model}."
    if SYSTEM in report.evaluations:
        system = _judgement(report, SYSTEM, rival, report.system_differences, metric)
        sentences += f" The {marked(SYSTEM, report.chosen_on)} is {system}."
    return sentences


def _judgement(
    report: Report,
    name: str,
    rival: str,
    differences: Mapping[str, Mapping[str, Mapping[str, list[float]]]],
    metric: str,
) -> str:
    values = [report.evaluations[row].metrics["item"][metric] for row in (name, rival)]
    low, high = differences[rival]["item"][metric]
    if low > 0:
        judgement = "above"
    elif high < 0:
        judgement = "below"
    else:
        judgement = "not clearly apart from"
    return (
        f"<strong>{judgement}</strong> {code(rival)}, the strongest baseline: "
        f"{_signed(values[0] - values[1])} (95% interval {_signed(low)} to {_signed(high)}, "
        "same users)"
    )


def _metrics(report: Report) -> str:
    tables = "".join(_metric_table(report, level) for level in LEVELS)
    note = (
        "95% intervals by bootstrap over users stand under each figure; the best of a row is bold."
    )
    return section(
        "Metrics",
        f"{note} {shown_html(report.chosen_note)}".strip(),
        # One below the other: side by side the last recommenders would stand outside the picture.
        f'<div class="stack">{tables}</div>',
    )


def _metric_table(report: Report, level: str) -> str:
    names = list(report.evaluations)
    head = _heads(report, names)
    keys = list(report.model.metrics[level])
    rows = []
    for metric in ("hr", "ndcg"):
        for key in keys:
            if key.partition("@")[0] != metric:
                continue
            cells = _cells(report, level, key)
            first = ' class="first"' if key == f"{metric}@{keys[0].partition('@')[2]}" else ""
            rows.append(f'<tr{first}><th scope="row">{key.upper()}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{_LEVEL_TITLES[level]}, table"><table class="metrics"><caption>'
        f"<strong>{_LEVEL_TITLES[level]}</strong> {_LEVEL_NOTES[level]}</caption>"
        f'<thead><tr><th scope="col">Metric</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(report: Report, level: str, key: str) -> str:
    evaluations = report.evaluations.values()
    best = max(evaluation.metrics[level].get(key, -1.0) for evaluation in evaluations)
    cells = []
    for evaluation in evaluations:
        value = evaluation.metrics[level].get(key)
        if value is None:
            cells.append("<td>–</td>")
            continue
        low, high = evaluation.intervals[level][key]
        text = f"{value:.4f}"
        text = f"<strong>{text}</strong>" if value == best else text
        cells.append(f"<td>{text}<small>{_short(low)}–{_short(high)}</small></td>")
    return "".join(cells)


def _training(report: Report) -> str:
    figures = []
    steps, values = report.curves.loss
    if values:
        label = f"Training loss over {len(values)} points, from {values[0]:.3f} to {values[-1]:.3f}"
        figures.append(
            figure(
                plots.line_plot(
                    report.curves.loss, label=label, x_label="step", y_label="loss", smooth=True
                ),
                "Training loss",
                f"From {values[0]:.3f} to {values[-1]:.3f} at step {steps[-1]:,.0f}.",
            )
        )
    shown = [name for name in ("ndcg@10", "hr@10") if name in report.curves.validation]
    for name in (shown or list(report.curves.validation))[:1]:
        steps, values = report.curves.validation[name]
        best = int(np.argmax(values))
        note = f"Best {values[best]:.4f} at step {steps[best]:,.0f}; by real beam search."
        figures.append(
            figure(
                plots.line_plot(
                    report.curves.validation[name],
                    label=f"Validation {name} by step. {note}",
                    x_label="step",
                    y_label=name.upper(),
                ),
                f"Validation {shown_html(name.upper())}",
                note,
            )
        )
    if not figures:
        return ""
    return section("Training", "", f'<div class="columns">{"".join(figures)}</div>')


def _first_losses(report: Report) -> str:
    """Returns the losses of the first steps, a column for each start of the new tokens' rows."""
    lines = report.first_losses
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{breakable(name)}</th>' for name in lines)
    num_steps = min(len(line) for line in lines.values())
    shown = np.unique(np.linspace(0, num_steps - 1, min(num_steps, _MOST_FIRST_STEPS)).astype(int))
    rows = []
    for step in shown:
        best = min(line[step] for line in lines.values())
        cells = "".join(
            f"<td><strong>{line[step]:.4f}</strong></td>"
            if line[step] == best
            else f"<td>{line[step]:.4f}</td>"
            for line in lines.values()
        )
        rows.append(f'<tr><th scope="row">{step + 1}</th>{cells}</tr>')
    return section(
        "What the new tokens' rows start from",
        "Training loss of the first steps from each start, on the same batches; the lowest of a "
        "row is bold.",
        '<div class="scroll" tabindex="0" role="region" aria-label="First losses, table">'
        f'<table class="metrics"><thead><tr><th scope="col">Step</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    )


def _ranks(report: Report) -> str:
    ranks = {name: evaluation.ranks["item"] for name, evaluation in report.evaluations.items()}
    longest = max(common_ks(report, "item") or [_headline_k(report)])
    found = "; ".join(
        f"{name} {((line >= 0) & (line < longest)).mean():.1%}" for name, line in ranks.items()
    )
    legend = _legend(ranks, report)
    hits = plots.hit_curves(
        ranks, longest, label=f"HR@K at item level for K from 1 to {longest}. At the end: {found}."
    )
    bars = plots.rank_bars(
        ranks, longest, label=f"Share of users by the target's place. Within {longest}: {found}."
    )
    return section(
        "Where the target stands",
        f"Item level; a target beyond place {longest} is not shown. Found at all: {found}.",
        f'<div class="columns">{figure(hits, "Hit rate by length of the list", legend)}'
        f"{figure(bars, 'Place of the target', legend)}</div>",
    )


def _strata(report: Report) -> str:
    """Returns how each recommender fares among users of each stratum."""
    strata = metrics_by_stratum(report.evaluations, report.strata)
    if not strata:
        return ""
    names = list(report.evaluations)
    head = _heads(report, names)
    rows = []
    for stratum, content in strata.items():
        for metric in (f"hr@{SHOWN}", f"ndcg@{SHOWN}"):
            values = [content.metrics.get(name, {}).get(metric) for name in names]
            cells = "".join(
                "<td>–</td>" if value is None else f"<td>{value:.4f}</td>" for value in values
            )
            share = content.users / report.num_users
            label = f"{breakable(stratum)} ({share:.1%}) {metric.upper()}"
            rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    return section(
        "Known and new pairs",
        "",
        '<div class="scroll" tabindex="0" role="region" aria-label="Strata, table">'
        '<table class="metrics"><caption>Users whose target followed their newest item in '
        "training, at most three places behind, and all others; item level.</caption>"
        f'<thead><tr><th scope="col">Users, metric</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    )


def _catalogue(report: Report) -> str:
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
    rows = "".join(
        f'<tr><th scope="row">{level["level"]}</th><td>{level["size"]:,}</td>'
        f"<td>{level['used']:,}</td><td>{level['perplexity']:,.1f}</td></tr>"
        for level in levels
    )
    _, shared = np.unique(catalogue.codes, axis=0, return_counts=True)
    colliding = int(shared[shared > 1].sum())
    table = (
        '<table class="plain"><caption>Perplexity: as many equally used codes would spread the '
        f"items as widely. {len(shared):,} different SIDs; {colliding:,} items share theirs."
        '</caption><thead><tr><th scope="col">Level</th><th scope="col">Codes</th>'
        '<th scope="col">Used</th><th scope="col">Perplexity</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    tail = figure(
        popularity,
        "Long tail",
        _legend(counts, report)
        + f"Share of the first {SHOWN} places that goes to the most popular items; "
        f"<em>target</em> is what users took. The most popular 1%: {shown_html(shares)}. "
        f"Part of the catalogue shown to anyone: {shown_html(coverage)}.",
    )
    codes = figure(
        bars,
        "Codebook use",
        "Items of each code, most used code first; the dashed line is an even spread.",
    )
    return section("Catalogue", "", f'<div class="columns">{tail}<div>{codes}{table}</div></div>')


def _examples(report: Report) -> str:
    if not report.examples:
        return ""
    cards = "".join(_example(example) for example in report.examples)
    return section(
        "Examples",
        "History with the newest item last, what came next, and the model's list.",
        f'<div class="cards">{cards}</div>',
    )


def _example(example: Example) -> str:
    history = list(example.history)
    left_out = len(history) - _MOST_HISTORY
    earlier = f'<li class="muted">… {left_out:,} earlier</li>' if left_out > 0 else ""
    items = earlier + "".join(f"<li>{shown_html(title)}</li>" for title in history[-_MOST_HISTORY:])
    recommended = "".join(
        f'<li class="hit">{shown_html(title)} <span class="tag">came next</span></li>'
        if place == example.rank
        else f"<li>{shown_html(title)}</li>"
        for place, title in enumerate(example.recommended[:_MOST_RECOMMENDED])
    )
    found = f"at place {example.rank + 1} of the list" if example.rank >= 0 else "not in the list"
    return (
        f'<article class="card"><h3>User {shown_html(example.user)}</h3>'
        f"<h4>History</h4><ul>{items}</ul><h4>Came next, {found}</h4>"
        f'<p class="target">{shown_html(example.target)}</p>'
        f"<h4>Recommended</h4><ol>{recommended}</ol></article>"
    )


def _configuration(report: Report) -> str:
    config = shown_html(json.dumps(report.config, indent=2, ensure_ascii=False, sort_keys=True))
    return (
        "<section><details><summary>Run configuration</summary>"
        f'<p class="muted">Seed {report.seed}; evaluated in {report.seconds:,.1f} s.</p>'
        f"<pre>{config}</pre></details></section>"
    )


def _heads(report: Report, names: Sequence[str]) -> str:
    """Returns a table's columns, one a recommender."""
    return "".join(
        f'<th scope="col">{_swatch(name)}{breakable(marked(name, report.chosen_on))}</th>'
        for name in names
    )


def _legend(names: Mapping[str, object], report: Report) -> str:
    entries = "".join(
        f"<span>{_swatch(name)}{shown_html(marked(name, report.chosen_on))}</span>"
        for name in names
    )
    return f'<span class="legend">{entries}</span>'


def _swatch(name: str) -> str:
    css = "target" if name == "target" else plots.css_name(name)
    return f'<i class="swatch {css}" aria-hidden="true"></i>'


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")
