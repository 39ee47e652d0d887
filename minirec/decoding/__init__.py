"""Decoding: constrained beam search from a model and a trie to ranked items."""

from minirec.decoding.item_ranking import ItemModel, ItemRanking, rank_items
from minirec.decoding.search import beam_search, finish, prefill, step
from minirec.decoding.searcher import BeamSearcher, Buckets, CompiledRanking, ItemRanker
from minirec.decoding.state import DecodeState, SearchModel, SearchResult

__all__ = [
    "beam_search",
    "BeamSearcher",
    "Buckets",
    "CompiledRanking",
    "ItemRanker",
    "rank_items",
    "ItemModel",
    "ItemRanking",
    "prefill",
    "step",
    "finish",
    "DecodeState",
    "SearchModel",
    "SearchResult",
]
