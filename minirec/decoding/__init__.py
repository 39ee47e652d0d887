"""Decoding: constrained beam search from a model and a trie to ranked items."""

from minirec.decoding.item_ranking import ItemModel, rank_items
from minirec.decoding.search import beam_search, finish, prefill, step
from minirec.decoding.searcher import BeamSearcher, Buckets
from minirec.decoding.state import DecodeState, SearchModel, SearchResult

__all__ = [
    "beam_search",
    "BeamSearcher",
    "Buckets",
    "rank_items",
    "ItemModel",
    "prefill",
    "step",
    "finish",
    "DecodeState",
    "SearchModel",
    "SearchResult",
]
