"""`compare.json` and `index.html` of a comparison of quantisers; the page needs no network."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from minirec import files
from minirec.evaluation.sid_comparison import Comparison, QuantiserScores, comparison_json
from minirec.evaluation.sid_information import Information
from minirec.reports import sid_plots
from minirec.reports.html_parts import Cell, Figure, Row, Table, cells, render, signed

_KINDS = {"content": "text", "transitions": "transitions"}


def write_comparison(folder: str | os.PathLike[str], comparison: Comparison) -> Path:
    """Writes `compare.json` and `index.html`; returns the page's path.

    They take the place of the whole folder at once. The page is one file that needs no network.

    Raises:
        ValueError: the comparison holds NaN, an infinity or something else that JSON cannot hold.
    """
    folder = Path(folder)
    page = render_page(comparison)
    with files.atomic_folder(folder) as new:
        files.write_json(new / "compare.json", comparison_json(comparison))
        files.write_text(new / "index.html", page)
    return folder / "index.html"


def render_page(comparison: Comparison) -> str:
    """Returns the whole page. All that comes from data or configuration is escaped."""
    settings = {name: dict(one.settings) for name, one in comparison.quantisers.items()}
    content = {"quantisers": settings, "config": comparison.config}
    return render(
        "sids.html",
        comparison=comparison,
        facts=_facts(comparison),
        verdict=_verdict(comparison),
        summary=_summary(comparison),
        figures=_figures(comparison),
        levels=_levels(comparison),
        config=json.dumps(content, indent=2, ensure_ascii=False),
    )


def _facts(comparison: Comparison) -> list[tuple[str, str, str]]:
    quantisers = comparison.quantisers
    errors = {name: scores.relative_error[-1] for name, scores in quantisers.items()}
    sharing = {name: scores.report["items_sharing_sid"] for name, scores in quantisers.items()}
    bits = {name: scores.whole.bits for name, scores in quantisers.items()}
    facts = [("Item pairs alone", f"{comparison.item_level.bits:.3f}", "bits a transition")]
    best = max(bits, key=lambda name: bits[name])
    facts.append(("Most bits, whole SIDs", f"{bits[best]:.3f}", best))
    best = min(errors, key=lambda name: errors[name])
    facts.append(("Least error", f"{errors[best]:.3f}", f"of the variance, {best}"))
    best = min(sharing, key=lambda name: sharing[name])
    facts.append(("Fewest items sharing a SID", f"{sharing[best]:,}", best))
    return facts


def _verdict(comparison: Comparison) -> dict[str, str]:
    """Returns the parts of a sentence on which SIDs tell most of the next item."""
    bits = {name: scores.whole.bits for name, scores in comparison.quantisers.items()}
    first, *others = sorted(bits, key=lambda name: -bits[name])
    reference = comparison.item_level.bits
    beside = f"{bits[first] / reference:.2f} times" if reference > 0 else "where"
    tells = "what item pairs tell" if reference > 0 else "item pairs tell nothing"
    came = comparison.quantisers[first].settings.get("source") == "given"
    verdict = {
        "first": first,
        "second": "",
        "bits": f"{bits[first]:.3f}",
        "beside": f"{beside} {tells}",
        "caveat": " They came from a file, and may have been made with these transitions." * came,
    }
    if not others:
        return verdict
    gap, error = comparison.difference(first, others[0])
    low, high = gap - 1.96 * error, gap + 1.96 * error
    return verdict | {
        "second": others[0],
        "judgement": "" if low > 0 else " not clearly apart from the next,",
        "gap": f"{gap:.3f}",
        "interval": f"95% interval {signed(low, 3)} to {signed(high, 3)}",
    }


def _summary(comparison: Comparison) -> Table:
    scores = list(comparison.quantisers.values())
    least_error = min(one.relative_error[-1] for one in scores)
    least_sharing = min(one.report["items_sharing_sid"] for one in scores)
    most_first = max(one.information[0].bits for one in scores)
    most_whole = max(one.whole.bits for one in scores)
    rows = []
    for head, one in zip(_named(comparison), scores, strict=True):
        report, error = one.report, one.relative_error[-1]
        sharing = report["items_sharing_sid"]
        share = f"{sharing / report['num_items']:.1%}, at most {report['largest_group']:,}"
        line = [
            Cell(f"{error:.4f}", best=error == least_error),
            Cell(f"{sharing:,}", share, best=sharing == least_sharing),
            _bits_cell(one.information[0], most_first),
            _bits_cell(one.whole, most_whole),
            Cell(f"{one.seconds:,.1f}"),
        ]
        sizes = " × ".join(f"{size:,}" for size in one.codebook_sizes)
        rows.append(Row(dataclasses.replace(head, small=sizes), line))
    names = ("Error", "Sharing a SID", "Bits, first code", "Bits, whole SID", "Seconds")
    return Table(
        "Quantisers",
        cells("Quantiser", *names),
        rows,
        caption="Error of the last level, relative to the vectors’ variance; items that share "
        "their SID with another; bits saved on the next item, with 95% intervals; seconds from "
        "vectors to SIDs, compiling included.",
    )


def _bits_cell(information: Information, most: float) -> Cell:
    bits = information.bits
    return Cell(f"{bits:.3f}", f"± {1.96 * information.standard_error:.3f}", best=bits == most)


def _figures(comparison: Comparison) -> list[Figure]:
    names = list(comparison.quantisers)
    scores = list(comparison.quantisers.values())
    depth = max(len(one.codebook_sizes) for one in scores)
    prefixes = ["1 code", *(f"{length} codes" for length in range(2, depth + 1))]
    levels = [f"level {level}" for level in range(depth)]
    bits = [[entry.bits for entry in one.information[:-1]] for one in scores]
    errors = [list(one.relative_error) for one in scores]
    used = [[row["fraction_used"] for row in one.report["levels"]] for one in scores]
    even = [
        [row["perplexity"] / row["codebook_size"] for row in one.report["levels"]] for one in scores
    ]
    shared = [
        [row["items_sharing_prefix"] / one.report["num_items"] for row in one.report["levels"]]
        for one in scores
    ]
    information = sid_plots.level_lines(
        dict(enumerate(bits)),
        prefixes,
        label="Bits saved on the next item by length of prefix. " + _spoken(names, bits),
        y_label="bits a transition",
        reference=(comparison.item_level.bits, "item pairs, no SIDs"),
    )
    reconstruction = sid_plots.level_lines(
        dict(enumerate(errors)),
        prefixes,
        label="Reconstruction error by length of prefix. " + _spoken(names, errors),
        y_label="error, relative to the variance",
    )
    bars = sid_plots.level_bars(
        dict(enumerate(even)),
        dict(enumerate(used)),
        levels,
        label="Perplexity as a share of the codebook, by level. " + _spoken(names, even),
        y_label="share of the codebook",
    )
    collisions = sid_plots.level_lines(
        dict(enumerate(shared)),
        prefixes,
        label="Items that share their prefix, by its length. " + _spoken(names, shared),
        y_label="share of the items",
    )
    kept = []
    for kind, called in _KINDS.items():
        having = {name: one for name, one in comparison.quantisers.items() if kind in one.kept}
        shares = {names.index(name): list(one.kept[kind]) for name, one in having.items()}
        if shares:
            plot = sid_plots.level_lines(
                shares,
                prefixes,
                label=f"Share of the nearest by {called} that a prefix keeps together. "
                + _spoken(having, list(shares.values())),
                y_label="share of the 50 nearest",
            )
            chance = [f"{one.by_chance[0]:.1%}" for one in having.values()]
            caption = (
                f"Of the 50 items that are nearest by {called}, those that have the same first "
                f"codes. Of random items one code keeps {', '.join(chance)}."
            )
            kept.append(Figure(f"Neighbours by {called}", plot, caption, _named(comparison)))
    fitted = "Of given SIDs, that of codebooks fitted to them, level by level."
    solid = (
        "Solid: perplexity, as many equally used codes would spread the items as widely. Pale: "
        "codes that any item has."
    )
    legend = _named(comparison)
    return [
        Figure("Next-item information", information, legend=legend),
        Figure("Reconstruction", reconstruction, fitted, legend),
        Figure("Codebook use", bars, solid, legend),
        Figure(
            "Items not told apart", collisions, "Items whose prefix another item has too.", legend
        ),
        *kept,
        *_trained(comparison),
    ]


def _trained(comparison: Comparison) -> list[Figure]:
    """Returns how what is known before training goes with what models reached, if any did."""
    if not comparison.ndcg:
        return []
    place = {name: number for number, name in enumerate(comparison.quantisers)}
    correlations = comparison.correlations()
    panels = {}
    for measure, values in comparison.measures.items():
        r = f", r = {correlations[measure]:+.2f}" if measure in correlations else ""
        panels[measure + r] = {
            place[name]: (value, comparison.ndcg[name])
            for name, value in values.items()
            if name in comparison.ndcg
        }
    reached = "; ".join(f"{name} {value:.4f}" for name, value in comparison.ndcg.items())
    plot = sid_plots.against(
        panels,
        label=f"Validation NDCG@10 of models, by quantiser: {reached}. " + "; ".join(panels),
        y_label="NDCG@10",
    )
    caption = (
        f"Of the models that a sweep has trained on such SIDs: {reached}. Kept: of the 50 nearest, "
        f"by the first code, beyond chance. r: Pearson’s correlation over {len(comparison.ndcg)} "
        "quantisers."
    )
    return [Figure("What models reached", plot, caption, _named(comparison), wide=True)]


def _levels(comparison: Comparison) -> Table:
    rows: list[Row] = []
    for head, one in zip(_named(comparison), comparison.quantisers.values(), strict=True):
        rows += _level_rows(head, one)
    names = (
        "Quantiser Level Codes Used Perplexity Largest Prefixes Sharing Error Text Transitions "
        "Bits Added"
    )
    return Table(
        "Every level of every quantiser",
        cells(*names.split()),
        rows,
        caption="Largest: share of the items with the most frequent code. Prefixes: how many "
        "different ones up to this level; Sharing: items whose prefix another item has too. Bits: "
        "saved by the prefix; Added: beyond the level before. Text, Transitions: share of the 50 "
        "nearest items of that kind that have the same prefix. The last line of each is what is "
        "known with the items below whole SIDs.",
    )


def _level_rows(head: Cell, one: QuantiserScores) -> list[Row]:
    rows: list[Row] = []
    before = 0.0
    for level, (row, error, information) in enumerate(
        zip(one.report["levels"], one.relative_error, one.information[:-1], strict=True)
    ):
        line = cells(
            row["level"],
            f"{row['codebook_size']:,}",
            f"{row['used']:,}",
            f"{row['perplexity']:,.1f}",
            f"{row['largest_share']:.1%}",
            f"{row['distinct_prefixes']:,}",
            f"{row['items_sharing_prefix']:,}",
            f"{error:.4f}",
            *(f"{one.kept[kind][level]:.1%}" if kind in one.kept else "–" for kind in _KINDS),
            f"{information.bits:.3f}",
            signed(information.bits - before, 3),
        )
        rows.append(Row(Cell("") if rows else head, line, first=not rows))
        before = information.bits
    with_items = one.information[-1].bits
    prefixes, bits = f"{one.report['num_items']:,}", f"{with_items:.3f}"
    line = cells("items", *"––––", prefixes, 0, *"–––", bits, signed(with_items - before, 3))
    return [*rows, Row(Cell(""), line)]


def _spoken(names: Iterable[str], values: list[list[float]]) -> str:
    return "; ".join(
        f"{name} {', '.join(f'{value:.3f}' for value in line)}"
        for name, line in zip(names, values, strict=True)
    )


def _named(comparison: Comparison) -> list[Cell]:
    """Returns the quantisers' names beside their colours, for a table's rows or a legend."""
    return [
        Cell(name, swatch=sid_plots.series_name(number))
        for number, name in enumerate(comparison.quantisers)
    ]
