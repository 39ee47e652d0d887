"""The blocks of a language model of one's own: corpus, tokenizer, model, retrieval, chat.

What every experiment has stands in `configs/blocks.py`, and so does how one is locked.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks

_STOP_WORDS = """
a an the this that these those some any all each both no not nor only own same such
i me my we us our you your he him his she her it its they them their one
am is are was were be been being do does did done doing have has had having
can could may might must shall should will would
what which who whom whose when where why how
of in on at by for with without from to into onto out up down over under about
as than then so if or and but because while until during before after between
again also just more most other others very too here there now ever
tell say explain describe know mean please give show let get
s t d ll m re ve don
"""
STOP_WORDS = tuple(_STOP_WORDS.split())
"""English words that say nothing of what a question is about."""


def text(name: str) -> ConfigDict:
    """Returns the experiment of a language model of one's own, locked.

    Args:
        name: of the experiment; its runs are called so.
    """
    return blocks.experiment(
        name,
        family="text",
        corpus=corpus(),
        tokenizer=tokenizer(),
        loader=loader(),
        model=model(),
        train=train(),
        sampling=sampling(),
        evaluate=evaluate(),
        retrieval=retrieval(),
        gate=gate(),
        chat=chat(),
    )


def corpus() -> ConfigDict:
    """Returns which documents become which passages; see `pipelines/text/corpus/config.py`."""
    return ConfigDict(
        {
            "folder": "",  # where the files lie
            # Paths or patterns from there on: JSON lines, Markdown or plain text; .gz and .zst too.
            "files": (),
            "eval_files": (),  # documents to evaluate on; (): `eval_ratio` of those above
            "on_bad_rows": "error",  # or "skip": lines that are no record are left out, and counted
            # "wiki": lines such as "= Title =" and "== Section ==" are headings of plain text, and
            # the first kind begins a document; "none": it has no headings.
            "headings": "none",
            "keep_headings": False,  # as text, too; they are in `section_path` anyhow
            "whitespace": "normalise",  # or "keep": passages are then the text, cut
            "min_chars": 200,
            "max_chars": 1600,
            "long": "cut",  # at sentence ends, or "drop"
            "max_chunks": 200_000,  # 0: all
            "eval_ratio": 0.02,  # of the documents
            "seed": 13,  # of the split and of the order
            "shuffle": True,  # the documents; a document's passages stay in its order
            "include_keyword": "",  # only passages that hold it; "": all
            "require_keyword": "",  # a training passage must hold it, or it is an error
            # Sections by name, with all below them; passages by a phrase, or by the share of upper
            # case among their letters.
            "drop_sections": (
                *("references", "external links", "see also", "further reading", "bibliography"),
                *("notes", "footnotes", "citations", "sources", "navigation", "navigation menu"),
                *("contents", "table of contents"),
            ),
            "drop_phrases": (
                *("jump to navigation", "jump to search", 'retrieved from "', "hidden categories:"),
                *("this page was last edited", "all rights reserved", "cookie policy"),
                *("privacy policy", "navigation menu", "this article is a stub"),
            ),
            "max_upper_share": 0.5,  # 1: never
            # Training passages that are almost an evaluation passage are left out: what share of
            # both shingles they must have. 0: off.
            "near_duplicate": 0.7,
        }
    )


def tokenizer() -> ConfigDict:
    """Returns how the tokenizer is made; see `pipelines/text/train_pieces.py`."""
    return ConfigDict(
        {
            "kind": "bpe",  # or "unigram"; or "given", with `path`
            "path": "",  # a SentencePiece .model, or a Hugging Face folder with tokenizer.json
            "vocab_size": 32_000,
            "character_coverage": 0.9995,
            "max_sentence_length": 4192,  # bytes; longer lines are cut at blanks
            "byte_fallback": True,
            "max_sentences": 2_000_000,  # drawn by lot from more; 0: all
            "symbols": (),  # spellings that are one token wherever they stand
            "seed": 13,  # of the draw
        }
    )


def loader() -> ConfigDict:
    """Returns how documents become batches; see `pipelines/text/document_batches.py`."""
    return ConfigDict(
        {
            "batch_size": 8,  # rows, over all devices
            "row_tokens": 512,  # of a row, and of what the model reads at most
            "pack": True,  # what is left of documents shares rows
            # How often a document is cut into rows, each time elsewhere. Few documents read many
            # times want several.
            "shifts": 1,
            "num_threads": 1,
            "prefetch": 2,
            "num_workers": 0,
        }
    )


def model() -> ConfigDict:
    """Returns a language model by one dial, or by hand; see `minirec/models/depth.py`."""
    return ConfigDict(
        {
            "depth": 4,  # layers; what is 0 below follows from it
            "width": 0,
            "num_heads": 0,
            "num_kv_heads": 0,
            "head_dim": 0,
            "mlp_width": 0,
            "tie_embeddings": True,  # the head has the embeddings' rows, or its own
            "qk_norm": True,
            "rope_theta": 10_000.0,
            "dropout": 0.0,
            "remat": False,  # recompute activations in the backward pass
            "dtype": "float32",  # of the products: bfloat16 on a GPU or TPU
            "param_dtype": "float32",
            "logits_at_once": 1024,  # positions of a batch whose logits are held at one time
        }
    )


def train() -> ConfigDict:
    """Returns for how long and how a language model is trained."""
    config = blocks.train()
    config.num_epochs = 0
    config.min_steps = 0
    config.max_steps = 0
    config.learning_rate = 0.0  # of AdamW; 0: as the model's width asks for
    # Of the matrices between the layers, which Muon trains; 0: AdamW does. In the same time on
    # `wiki` it came to 2.07 bits a byte of documents held out, AdamW to 2.19.
    config.muon_learning_rate = 6e-3
    config.b2 = 0.95
    return config


def sampling() -> ConfigDict:
    """Returns what the model writes as training goes and for the report, behind which prompts."""
    return ConfigDict(
        {
            "prompts": ("The ",),
            "every": 0,  # steps between two looks while it trains; 0: none
            "max_new_tokens": 40,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.1,
            "greedy": False,
            "stop": (),
            "seed": 0,
        }
    )


def evaluate() -> ConfigDict:
    """Returns how a language model is measured."""
    return ConfigDict(
        {
            "batch_size": 16,  # windows at a time
            # Share of the training documents that select the best checkpoint and are not trained
            # on. 0: none; then `train.eval_every` must be 0, too.
            "valid_ratio": 0.05,
            # Tokens that a window of the report has read before those that are measured there.
            "overlap": 256,
            "kneser_ney_order": 5,  # words of the n-grams that stand beside the model; 0: none
        }
    )


def retrieval() -> ConfigDict:
    """Returns how passages are found; see `minirec/recommend/passages`."""
    return ConfigDict(
        {
            "method": "bm25",  # or "fused": by reciprocal rank with the run's own embeddings
            # How often a passage's title and section count beside its text, which counts once.
            "title_weight": 2,
            "section_weight": 1,
            "k1": 1.5,
            "b": 0.75,
            "rank_constant": 60.0,  # of the fusion
            "candidates": 50,  # of each list that is fused
            "questions": 200,  # of titles and section heads, for recall@k and MRR
            "seed": 0,
        }
    )


def gate() -> ConfigDict:
    """Returns which questions are answered; see `minirec/recommend/passages/gate.py`."""
    return ConfigDict(
        {
            "min_keyword_matches": 2,
            "match_ratio": 0.4,
            "passages": 10,  # the best that are looked at
            "stop_words": STOP_WORDS,
            "refusal": "I don't know: nothing that I have read covers this.",
        }
    )


def chat() -> ConfigDict:
    """Returns how questions are answered; see `minirec/serving/chat`."""
    return ConfigDict(
        {
            "model": True,  # or False: passages are quoted, and no trained model is needed
            "context_documents": 2,  # passages that go before a question
            "history_turns": 2,  # questions and answers before it that go along
            "max_new_tokens": 160,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.1,
            "seed": 0,
            # What an answer's content words must have in common with a passage to stand: the share
            # that one passage holds. Below it the passage's best sentence is quoted instead.
            "support": 0.6,
        }
    )
