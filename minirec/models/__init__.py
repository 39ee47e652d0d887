"""Models: one decoder trunk, and what stands on it: the SID decoder and the item decoder."""

from minirec.models.cache import PrefixCache, SuffixCache
from minirec.models.config import ItemDecoderConfig, SidDecoderConfig, TrunkConfig
from minirec.models.item_decoder import ItemDecoder
from minirec.models.item_terms import ItemTerms, WholeRows
from minirec.models.masks import CausalMask, IsolatedCandidatesMask, MaskRule
from minirec.models.sid_decoder import SidDecoder
from minirec.models.sid_reader import ItemReader, SidReader
from minirec.models.trunk import Block, Trunk

__all__ = [
    "TrunkConfig",
    "Trunk",
    "Block",
    "SidDecoderConfig",
    "SidDecoder",
    "ItemDecoderConfig",
    "ItemDecoder",
    "ItemTerms",
    "WholeRows",
    "SidReader",
    "ItemReader",
    "MaskRule",
    "CausalMask",
    "IsolatedCandidatesMask",
    "PrefixCache",
    "SuffixCache",
]
