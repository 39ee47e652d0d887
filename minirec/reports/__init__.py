"""What people see of a run: reports as JSON, pages, plots and tables in the terminal."""

from minirec.reports.curves import Curves, curves_of, read_curves
from minirec.reports.report import Catalogue, Example, Report, report_json
from minirec.reports.report_files import write_report
from minirec.reports.terminal import metric_lines, metric_table

__all__ = [
    "Catalogue",
    "Curves",
    "Example",
    "Report",
    "curves_of",
    "metric_lines",
    "metric_table",
    "read_curves",
    "report_json",
    "write_report",
]
