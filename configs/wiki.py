"""A language model of WikiText-2: trained on its validation text, evaluated on its test text.

    export MINIREC_DATA=...   # the folder that holds wiki/
    python -m launch.prepare_text    --config=wiki --workdir=W
    python -m launch.train_tokenizer --config=wiki --workdir=W
    python -m launch.train           --config=wiki --workdir=W
    python -m launch.evaluate        --config=wiki --workdir=W

The published training file, where someone has it, goes in its place by
--config.corpus.files=wiki.train.tokens. `wiki:chunks` reads the same articles from a crawler's file
of chunks and splits them by document.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import parts, text_blocks

VARIANTS = ("", "chunks")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "chunks" for the crawler's file.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = text_blocks.text("wiki")
    # Rare words are published as "<unk>", which asks for nothing.
    config.gate.stop_words = (*text_blocks.STOP_WORDS, "unk")
    config.gate.match_ratio = 0.6  # Chosen by launch.verify_question --measure.
    config.corpus.folder = parts.data_folder("wiki")
    config.sampling.prompts = (" = Valkyria Chronicles = \n", " The game was")
    if variant == "chunks":
        config.name = "wiki_chunks"
        config.corpus.files = ("wiki_chunks.jsonl",)
        config.corpus.eval_ratio = 0.1
        config.tokenizer.symbols = (" <unk>", "<unk>")
        config.tokenizer.vocab_size = 8000
        return config
    # All of the text, letter by letter: perplexity is counted by the published words, and every one
    # of them is there.
    config.corpus.files = ("wikitext2_valid.txt",)
    config.corpus.eval_files = ("wikitext2_test.txt",)
    config.corpus.headings = "wiki"
    config.corpus.keep_headings = True
    config.corpus.whitespace = "keep"
    config.corpus.min_chars = 0
    config.corpus.max_upper_share = 1.0
    config.corpus.drop_sections = ()
    config.corpus.drop_phrases = ()
    config.corpus.near_duplicate = 0.0
    config.tokenizer.symbols = (" <unk>", "<unk>")
    config.tokenizer.kind = "unigram"
    config.tokenizer.vocab_size = 4000
    # A megabyte is read some fifteen times: cut elsewhere each time, and with much dropout.
    config.loader.batch_size = 4
    config.loader.shifts = 4
    config.model.depth = 3
    config.model.dropout = 0.2
    config.train.num_steps = 2400
    config.train.warmup_steps = 50
    config.train.end_fraction = 0.02
    config.train.b2 = 0.98
    # All of it is trained on, to the last step; nothing is left to select a checkpoint by.
    config.evaluate.valid_ratio = 0.0
    config.train.eval_every = 0
    config.train.patience = 0
    config.sampling.every = 400
    return config
