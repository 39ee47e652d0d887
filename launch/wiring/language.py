"""Parts of a language model's fine-tuning put together from a config; no algorithm here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float32, Int
from ml_collections import ConfigDict

from kernels.trie import Trie
from launch.wiring import parts, scratch
from launch.wiring.program import Job
from minirec import files
from minirec.decoding.ranking import RankedUsers
from minirec.models import SidDecoder, sharding
from minirec.models.hf import load_checkpoint, read_config
from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.vocabulary import grow, new_rows, split_rows
from minirec.sids import SidTable
from minirec.sids.latent_codebooks import load_codebooks
from minirec.sids.table import parse_token
from minirec.training.processes import first_alone
from pipelines.prepared import Prepared
from pipelines.text.answers import answer_tokens, sid_names, sid_tuples
from pipelines.text.prompt_batches import PromptBatches, prompt_batches
from pipelines.text.prompts import Template, parse_templates
from pipelines.text.sft_batches import SftConfig
from pipelines.text.tokenizer import FILES, TextTokenizer

TRAINABLE = ("all", "sid_rows", "lora")
MODEL = "model"
"""The folder of the fine-tuned model in the run's."""


@dataclasses.dataclass(frozen=True)
class LanguageCatalogue:
    """The items as a language model and its search see them.

    Attributes:
        prepared: the records.
        table: the items' SIDs.
        tokenizer: has all SID tokens.
        item_tokens: what the model answers for each item, `[N, length]`: SID, wording, end.
        trie: the valid answers; items that share a SID stand by popularity in training.
        templates: the prompts' wording, by task.
    """

    prepared: Prepared
    table: SidTable
    tokenizer: TextTokenizer
    item_tokens: Int[np.ndarray, "N length"]
    trie: Trie
    templates: Mapping[str, Template]

    @functools.cached_property
    def sid_token_ids(self) -> Int[np.ndarray, " n"]:
        """The tokens of the codes that occur, ascending."""
        return np.sort(self.tokenizer.ids(sid_names(self.table)))

    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the codes of the answers found, -1 where a beam is dead."""
        names = sid_names(self.table)
        code_of = np.full(self.tokenizer.size, -1, np.int32)
        code_of[self.tokenizer.ids(names)] = [_level_and_code(name)[1] for name in names]
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
    if not name:
        raise ValueError(
            "config.model.checkpoint is empty: name a local Hugging Face folder of a Qwen2, "
            "Qwen2.5 or Qwen3 model (config.json, *.safetensors, tokenizer.json), or 'scratch' "
            "for a tiny one made here"
        )
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"config.model.checkpoint={name!r}: {folder / 'config.json'} is missing; it must be a "
            "local Hugging Face folder"
        )
    if (folder / files.CHECKSUMS).is_file():  # Written here.
        remedy = f"remove {files.CHECKSUMS} if the change is meant, or take another checkpoint"
        first_alone(lambda: files.check_folder(folder, remedy=remedy))
    return folder


def load_catalogue(
    job: Job, prepared: Prepared, sids_folder: Path, folder: Path, mesh: Mesh | None = None
) -> LanguageCatalogue:
    """Returns the catalogue as the tokenizer of a checkpoint writes it.

    Args:
        job: its config gives the prompts.
        prepared: the records.
        sids_folder: holds sids.json and sids_report.json.
        folder: the checkpoint; SID tokens that its tokenizer lacks are added.
        mesh: each of its devices gets the trie.

    Raises:
        ValueError: a step before this one has not run, the SIDs do not fit the records, a
            template or a tokenizer that is none, or a token beyond the checkpoint's rows.
    """
    config = job.config
    table = parts.load_table(prepared, sids_folder)
    tokenizer = TextTokenizer.load(folder)
    rows = read_config(folder).vocab_size
    if tokenizer.size > rows:
        raise ValueError(
            f"{folder}: config.json has vocab_size={rows}, but token "
            f"{tokenizer.spelling(tokenizer.size - 1)!r} has the id {tokenizer.size - 1}: every "
            "token must have a row of its own; model and tokenizer do not belong together"
        )
    tokenizer = tokenizer.with_sid_tokens(sid_names(table))
    templates = parse_templates(config.prompts.to_dict())
    name = config.evaluate.prompt
    if name not in templates or templates[name].task.asks != "sid":
        raise ValueError(
            f"config.evaluate.prompt={name!r}: must be one of config.prompts that asks for a SID"
        )
    answers = answer_tokens(tokenizer, sid_tuples(table), templates[name].response)
    trie = parts.popularity_trie(answers, prepared.train_count, tokenizer.size)
    trie = sharding.replicate(trie, mesh)
    return LanguageCatalogue(prepared, table, tokenizer, answers, trie, templates)


def load_model(config: ConfigDict, folder: Path, mesh: Mesh | None = None) -> SidDecoder:
    """Returns the model in a Hugging Face folder, to compute as the config says."""
    options = config.model
    return load_checkpoint(
        folder,
        dtype=options.dtype,
        param_dtype=options.param_dtype,
        mesh=mesh,
        remat=options.remat,
        scan_unroll=options.scan_unroll,
        dropout=options.dropout,
    )


def make_model(
    job: Job,
    folder: Path,
    catalogue: LanguageCatalogue,
    mesh: Mesh | None = None,
    start: str | None = None,
) -> SidDecoder:
    """Returns the model before fine-tuning: grown by new tokens, with what is trained beside it.

    Args:
        job: the config says what the new rows start from and what is trained.
        folder: the checkpoint.
        catalogue: its tokenizer's new tokens get rows.
        mesh: where the model goes.
        start: what new rows start from, in place of the config's.

    Raises:
        ValueError: the checkpoint does not fit, or the config asks for what cannot be.
    """
    config, tokenizer = job.config, catalogue.tokenizer
    model = load_model(config, folder, mesh)
    if tokenizer.added or tokenizer.size != model.config.vocab_size:
        rows = _new_rows(job, model, tokenizer, start or config.sft.new_rows)
        model = grow(model, tokenizer.size, rows["embedding"], rows.get("head"))
    if config.sft.trainable == "lora":
        fields = config.sft.lora.to_dict()
        fields.pop("train_sid_rows")
        add_adapters(model, LoraConfig(**fields), seed=config.seed)
    if rows_apart(config):
        first = int(catalogue.sid_token_ids[0])
        if len(catalogue.sid_token_ids) != tokenizer.size - first:
            raise ValueError(
                f"{folder}: tokens {first} to {tokenizer.size - 1} are not just the SID tokens of "
                "this catalogue, so that their rows cannot be trained alone; set "
                "config.sft.trainable='all', or 'lora' with config.sft.lora.train_sid_rows=False"
            )
        split_rows(model, first)
    sharding.place(model, mesh)
    return model


def rows_apart(config: ConfigDict) -> bool:
    """Returns whether the SID tokens' rows are trained beside a frozen model."""
    sft = config.sft
    return sft.trainable == "sid_rows" or (sft.trainable == "lora" and sft.lora.train_sid_rows)


