"""A fusion that knows when to trust whom: a log-linear pool with weights by user and item."""

from minirec.recommend.gated.candidates import Candidates, Facts, candidates
from minirec.recommend.gated.gate import Gate, fit_gate

__all__ = ["Candidates", "Facts", "Gate", "candidates", "fit_gate"]
