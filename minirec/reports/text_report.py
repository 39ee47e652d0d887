"""The report of a language model on documents: `report.json`, `predictions.json`, `index.html`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minirec import files
from minirec.reports.curves import Curves
from minirec.reports.html_parts import Cell, Figure, Row, Table, cells, render

MODEL, KNESER_NEY, BOTH = "model", "kneser_ney", "model_and_kneser_ney"
_NAMES = {
    "perplexity": "perplexity a token",
    "bits_per_byte": "bits a byte",
    "word_perplexity": "perplexity a word",
    "compression": "compression",
}


@dataclasses.dataclass(frozen=True)
class TextReport:
    """Everything that an evaluation of a language model found.

    Attributes:
        name: name of the run.
        dataset: name of the data set.
        split: "valid" or "test".
        metrics: by what was measured ("model" first), its measures.
        counts: `documents`, `bytes`, `words` and `tokens` of the split, and `new_words`: those of
            `words` that the training text lacks.
        about: more entries for `report.json`; they may not replace its own.
        samples: prompts with what the model writes behind them.
        progress: what it wrote behind the first prompt as training went, by step.
        config: the run's configuration, as JSON knows it.
        seed: seed of the run.
        seconds: how long the evaluation took.
        curves: training curves, if the run has them.
        notes: what a person should know beside the figures.
    """

    name: str
    dataset: str
    split: str
    metrics: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, int]
    about: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]
    progress: Sequence[tuple[int, str]]
    config: Any
    seed: int
    seconds: float
    curves: Curves = dataclasses.field(default_factory=Curves)
    notes: Sequence[str] = ()

    @property
    def lines(self) -> list[str]:
        """`perplexity=…`, …, then `kneser_ney_word_perplexity=…` and so on, one a figure."""
        lines = [
            f"{'' if who == MODEL else f'{who}_'}{name}={value:.4f}"
            for who, measures in self.metrics.items()
            for name, value in measures.items()
        ]
        return [*lines, *(f"{name}={number}" for name, number in self.counts.items())]


def text_report_json(report: TextReport) -> dict[str, Any]:
    """Returns what `report.json` holds."""
    return {
        "split": report.split,
        **report.counts,
        "metrics": {who: dict(measures) for who, measures in report.metrics.items()},
        **report.about,
        "config": report.config,
        "seed": report.seed,
        "seconds": report.seconds,
    }


def write_text_report(folder: str | os.PathLike[str], report: TextReport) -> Path:
    """Writes the three files in place of the whole folder, and returns the page's path.

    `predictions.json` holds the samples.

    Raises:
        ValueError: the report holds NaN, an infinity or something else that JSON cannot hold.
    """
    folder = Path(folder)
    page = render_text_page(report)
    with files.atomic_folder(folder) as new:
        files.write_json(new / "report.json", text_report_json(report))
        files.write_json(new / "predictions.json", [dict(sample) for sample in report.samples])
        files.write_text(new / "index.html", page)
        files.write_checksums(new)
    return folder / "index.html"


def render_text_page(report: TextReport) -> str:
    """Returns the page. All that comes from data or configuration is escaped."""
    model, counts = report.metrics[MODEL], report.counts
    facts = [
        ("Bits a byte", f"{model['bits_per_byte']:.3f}", f"{counts['bytes']:,} bytes"),
        ("Perplexity a word", f"{model['word_perplexity']:,.1f}", f"{counts['words']:,} words"),
        ("Perplexity a token", f"{model['perplexity']:,.1f}", f"{counts['tokens']:,} tokens"),
        ("New words", f"{counts['new_words']:,}", "that training lacks"),
    ]
    return render(
        "text.html",
        report=report,
        facts=facts,
        metrics=_metric_table(report),
        training=_training(report),
        config=json.dumps(report.config, indent=2, ensure_ascii=False, sort_keys=True),
    )


def _metric_table(report: TextReport) -> Table:
    names = [name for name in _NAMES if name in report.metrics[MODEL]]
    rows = []
    for name in names:
        values = [measures.get(name) for measures in report.metrics.values()]
        known = [value for value in values if value is not None]
        best = max(known) if name == "compression" else min(known)
        rows.append(
            Row(
                Cell(_NAMES[name]),
                [
                    Cell("–") if value is None else Cell(f"{value:,.4f}", best=value == best)
                    for value in values
                ],
            )
        )
    return Table(
        "Measures",
        cells("Measure", *report.metrics),
        rows,
        caption="Bits a byte and perplexity a word do not depend on the tokenizer. kneser_ney: "
        "an interpolated n-gram model of the same training text.",
    )


def _training(report: TextReport) -> list[Figure]:
    from minirec.reports import plots  # matplotlib is slow to import

    figures = []
    steps, values = report.curves.loss
    if values:
        note = f"From {values[0]:.3f} to {values[-1]:.3f} nats a token at step {steps[-1]:,.0f}."
        svg = plots.line_plot(
            report.curves.loss, label=note, x_label="step", y_label="loss", smooth=True
        )
        figures.append(Figure("Training loss", svg, note))
    curve = report.curves.validation.get("compression")
    if curve is not None:
        best = max(curve[1])
        note = f"Best {best:.4f}: {8 / best:.4f} bits a byte, of documents held out of training."
        svg = plots.line_plot(curve, label=note, x_label="step", y_label="8 bits / bits a byte")
        figures.append(Figure("Validation compression", svg, note))
    return figures
