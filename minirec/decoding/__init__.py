"""Decoding: constrained beam search from a model and a trie to ranked items."""

from minirec.decoding.item_ranking import ItemModel, ItemRanking, rank_items, rank_states
from minirec.decoding.search import beam_search, begin, finish, prefill, search_on, step
from minirec.decoding.searcher import BeamSearcher, Buckets, CompiledRanking, ItemRanker
from minirec.decoding.state import DecodeState, SearchModel, SearchResult

__all__ = [
    "beam_search",
    "BeamSearcher",
    "Buckets",
    "CompiledRanking",
    "ItemRanker",
    "rank_items",
    "rank_states",
    "ItemModel",
    "ItemRanking",
    "prefill",
    "begin",
    "search_on",
    "step",
    "finish",
    "DecodeState",
    "SearchModel",
    "SearchResult",
]
