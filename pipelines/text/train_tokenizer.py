"""A small tokenizer made from the catalogue's own words, for models that start from nothing."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.text.tokenizer import TextTokenizer, require_tokenizers

END = "<|endoftext|>"
_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> TextTokenizer:
    """Returns a byte-level BPE tokenizer that was trained on some texts.

    Any text can be encoded with it, whatever it was trained on. `<|endoftext|>` is its end and its
    padding; it has no BOS. The same texts give the same tokenizer.

    Args:
        texts: such as the catalogue's titles and the prompts' words.
        vocab_size: number of tokens at most: the end, all bytes, and merges.

    Raises:
        ValueError: `vocab_size` has no room for the bytes, or `tokenizers` is not installed.
    """
    if vocab_size <= _BYTES:
        raise ValueError(
            f"vocab_size={vocab_size}: must be at least {_BYTES + 1}, the bytes and {END}"
        )
    library = require_tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Sorted: where two pairs are equally frequent, the order of the texts must not decide.
    tokenizer.train_from_iterator(sorted(texts), trainer)
    end = tokenizer.token_to_id(END)
    return TextTokenizer(tokenizer, eos_token_id=end, pad_token_id=end)
