"""The trie of a catalogue's SIDs: arrays on the device that say which tokens may follow."""

from kernels.trie.tree import DEAD_NODE, Children, Live, Trie, TrieCapacities, build_trie

__all__ = ["DEAD_NODE", "Children", "Live", "Trie", "TrieCapacities", "build_trie"]
