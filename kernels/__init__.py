"""The trie of a catalogue and the fused beam step that walks it; needs jax, numpy and jaxtyping."""
