"""Decoding: constrained beam search to ranked items, and answers drawn token by token."""

from minirec.decoding.draw import SamplingSettings
from minirec.decoding.item_ranking import ItemModel, ItemRanking, rank_items, rank_states
from minirec.decoding.sampling import Answer, Sampler
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
    "Answer",
    "Sampler",
    "SamplingSettings",
]
