"""Evaluation: ranks, metrics with intervals, the two baselines, fusion, and the report.

Everything comes in as arrays: which users, histories and targets a split has is for the caller to
say. Nothing here imports JAX.
"""

from minirec.evaluation.baselines import ItemTransition, Popularity
from minirec.evaluation.curves import Curves, curves_of, read_curves
from minirec.evaluation.evaluate import Evaluation, evaluate_lists
from minirec.evaluation.fusion import choose_weights, fuse
from minirec.evaluation.fusion_weights import FusionWeights
from minirec.evaluation.intervals import bootstrap_intervals, difference_intervals
from minirec.evaluation.metrics import KS, hit_rate, metrics_at, ndcg
from minirec.evaluation.ranked_lists import (
    RankedLists,
    shared_probability,
    with_unknown,
)
from minirec.evaluation.ranks import count_invalid, item_ranks, item_sids, sid_ranks
from minirec.evaluation.report import (
    Catalogue,
    Example,
    Report,
    report_json,
    write_report,
)
from minirec.evaluation.strata import pair_strata
from minirec.evaluation.terminal import metric_lines, metric_table

__all__ = [
    "KS",
    "Catalogue",
    "Curves",
    "Evaluation",
    "Example",
    "FusionWeights",
    "ItemTransition",
    "Popularity",
    "RankedLists",
    "shared_probability",
    "pair_strata",
    "with_unknown",
    "Report",
    "bootstrap_intervals",
    "choose_weights",
    "count_invalid",
    "difference_intervals",
    "evaluate_lists",
    "fuse",
    "hit_rate",
    "item_ranks",
    "item_sids",
    "metric_lines",
    "metric_table",
    "metrics_at",
    "ndcg",
    "curves_of",
    "read_curves",
    "report_json",
    "sid_ranks",
    "write_report",
]
