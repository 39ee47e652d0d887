"""The items as a model of watch histories writes and reads them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from launch.wiring.catalogue import load_items, popularity_trie
from launch.wiring.language_catalogue import LanguageCatalogue
from launch.wiring.program import Job
from minirec import files
from minirec.models import sharding
from minirec.models.hf import read_config
from minirec.sids import SidTable
from pipelines.prepared import Prepared
from pipelines.text.answers import answer_tokens
from pipelines.text.prompt_batches import PromptBatches
from pipelines.text.tokenizer import TextTokenizer
from pipelines.text.watch_catalogue import WatchCatalogue, read_catalogue, read_sids
from pipelines.text.watch_config import WatchConfig
from pipelines.text.watch_histories import Histories
from pipelines.text.watch_prompts import prompt_of, watch_prompts


@dataclasses.dataclass(frozen=True)
class WatchLanguageCatalogue(LanguageCatalogue):
    """The items as a model of watch histories writes them: by the SID file's own spellings.

    Attributes:
        spellings: of each level, by code.
        added_here: special tokens and SID tokens, in the order of their ids.
        histories: writes histories.
        watch: settings of the rows.
    """

    spellings: tuple[Mapping[int, str], ...]
    added_here: tuple[str, ...]
    histories: Histories
    watch: WatchConfig

    @functools.cached_property
    def spelled(self) -> Mapping[str, tuple[int, int]]:
        """Level and code of each spelling of a code that occurs."""
        return {
            name: (level, code)
            for level, codes in enumerate(self.spellings)
            for code, name in codes.items()
        }

    @functools.cached_property
    def sid_token_ids(self) -> Int[np.ndarray, " n"]:
        """The tokens of the codes that occur, ascending."""
        return np.sort(self.tokenizer.ids(self.spelled))

    @functools.cached_property
    def trained_tokens(self) -> Int[np.ndarray, " n"]:
        """Special tokens and SID tokens, ascending."""
        return np.sort(self.tokenizer.ids(self.added_here))

    def sids_of(self, table: SidTable) -> list[tuple[str, ...]]:
        """Returns each SID of a table as its tokens' spellings.

        Raises:
            ValueError: a code that no item of the SID file has.
        """
        return _spelled(table, self.spellings)


def as_it_runs(job: Job) -> Job:
    """Returns the job as it runs here: a dry run computes in float32 where no accelerator is."""
    if not job.config.dry_run or jax.default_backend() != "cpu":
        return job
    config = job.config.copy_and_resolve_references()
    config.model.dtype = config.model.param_dtype = "float32"
    config.model.remat = False
    return dataclasses.replace(job, config=config)


def watch_config(job: Job) -> WatchConfig:
    """Returns the settings of a job's rows."""
    return WatchConfig.from_mapping(job.config.tasks.to_dict())


def new_tokens(config: ConfigDict, watch: WatchConfig, spellings: Sequence[str]) -> tuple[str, ...]:
    """Returns the tokens that a tokenizer needs: special ones, then those of SIDs.

    Args:
        config: may name a file of a vocabulary, whose tokens are taken all.
        watch: its wording has special tokens.
        spellings: of the codes that occur.

    Raises:
        ValueError: the file is none of a vocabulary, or lacks a token.
    """
    special = watch.said.special_tokens()
    if not config.vocabulary.path:
        return (*special, *spellings)
    path = Path(config.vocabulary.path).expanduser()
    names = files.read_json(path, {"tokens": [str]})["tokens"]
    there = set(names)
    for name in (*special, *spellings):
        if name not in there:
            raise ValueError(f"{path}: tokens lacks {name!r}, which the rows are written with")
    if len(there) < len(names):
        raise ValueError(f"{path}: tokens holds one twice; spellings must differ")
    return tuple(names)