def trainable(config: ConfigDict) -> type[nnx.Param]:
    """Returns the filter of what is trained.

    Raises:
        ValueError: an unknown choice, or one that would store what is trained in bfloat16.
    """
    choice = config.sft.trainable
    if choice not in TRAINABLE:
        raise ValueError(f"config.sft.trainable={choice!r}: must be one of {', '.join(TRAINABLE)}")
    if choice == "all" and config.model.param_dtype != "float32":
        raise ValueError(
            f"config.model.param_dtype={config.model.param_dtype!r}: with "
            "config.sft.trainable='all' it must be 'float32', or small updates would be lost; "
            "config.model.dtype='bfloat16' computes in bfloat16"
        )
    return nnx.Param if choice == "all" else AddedParam


def _new_rows(
    job: Job, model: SidDecoder, tokenizer: TextTokenizer, start: str
) -> dict[str, Float32[np.ndarray, "n D"]]:
    """Returns the added tokens' first rows, of the embedding and of an untied head."""
    codes = np.array([_level_and_code(name) for name in tokenizer.added], np.int64).reshape(-1, 2)
    codebooks = _codebooks(job) if start == "codebooks" else None
    first = tokenizer.size - len(tokenizer.added)
    rows = {}
    for number, name in enumerate(("embedding", "head")):
        own = getattr(model, name)
        if own is not None:
            rows[name] = new_rows(
                start,
                own[...][:first],
                codes,
                seed=job.config.seed + number,
                codebooks=codebooks,
            )
    return rows


def _codebooks(job: Job) -> tuple[Any, ...]:
    path = job.sids / parts.CODEBOOKS
    if not path.is_file():
        raise ValueError(
            f"config.sft.new_rows='codebooks' needs {path}, which launch.make_sids writes where it "
            "makes the SIDs itself; use 'mean' or 'random' for SIDs that were given"
        )
    parts.checked_sids(job.sids, parts.CODEBOOKS)
    codebooks, about, _ = load_codebooks(path)
    if about.get("sids_sha256") != files.sha256(job.sids / parts.SIDS):
        raise ValueError(
            f"{path}: sids_sha256 is {about.get('sids_sha256')!r}: it belongs to other SIDs than "
            f"{job.sids / parts.SIDS}"
        )
    return codebooks.codebooks


def starts(job: Job) -> tuple[str, ...]:
    """Returns what new rows can start from here: codebooks only where the SIDs were made."""
    has_codebooks = (job.sids / parts.CODEBOOKS).is_file()
    return ("mean", "random", "codebooks") if has_codebooks else ("mean", "random")


def _level_and_code(name: str) -> tuple[int, int]:
    parsed = parse_token(name)
    if parsed is None:
        raise ValueError(f"{name!r} is no SID token")
    return parsed


def sft_config(config: ConfigDict) -> SftConfig:
    """Returns the loader's settings from `config.loader`."""
    fields = config.loader.to_dict()
    fields["row_tokens"] = fields["row_tokens"] or None
    return SftConfig(**fields)


def split_prompts(
    catalogue: LanguageCatalogue, config: ConfigDict, split: str, max_users: int
) -> PromptBatches:
    """Returns the prompts of a split; `max_users` 0 takes all users."""
    row_tokens = config.loader.row_tokens
    return prompt_batches(
        catalogue.prepared,
        split,
        catalogue.table,
        catalogue.tokenizer,
        catalogue.templates[config.evaluate.prompt],
        batch_size=config.evaluate.batch_size,
        max_items=config.loader.max_items,
        # As long as fine-tuning has them: the last token of an answer is a target only.
        max_tokens=row_tokens + 1 - catalogue.item_tokens.shape[1] if row_tokens else None,
        max_users=max_users or None,
        seed=config.seed,
    )


def fingerprint(folder: Path) -> dict[str, str]:
    """Returns the hashes of what a checkpoint's folder says of the model and its tokens."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return {
        name: files.sha256(folder / name)
        for name in sorted({*names, *FILES})
        if (folder / name).is_file()
    }
