"""`compare.json` and `index.html` of a comparison of quantisers; the page needs no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

from minirec import files
from minirec.evaluation.sid_comparison import Comparison, QuantiserScores, comparison_json
from minirec.reports import sid_plots
from minirec.reports.html_parts import breakable, code, document, figure, section, shown_html

_INFORMATION_NOTE = (
    "Bits that a model of SID prefixes saves on the last item of training sequences, relative to "
    "popularity. Neither the model nor vectors made here have seen these last items; SIDs and "
    "vectors that came from files may have. It counts which prefix follows which, longer prefixes "
    "on top of shorter ones, and draws items within a prefix by popularity. Item pairs are counts "
    "of items alone, without SIDs; where pairs are rare, prefixes tell more, since similar items "
    "share their counts. What a level adds is what its codes are worth to a recommender that reads "
    "the last item only."
)


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
    title = shown_html(f"{comparison.name} · semantic IDs")
    sections = [
        _header(comparison),
        _summary(comparison),
        _plots(comparison),
        _levels(comparison),
        _configuration(comparison),
    ]
    return document(title, sections)


def _header(comparison: Comparison) -> str:
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
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{shown_html(note)}</small></dd></div>"
        for name, value, note in facts
    )
    return (
        '<header><p class="kicker">minirec semantic IDs</p>'
        f"<h1>{shown_html(comparison.name)}</h1>"
        f'<p class="meta">{len(quantisers)} quantisers · {comparison.num_items:,} items · vectors: '
        f"{shown_html(comparison.vectors)} · {comparison.num_transitions:,} training transitions, "
        f"{comparison.num_held_out:,} held out of them</p>"
        f'<p class="verdict">{_verdict(comparison)}</p><dl class="tiles">{tiles}</dl></header>'
    )


def _verdict(comparison: Comparison) -> str:
    """Returns one sentence on which SIDs tell most of the next item."""
    bits = {name: scores.whole.bits for name, scores in comparison.quantisers.items()}
    first, *others = sorted(bits, key=lambda name: -bits[name])
    reference = comparison.item_level.bits
    beside = f"{bits[first] / reference:.2f} times" if reference > 0 else "where"
    tells = "what item pairs tell" if reference > 0 else "item pairs tell nothing"
    text = (
        f"Whole SIDs of {code(first)} tell the most of the next item: "
        f"<strong>{bits[first]:.3f} bits</strong> a transition, {beside} {tells}"
    )
    came = comparison.quantisers[first].settings.get("source") == "given"
    caveat = " They came from a file, and may have been made with these transitions." * came
    if not others:
        return f"{text}.{caveat}"
    gap, error = comparison.difference(first, others[0])
    low, high = gap - 1.96 * error, gap + 1.96 * error
    judgement = "" if low > 0 else " not clearly apart from the next,"
    return (
        f"{text};{judgement} {gap:.3f} bits more than {code(others[0])} "
        f"(95% interval {_signed(low)} to {_signed(high)}, same transitions).{caveat}"
    )


def _summary(comparison: Comparison) -> str:
    scores = list(comparison.quantisers.values())
    best = {
        "error": min(one.relative_error[-1] for one in scores),
        "sharing": min(one.report["items_sharing_sid"] for one in scores),
        "first": max(one.information[0].bits for one in scores),
        "whole": max(one.whole.bits for one in scores),
    }

    def cell(value: float, text: str, kind: str, small: str = "") -> str:
        text = f"<strong>{text}</strong>" if value == best[kind] else text
        return f"<td>{text}{f'<small>{small}</small>' if small else ''}</td>"

    rows = []
    for number, (name, one) in enumerate(comparison.quantisers.items()):
        report = one.report
        error = one.relative_error[-1]
        sharing = report["items_sharing_sid"]
        first, whole = one.information[0], one.whole
        rows.append(
            f'<tr><th scope="row">{_swatch(number)}{breakable(name)}'
            f"<small>{' × '.join(f'{size:,}' for size in one.codebook_sizes)}</small></th>"
            + cell(error, f"{error:.4f}", "error")
            + cell(
                sharing,
                f"{sharing:,}",
                "sharing",
                f"{sharing / report['num_items']:.1%}, at most {report['largest_group']:,}",
            )
            + cell(first.bits, f"{first.bits:.3f}", "first", f"± {1.96 * first.standard_error:.3f}")
            + cell(whole.bits, f"{whole.bits:.3f}", "whole", f"± {1.96 * whole.standard_error:.3f}")
            + f"<td>{one.seconds:,.1f}</td></tr>"
        )
    heads = ("Error", "Sharing a SID", "Bits, first code", "Bits, whole SID", "Seconds")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return section(
        "Summary",
        "The best of a column is bold.",
        _scroll(
            "Quantisers, table",
            '<table class="metrics"><caption>Error of the last level, relative to the vectors’ '
            "variance; items that share their SID with another; bits saved on the next item, with "
            "95% intervals; seconds from vectors to SIDs, compiling included.</caption>"
            f'<thead><tr><th scope="col">Quantiser</th>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>",
        ),
    )


def _plots(comparison: Comparison) -> str:
    named = list(comparison.quantisers.items())
    depth = max(len(one.codebook_sizes) for _, one in named)
    prefixes = ["1 code", *(f"{length} codes" for length in range(2, depth + 1))]
    levels = [f"level {level}" for level in range(depth)]
    legend = _legend(comparison)

    def by_place(values: list[list[float]]) -> dict[int, list[float]]:
        return dict(enumerate(values))

    bits = [[entry.bits for entry in one.information[:-1]] for _, one in named]
    information = sid_plots.level_lines(
        by_place(bits),
        prefixes,
        label="Bits saved on the next item by length of prefix. " + _spoken(named, bits),
        y_label="bits a transition",
        reference=(comparison.item_level.bits, "item pairs, no SIDs"),
    )
    figures = [figure(information, "Next-item information", legend)]
    errors = [list(one.relative_error) for _, one in named]
    reconstruction = sid_plots.level_lines(
        by_place(errors),
        prefixes,
        label="Reconstruction error by length of prefix. " + _spoken(named, errors),
        y_label="error, relative to the variance",
    )
    note = "Of given SIDs, that of codebooks fitted to them, level by level."
    figures.append(figure(reconstruction, "Reconstruction", legend + note))
    used = [[row["fraction_used"] for row in one.report["levels"]] for _, one in named]
    even = [
        [row["perplexity"] / row["codebook_size"] for row in one.report["levels"]]
        for _, one in named
    ]
    bars = sid_plots.level_bars(
        by_place(even),
        by_place(used),
        levels,
        label="Perplexity as a share of the codebook, by level. " + _spoken(named, even),
        y_label="share of the codebook",
    )
    note = (
        "Solid: perplexity, as many equally used codes would spread the items as widely. Pale: "
        "codes that any item has."
    )
    figures.append(figure(bars, "Codebook use", legend + note))
    shared = [
        [row["items_sharing_prefix"] / one.report["num_items"] for row in one.report["levels"]]
        for _, one in named
    ]
    collisions = sid_plots.level_lines(
        by_place(shared),
        prefixes,
        label="Items that share their prefix, by its length. " + _spoken(named, shared),
        y_label="share of the items",
    )
    figures.append(
        figure(
            collisions, "Items not told apart", legend + "Items whose prefix another item has too."
        )
    )
    return section(
        "Level by level", _INFORMATION_NOTE, f'<div class="columns">{"".join(figures)}</div>'
    )


def _levels(comparison: Comparison) -> str:
    rows = "".join(
        _level_rows(number, name, one)
        for number, (name, one) in enumerate(comparison.quantisers.items())
    )
    names = (
        *("Level", "Codes", "Used", "Perplexity", "Largest", "Prefixes", "Sharing", "Error"),
        *("Bits", "Added"),
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = (
        '<table class="metrics"><caption>Largest: share of the items with the most frequent code. '
        "Prefixes: how many different ones up to this level; Sharing: items whose prefix another "
        "item has too. Bits: saved by the prefix; Added: beyond the level before. The last line of "
        "each is what is known with the items below whole SIDs.</caption>"
        f'<thead><tr><th scope="col">Quantiser</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )
    return section("All figures", "", _scroll("Every level of every quantiser, table", table))


def _level_rows(number: int, name: str, one: QuantiserScores) -> str:
    rows, before = [], 0.0
    for row, error, information in zip(
        one.report["levels"], one.relative_error, one.information[:-1], strict=True
    ):
        cells = (
            str(row["level"]),
            f"{row['codebook_size']:,}",
            f"{row['used']:,}",
            f"{row['perplexity']:,.1f}",
            f"{row['largest_share']:.1%}",
            f"{row['distinct_prefixes']:,}",
            f"{row['items_sharing_prefix']:,}",
            f"{error:.4f}",
            f"{information.bits:.3f}",
            _signed(information.bits - before),
        )
        first = not rows
        title = f"{_swatch(number)}{breakable(name)}" if first else ""
        rows.append(
            f"<tr{' class=' + chr(34) + 'first' + chr(34) if first else ''}>"
            f'<th scope="row">{title}</th>'
            + "".join(f"<td>{text}</td>" for text in cells)
            + "</tr>"
        )
        before = information.bits
    with_items = one.information[-1].bits
    rows.append(
        '<tr><th scope="row"></th><td>items</td>'
        + "<td>–</td>" * 4
        + f"<td>{one.report['num_items']:,}</td><td>0</td><td>–</td><td>{with_items:.3f}</td>"
        + f"<td>{_signed(with_items - before)}</td></tr>"
    )
    return "".join(rows)


def _configuration(comparison: Comparison) -> str:
    settings = {name: dict(one.settings) for name, one in comparison.quantisers.items()}
    content = {"quantisers": settings, "config": comparison.config}
    text = shown_html(json.dumps(content, indent=2, ensure_ascii=False))
    return (
        "<section><details><summary>Configuration</summary>"
        f'<p class="muted">Seed {comparison.seed}.</p><pre>{text}</pre></details></section>'
    )


def _spoken(named: list[tuple[str, QuantiserScores]], values: list[list[float]]) -> str:
    return "; ".join(
        f"{name} {', '.join(f'{value:.3f}' for value in line)}"
        for (name, _), line in zip(named, values, strict=True)
    )


def _scroll(label: str, table: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _legend(comparison: Comparison) -> str:
    entries = "".join(
        f"<span>{_swatch(number)}{shown_html(name)}</span>"
        for number, name in enumerate(comparison.quantisers)
    )
    return f'<span class="legend">{entries}</span>'


def _swatch(number: int) -> str:
    return f'<i class="swatch {sid_plots.series_name(number)}" aria-hidden="true"></i>'


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
