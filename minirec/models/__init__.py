"""Models: one decoder trunk, and the SID decoder on top of it."""

from minirec.models.cache import PrefixCache, SuffixCache
from minirec.models.config import SidDecoderConfig, TrunkConfig
from minirec.models.masks import CausalMask, IsolatedCandidatesMask, MaskRule
from minirec.models.sid_decoder import SidDecoder
from minirec.models.trunk import Block, Trunk

__all__ = [
    "TrunkConfig",
    "Trunk",
    "Block",
    "SidDecoderConfig",
    "SidDecoder",
    "MaskRule",
    "CausalMask",
    "IsolatedCandidatesMask",
    "PrefixCache",
    "SuffixCache",
]
