"""What an evaluation leaves: `report.json`, `predictions.json` and `index.html`."""

from __future__ import annotations

import os
from pathlib import Path

from minirec import files
from minirec.evaluation.predictions import write_predictions
from minirec.reports.report import Report, report_json


def write_report(folder: str | os.PathLike[str], report: Report) -> Path:
    """Writes `report.json`, `predictions.json` and `index.html`; returns the page's path.

    They take the place of the whole folder at once, with the digest of each in `checksums.json`:
    whoever reads there finds files of one report. `index.html` is one file that needs no network,
    and the same report gives the same bytes.

    Raises:
        ValueError: the report holds NaN, an infinity or something else that JSON cannot hold.
    """
    from minirec.reports.page import render_page  # matplotlib is slow to import

    folder = Path(folder)
    page = render_page(report)
    target_sid = report.catalogue.codes[report.target]
    with files.atomic_folder(folder) as new:
        files.write_json(new / "report.json", report_json(report))
        write_predictions(new / "predictions.json", report.ranked_sids, target_sid)
        files.write_text(new / "index.html", page)
        files.write_checksums(new)
    return folder / "index.html"
