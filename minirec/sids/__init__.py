"""Semantic IDs: the table, its vocabulary, and how they are made from item vectors.

What is named here needs NumPy alone. Making SIDs is in modules of its own, since they import JAX
or scikit-learn: `minirec.sids.rq_kmeans`, `minirec.sids.item_vectors`.
"""

from minirec.sids.collisions import resolve_collisions
from minirec.sids.statistics import sid_report
from minirec.sids.table import SidTable, parse_sid, sid_string
from minirec.sids.vocab import SidVocab

__all__ = ["SidTable", "SidVocab", "sid_string", "parse_sid", "resolve_collisions", "sid_report"]
