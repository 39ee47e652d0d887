"""Parts put together from a config; shared by the launchers, no algorithm here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from flax import nnx
from jaxtyping import Int
from ml_collections import ConfigDict

from kernels.trie import Trie, build_trie
from minirec.decoding import BeamSearcher
from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.sids import SidTable, SidVocab
from pipelines.batches import BatchConfig, EvalBatches, eval_batches
from pipelines.prepared import Prepared


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The items as the model and the search see them.

    Attributes:
        prepared: the records.
        table: the items' SIDs.
        vocab: the model's tokens.
        item_tokens: the items' SIDs as tokens, `[N, L]`.
        trie: the valid token sequences; items that share one stand by popularity in training.
    """

    prepared: Prepared
    table: SidTable
    vocab: SidVocab
    item_tokens: Int[np.ndarray, "N L"]
    trie: Trie


def load_catalogue(prepared_folder: Path, sids_folder: Path) -> Catalogue:
    """Returns the catalogue of prepared records and of the SIDs in a folder.

    Args:
        prepared_folder: W/prepared.
        sids_folder: holds sids.json and, where a model was trained with one, vocab.json.

    Raises:
        FileNotFoundError: a step before this one has not run.
        ValueError: the SIDs do not fit the catalogue.
    """
    prepared = Prepared.load(prepared_folder)
    sids_path = sids_folder / "sids.json"
    if not sids_path.is_file():
        raise FileNotFoundError(f"{sids_path} is missing: run launch.make_sids (or train) first")
    table = SidTable.load(sids_path, prepared.items["raw_item_id"].to_list())
    vocab_path = sids_folder / "vocab.json"
    vocab = SidVocab.load(vocab_path) if vocab_path.is_file() else SidVocab.from_table(table)
    item_tokens = vocab.encode(table.codes)
    by_popularity = np.lexsort((np.arange(table.num_items), -prepared.train_count))
    trie = build_trie(
        item_tokens[by_popularity],
        by_popularity.astype(np.int32),
        codebook_sizes=[vocab.size] * table.num_levels,
    )
    return Catalogue(prepared, table, vocab, item_tokens, trie)


def make_model(config: ConfigDict, vocab_size: int) -> SidDecoder:
    """Returns the decoder that `config.model` describes, with weights drawn from the seed.

    Raises:
        ValueError: a field of `config.model` is unknown or impossible.
    """
    fields = config.model.to_dict()
    tie_embeddings = fields.pop("tie_embeddings")
    decoder_config = SidDecoderConfig(
        trunk=TrunkConfig(**fields), vocab_size=vocab_size, tie_embeddings=tie_embeddings
    )
    return SidDecoder(decoder_config, rngs=nnx.Rngs(config.seed))


def abstract_model(config: ConfigDict, vocab_size: int) -> SidDecoder:
    """Returns the decoder's structure without weights, to restore a checkpoint into."""
    return nnx.eval_shape(lambda: make_model(config, vocab_size))


def make_searcher(config: ConfigDict) -> BeamSearcher:
    """Returns the constrained search that `config.search` describes."""
    return BeamSearcher(num_beams=config.search.num_beams, normalize=config.search.normalize)


def batch_config(config: ConfigDict) -> BatchConfig:
    """Returns the loader's settings from `config.loader`."""
    fields = config.loader.to_dict()
    fields["row_tokens"] = fields["row_tokens"] or None
    return BatchConfig(**fields)


def split_batches(
    catalogue: Catalogue, config: ConfigDict, split: str, max_users: int
) -> EvalBatches:
    """Returns the prompts of a split; `max_users` 0 takes all users."""
    return eval_batches(
        catalogue.prepared,
        split,
        catalogue.item_tokens,
        batch_size=config.evaluate.batch_size,
        max_items=config.loader.max_items,
        max_users=max_users or None,
        seed=config.seed,
    )