def load_catalogue(
    job: Job, prepared: Prepared, sids_folder: Path, folder: Path, mesh: Mesh | None = None
) -> WatchLanguageCatalogue:
    """Returns the catalogue as the tokenizer of a checkpoint writes it; see `language`."""
    watch = watch_config(job)
    items = load_items(prepared, sids_folder)
    lines = read_sids(watch)
    catalogue, _ = read_catalogue(watch, lines)
    tokenizer = TextTokenizer.load(folder)
    rows = read_config(folder).vocab_size
    if tokenizer.size > rows:
        raise ValueError(
            f"{folder}: config.json has vocab_size={rows}, but token "
            f"{tokenizer.spelling(tokenizer.size - 1)!r} has the id {tokenizer.size - 1}: every "
            "token must have a row of its own; model and tokenizer do not belong together"
        )
    names = new_tokens(job.config, watch, lines.spellings())
    tokenizer = tokenizer.with_tokens(names)
    answers = answer_tokens(tokenizer, _spelled(items.table, lines.tokens), watch.said.masked)
    trie = popularity_trie(answers, items.train_count, tokenizer.size)
    return WatchLanguageCatalogue(
        prepared,
        items.table,
        answers,
        sharding.replicate(trie, mesh),
        items.titles,
        items.known,
        tokenizer,
        {},
        lines.tokens,
        names,
        Histories(_in_order(catalogue, prepared), watch),
        watch,
    )


def _spelled(table: SidTable, spellings: Sequence[Mapping[int, str]]) -> list[tuple[str, ...]]:
    try:
        return [
            tuple(level[code] for level, code in zip(spellings, row, strict=True))
            for row in table.codes.tolist()
        ]
    except KeyError as error:
        raise ValueError(f"code {error} has no spelling: no item of the SID file has it") from None


def _in_order(catalogue: WatchCatalogue, prepared: Prepared) -> WatchCatalogue:
    """Returns the catalogue, once it is found to be that of the records, in their order."""
    if [str(item) for item in catalogue.item_id.tolist()] != list(prepared.raw_item_ids):
        raise ValueError(
            f"{prepared.folder}: its items are not those of config.tasks.semantic_ids_path: run "
            "launch.prepare --overwrite"
        )
    return catalogue


def split_prompts(
    catalogue: WatchLanguageCatalogue, config: ConfigDict, split: str, max_users: int
) -> PromptBatches:
    """Returns the prompts of a split; `max_users` 0 takes all views."""
    return watch_prompts(
        catalogue.prepared,
        split,
        catalogue.histories,
        catalogue.tokenizer,
        mode=catalogue.watch.task_b_mask_modes[0],
        batch_size=config.evaluate.batch_size,
        max_items=catalogue.watch.task_b_max_history,
        max_users=max_users or None,
        seed=config.seed,
    )


class WatchPrompts:
    """Prompts of histories, each padded to one of a few widths; see `minirec.serving`.

    Attributes:
        widths: ascending, each twice the one before.
    """

    def __init__(self, catalogue: WatchLanguageCatalogue, most: int):
        """Finds out how long prompts get.

        Args:
            catalogue: the items.
            most: entries that a prompt shows.
        """
        self._catalogue, self._most = catalogue, most
        # All entries are as long, but for their marks.
        longest = len(self._prompt(np.zeros(most, np.int64)))
        self.widths = tuple(32 << n for n in range((max(longest - 1, 1) // 32).bit_length() + 1))

    def __call__(self, history: Int[np.ndarray, " H"]) -> Int[np.ndarray, " n"]:
        """Returns a prompt's tokens."""
        known = history[history < self._catalogue.known.num_items]
        return self._prompt(known)

    def _prompt(self, history: Int[np.ndarray, " H"]) -> Int[np.ndarray, " n"]:
        catalogue = self._catalogue
        mode = catalogue.watch.task_b_mask_modes[0]
        return prompt_of(history, catalogue.histories, catalogue.tokenizer, mode, self._most)
