"""Items as a language model writes them, and the prompts that ask for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from launch.wiring import hub, scratch
from launch.wiring.catalogue import (
    Catalogue,
    load_items,
    popularity_trie,
)
from launch.wiring.program import Job
from minirec import files
from minirec.decoding.ranking import RankedUsers
from minirec.models import sharding
from minirec.models.hf import read_config
from minirec.sids import SidTable
from minirec.sids.table import parse_token
from minirec.training.processes import first_alone
from pipelines.prepared import Prepared
from pipelines.text.answers import answer_tokens, sid_names, sid_tuples
from pipelines.text.prompt_batches import PromptBatches, history_prompts, prompt_batches
from pipelines.text.prompts import Template, parse_templates
from pipelines.text.tokenizer import FILES, TextTokenizer

_NARROWEST = 32  # tokens of a prompt's width


@dataclasses.dataclass(frozen=True)
class LanguageCatalogue(Catalogue):
    """The items as a language model writes them: an answer is a SID, its wording and its end.

    Attributes:
        known: the SIDs of the records' items, which prompts can show.
        tokenizer: has all SID tokens.
        templates: the prompts' wording, by task.
    """

    known: SidTable
    tokenizer: TextTokenizer
    templates: Mapping[str, Template]

    @functools.cached_property
    def sid_token_ids(self) -> Int[np.ndarray, " n"]:
        """The tokens of the codes that occur, ascending."""
        return np.sort(self.tokenizer.ids(sid_names(self.table)))

    @property
    def trained_tokens(self) -> Int[np.ndarray, " n"]:
        """The tokens whose rows are trained where the rest of the model stays, ascending."""
        return self.sid_token_ids

    @property
    def item_texts(self) -> Sequence[str]:
        """What there is to read of each of the records' items."""
        return self.titles[: self.known.num_items]

    @functools.cached_property
    def spelled(self) -> Mapping[str, tuple[int, int]]:
        """Level and code of each spelling of a code that occurs."""
        return {name: _level_and_code(name) for name in sid_names(self.table)}

    def added_codes(self) -> Int[np.ndarray, "n 2"]:
        """Returns level and code of each added token; level -1 for what is no code of an item."""
        codes = [self.spelled.get(name, (-1, -1)) for name in self.tokenizer.added]
        return np.array(codes, np.int64).reshape(-1, 2)

    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the codes of the answers found, -1 where a beam is dead."""
        code_of = np.full(self.tokenizer.size, -1, np.int32)
        code_of[self.tokenizer.ids(self.spelled)] = [code for _, code in self.spelled.values()]
        # Where the codes stand in an answer, the wording around them being everyone's.
        is_code = np.isin(self.item_tokens[0], self.sid_token_ids)
        codes = code_of[ranked.sid[:, :, is_code]]
        codes[ranked.dead] = -1
        return codes


def base_folder(job: Job, prepared: Prepared) -> Path:
    """Returns the folder of the checkpoint that the config starts from.

    Raises:
        ValueError: none is named, or it is not there.
    """
    name = job.config.model.checkpoint
    if name == "scratch":
        return scratch.make_scratch(job, prepared)
    return given_folder(job)


def given_folder(job: Job) -> Path:
    """Returns the folder of the checkpoint that the config names; a hub's is fetched.

    Raises:
        ValueError: none is named, or it is not to be had.
    """
    name = job.config.model.checkpoint
    if not name:
        raise ValueError(
            "config.model.checkpoint is empty: name a local Hugging Face folder of a Qwen2, "
            "Qwen2.5 or Qwen3 model (config.json, *.safetensors, tokenizer.json), or 'scratch' "
            "for a tiny one made here"
        )
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        missing = (
            f"config.model.checkpoint={name!r}: {folder / 'config.json'} is missing; it must be a "
            "local Hugging Face folder, or the name of a repository of the hub"
        )
        if not hub.is_name(name):
            raise ValueError(missing)
        try:
            folder = hub.checkpoint(name)
        except ValueError as error:
            raise ValueError(f"{missing}, and as such a name: {error}") from error
    if (folder / files.CHECKSUMS).is_file():  # Written here.
        remedy = f"remove {files.CHECKSUMS} if the change is meant, or take another checkpoint"
        first_alone(lambda: files.check_folder(folder, remedy=remedy))
    return folder


def load_catalogue(
    job: Job,
    prepared: Prepared,
    sids_folder: Path,
    folder: Path,
    mesh: Mesh | None = None,
    appended_path: Path | None = None,
) -> LanguageCatalogue:
    """Returns the catalogue as the tokenizer of a checkpoint writes it.

    Args:
        job: its config gives the prompts.
        prepared: the records.
        sids_folder: holds sids.json and sids_report.json.
        folder: the checkpoint; SID tokens that its tokenizer lacks are added.
        mesh: each of its devices gets the trie.
        appended_path: file of items that were given SIDs later; None leaves them out.

    Raises:
        ValueError: a step before this one has not run, the SIDs do not fit the records, a
            template or a tokenizer is not valid, or a token is beyond the checkpoint's rows.
    """
    config = job.config
    items = load_items(prepared, sids_folder, appended_path)
    tokenizer = TextTokenizer.load(folder)
    rows = read_config(folder).vocab_size
    if tokenizer.size > rows:
        raise ValueError(
            f"{folder}: config.json has vocab_size={rows}, but token "
            f"{tokenizer.spelling(tokenizer.size - 1)!r} has the id {tokenizer.size - 1}: every "
            "token must have a row of its own; model and tokenizer do not belong together"
        )
    tokenizer = tokenizer.with_sid_tokens(sid_names(items.table))
    templates = parse_templates(config.prompts.to_dict())
    name = config.evaluate.prompt
    if name not in templates or templates[name].task.asks != "sid":
        raise ValueError(
            f"config.evaluate.prompt={name!r}: must be one of config.prompts that asks for a SID"
        )
    answers = answer_tokens(tokenizer, sid_tuples(items.table), templates[name].response)
    trie = popularity_trie(answers, items.train_count, tokenizer.size)
    trie = sharding.replicate(trie, mesh)
    return LanguageCatalogue(
        prepared,
        items.table,
        answers,
        trie,
        items.titles,
        items.known,
        tokenizer,
        templates,
        later=items.later,
    )


def _level_and_code(name: str) -> tuple[int, int]:
    parsed = parse_token(name)
    if parsed is None:
        raise ValueError(f"{name!r} is not a SID token")
    return parsed


def split_prompts(
    catalogue: LanguageCatalogue, config: ConfigDict, split: str, max_users: int
) -> PromptBatches:
    """Returns the prompts of a split; `max_users` 0 takes all users."""
    return prompt_batches(
        catalogue.prepared,
        split,
        **_prompt_options(catalogue, config),
        max_users=max_users or None,
        seed=config.seed,
    )


def _prompt_options(catalogue: LanguageCatalogue, config: ConfigDict) -> dict[str, Any]:
    row_tokens = config.loader.row_tokens
    return {
        "table": catalogue.known,
        "tokenizer": catalogue.tokenizer,
        "template": catalogue.templates[config.evaluate.prompt],
        "batch_size": config.evaluate.batch_size,
        "max_items": config.loader.max_items,
        # As long as fine-tuning has them: the last token of an answer is a target only.
        "max_tokens": row_tokens + 1 - catalogue.item_tokens.shape[1] if row_tokens else None,
    }


class TextPrompts:
    """Prompts of text, each padded to one of a few widths; see `minirec.serving`.

    Attributes:
        widths: ascending, each twice the one before.
    """

    def __init__(self, catalogue: LanguageCatalogue, config: ConfigDict):
        """Finds out how long prompts get.

        Args:
            catalogue: the items.
            config: the experiment; it names the prompt.
        """
        self._catalogue = catalogue
        self._options = _prompt_options(catalogue, config) | {"batch_size": 1}
        self._max_items = config.loader.max_items
        longest = self._options["max_tokens"]
        if longest is None:
            titles = [len(title) for title in catalogue.prepared.titles]
            long_ones = np.argsort(titles, kind="stable")[-self._max_items :]
            longest = len(self._prompt(long_ones))
        widths = [_NARROWEST]
        while widths[-1] < longest:
            widths.append(2 * widths[-1])
        self.widths = tuple(widths)

    def __call__(self, history: Int[np.ndarray, " H"]) -> Int[np.ndarray, " n"]:
        """Returns a prompt's tokens; the oldest items are left out where it would be too long."""
        # Nothing was trained to read what came after training.
        known = history[history < self._catalogue.known.num_items][-self._max_items :]
        while len(prompt := self._prompt(known)) > self.widths[-1]:
            known = known[1:]
        return prompt

    def _prompt(self, history: Int[np.ndarray, " H"]) -> Int[np.ndarray, " n"]:
        prepared = self._catalogue.prepared
        (batch,) = history_prompts(prepared, [history], **self._options)
        return batch["tokens"][0, : batch["lengths"][0]]


def fingerprint(folder: Path) -> dict[str, str]:
    """Returns the hashes of what a checkpoint's folder says of the model and its tokens."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return {
        name: files.sha256(folder / name)
        for name in sorted({*names, *FILES})
        if (folder / name).is_file()
    }
