"""Evaluation: ranks, metrics with intervals, strata.

Everything comes in as arrays: which users, histories and targets a split has is for the caller to
say. Nothing here imports JAX.
"""

from minirec.evaluation.evaluate import Evaluation, evaluate_lists
from minirec.evaluation.intervals import bootstrap_intervals, difference_intervals
from minirec.evaluation.metrics import KS, hit_rate, metrics_at, ndcg
from minirec.evaluation.ranks import count_invalid, item_ranks, item_sids, sid_ranks
from minirec.evaluation.strata import pair_strata, repeat_strata, user_strata
from minirec.evaluation.system_choice import choose_system
from minirec.evaluation.weight_choice import choose_weight, choose_weights

__all__ = [
    "KS",
    "Evaluation",
    "bootstrap_intervals",
    "choose_system",
    "choose_weight",
    "choose_weights",
    "count_invalid",
    "difference_intervals",
    "evaluate_lists",
    "hit_rate",
    "item_ranks",
    "item_sids",
    "metrics_at",
    "ndcg",
    "pair_strata",
    "repeat_strata",
    "user_strata",
    "sid_ranks",
]
