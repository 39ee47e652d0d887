"""The family `language`: Hugging Face checkpoints, fine-tuned on SID tasks.

A run keeps its best model, adapters merged, as a Hugging Face folder W/runs/NAME/model. Where no
run has begun, the checkpoint that the config names recommends as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.sparse
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float32, Int
from ml_collections import ConfigDict

from launch.wiring import hub, made_with, scratch, training
from launch.wiring.catalogue import (
    APPENDED,
    CODEBOOKS,
    SIDS,
    Catalogue,
    check_trained_on,
    checked_sids,
    fingerprints,
    keep_sids,
    load_items,
    load_prepared,
    popularity_trie,
    require_sids,
)
from launch.wiring.experiment import Experiment, Run, Training
from launch.wiring.program import Job
from launch.wiring.search import make_mesh
from minirec import files
from minirec.decoding.ranking import RankedUsers
from minirec.files.schema import NUMBER, SHA256
from minirec.models import SidDecoder, sharding
from minirec.models.hf import load_checkpoint, read_config, save_checkpoint
from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.vocabulary import NEW_ROWS, fetched, grow, merged, new_rows, split_rows
from minirec.models.warm_start import ridge_rows
from minirec.serving.recommender import Prompts
from minirec.sids import SidTable
from minirec.sids.latent_codebooks import load_codebooks
from minirec.sids.table import parse_token
from minirec.training import Stage, TokenTask, as_record, run_folder
from minirec.training.first_steps import first_losses
from minirec.training.processes import first_alone, first_says, is_first
from pipelines.prepared import Prepared
from pipelines.text.answers import answer_tokens, sid_names, sid_tuples
from pipelines.text.prompt_batches import PromptBatches, history_prompts, prompt_batches
from pipelines.text.prompts import Template, parse_templates
from pipelines.text.sft_batches import SftConfig, sft_batches
from pipelines.text.tokenizer import FILES, TextTokenizer

TRAINABLE = ("all", "sid_rows", "lora")
RIDGE = "ridge"
MODEL = "model"
"""The folder of the fine-tuned model in the run's."""

NEW_ROWS_FILE = "new_rows.json"
_NEW_ROWS = {"record": SHA256, "losses": {str: [NUMBER]}}
_NARROWEST = 32  # tokens of a prompt's width
_MODEL_REMEDY = "remove the folder and run launch.train again: it is written anew"


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
        rows = _new_rows(job, model, catalogue, start or config.sft.new_rows)
        model = grow(model, tokenizer.size, rows["embedding"], rows.get("head"))
    if config.sft.trainable == "lora":
        fields = config.sft.lora.to_dict()
        fields.pop("train_sid_rows")
        add_adapters(model, LoraConfig(**fields), seed=config.seed)
    if rows_apart(config):
        first = int(catalogue.trained_tokens[0])
        if len(catalogue.trained_tokens) != tokenizer.size - first:
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
    job: Job, model: SidDecoder, catalogue: LanguageCatalogue, start: str
) -> dict[str, Float32[np.ndarray, "n D"]]:
    """Returns the added tokens' first rows, of the embedding and of an untied head."""
    tokenizer, sft, codes = catalogue.tokenizer, job.config.sft, catalogue.added_codes()
    codebooks = _codebooks(job) if start == "codebooks" else None
    first = tokenizer.size - len(tokenizer.added)
    rows = {}
    for number, name in enumerate(("embedding", "head")):
        own = getattr(model, name)
        if own is None:
            continue
        old, seed = own[...][:first], job.config.seed + number
        if start == RIDGE:
            rows[name] = ridge_rows(
                fetched(old),
                codes,
                catalogue.known.codes,
                _text_means(catalogue, fetched(old)),
                seed=seed,
                ridge_lambda=sft.ridge_lambda,
                max_fit_samples=sft.max_fit_samples,
            )
        elif start in NEW_ROWS:
            rows[name] = new_rows(start, old, codes, seed=seed, codebooks=codebooks)
        else:
            raise ValueError(
                f"config.sft.new_rows={start!r}: must be one of {', '.join((*NEW_ROWS, RIDGE))}"
            )
    return rows


def _text_means(
    catalogue: LanguageCatalogue, old: Float32[np.ndarray, "V D"]
) -> Float32[np.ndarray, "N D"]:
    """Returns the mean of the rows of each item's words; of no words, that of all rows."""
    ids, offsets = catalogue.tokenizer.encode_flat(list(catalogue.item_texts))
    item = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    is_old = ids < len(old)  # What looks like a new token has no row yet.
    item, ids = item[is_old], ids[is_old]
    count = np.bincount(item, minlength=len(offsets) - 1)
    shape = (len(count), len(old))
    share = scipy.sparse.csr_array((1.0 / count[item], (item, ids)), shape=shape)
    means = np.asarray(share @ old, np.float32)
    means[count == 0] = old.mean(axis=0)
    return means


def _codebooks(job: Job) -> tuple[Any, ...]:
    if given := job.config.sft.codebooks_path:
        return load_codebooks(Path(given))[0].codebooks
    path = job.sids / CODEBOOKS
    if not path.is_file():
        raise ValueError(
            f"config.sft.new_rows='codebooks' needs {path}, which launch.make_sids writes where it "
            "makes the SIDs itself; SIDs that were given came without: name the quantiser's file "
            "in config.sft.codebooks_path, or use 'ridge', 'mean' or 'random'"
        )
    checked_sids(job.sids, CODEBOOKS)
    codebooks, about, _ = load_codebooks(path)
    if about.get("sids_sha256") != files.sha256(job.sids / SIDS):
        raise ValueError(
            f"{path}: sids_sha256 is {about.get('sids_sha256')!r}: it belongs to other SIDs than "
            f"{job.sids / SIDS}"
        )
    return codebooks.codebooks


def starts(job: Job) -> tuple[str, ...]:
    """Returns what new rows can start from here: codebooks only where the SIDs were made."""
    has_codebooks = bool(job.config.sft.codebooks_path) or (job.sids / CODEBOOKS).is_file()
    return ("mean", "random", *(("codebooks",) if has_codebooks else ()), RIDGE)


def _level_and_code(name: str) -> tuple[int, int]:
    parsed = parse_token(name)
    if parsed is None:
        raise ValueError(f"{name!r} is not a SID token")
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


def fine_tune(job: Job) -> Training:
    """Returns what fine-tunes the checkpoint that the job's config names.

    Raises:
        ValueError: a step before this one has not run, or the config asks for what cannot be.
    """
    config = job.config
    filtered = trainable(config)
    mesh = training.checked_mesh(config)
    prepared = load_prepared(job)
    require_sids(job, job.sids)
    folder = base_folder(job, prepared)
    catalogue = load_catalogue(job, prepared, job.sids, folder, mesh)
    if is_first():
        known = len(catalogue.sid_token_ids) - len(catalogue.tokenizer.added)
        print(f"sid_tokens={len(catalogue.sid_token_ids)} in_the_checkpoint={known}")
    batches = sft_batches(
        prepared,
        catalogue.table,
        catalogue.tokenizer,
        catalogue.templates,
        sft_config(config),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    settings, stage_options, label_smoothing = training.train_settings(job, batches.num_rows)
    stage = Stage("sft", lambda: batches, trainable=filtered, **stage_options)
    task = TokenTask(
        validator(config, catalogue, functools.partial(split_prompts, catalogue, config), mesh),
        select_metric=training.SELECT_METRIC,
        label_smoothing=label_smoothing,
        logits_at_once=config.sft.logits_at_once or None,
    )
    record = run_record(job, catalogue, folder)
    of_run = record | as_record(settings, [stage])
    new_model = functools.partial(make_model, job, folder, catalogue, mesh)
    compared = compare_new_rows(job, catalogue, new_model, task, stage, mesh, of_run)

    def keep() -> None:
        keep_sids(job)
        if not run_folder.has_begun(job.run):
            # What another run here has left, or the evaluation of a checkpoint as it was.
            shutil.rmtree(job.run / MODEL, ignore_errors=True)
        files.write_sealed(job.run / NEW_ROWS_FILE, compared)

    def finish(load_best_model: Callable[[], Any]) -> None:
        if not first_says((job.run / MODEL).is_dir()):
            save_model(job, load_best_model(), catalogue.tokenizer, folder, mesh)

    return Training(
        make_model=new_model,
        task=task,
        stages=[stage],
        settings=settings,
        record=record,
        describe_batch=batches.describe,
        mesh=mesh,
        keep=keep,
        finish=finish,
    )


def validator(
    config: ConfigDict,
    catalogue: LanguageCatalogue,
    prompts: Callable[[str, int], Any],
    mesh: Mesh | None,
) -> Callable[[Any], dict[str, float]]:
    """Returns `training.make_validator`'s function for models with adapters, which it merges."""
    validate_plain = training.make_validator(config, catalogue, prompts, mesh)

    def validate(model: SidDecoder) -> dict[str, float]:
        plain = merged(model)
        sharding.place(plain, mesh)
        return validate_plain(plain)

    return validate


def compare_new_rows(
    job: Job,
    catalogue: LanguageCatalogue,
    make_model: Any,
    task: TokenTask,
    stage: Stage,
    mesh: Mesh | None,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Returns the losses of the first steps from each start of the new tokens' rows.

    A run that goes on has them already; `record` tells it from others.
    """
    num_steps = min(job.config.sft.compare_new_rows, stage.num_steps)
    of_run = files.seal({"record": record})[files.SEAL]
    if (job.run / NEW_ROWS_FILE).is_file():
        before = read_new_rows(job)
        if before["record"] == of_run:
            return before
    losses: dict[str, list[float]] = {}
    if num_steps and catalogue.tokenizer.added:
        models = {start: functools.partial(make_model, start) for start in starts(job)}
        losses = first_losses(models, task, stage, num_steps, seed=job.config.seed, mesh=mesh)
    return {"record": of_run, "losses": losses}


def read_new_rows(job: Job) -> dict[str, Any]:
    """Returns the first losses that the run keeps, by start, and of which record they are.

    Raises:
        DamagedError: the file is not as it was written.
        OSError: it cannot be read.
    """
    remedy = "remove it: the steps are taken again"
    return files.read_sealed(job.run / NEW_ROWS_FILE, remedy, _NEW_ROWS)


def save_model(
    job: Job,
    model: SidDecoder,
    tokenizer: TextTokenizer,
    like: Path,
    mesh: Mesh | None,
    name: str = MODEL,
) -> None:
    """Writes the model, with all that was trained beside it merged, as a Hugging Face folder."""
    plain = merged(model)
    sharding.place(plain, mesh)
    folder = job.run / name
    partial = folder.with_name(f".{folder.name}.partial")
    model_type = files.read_json(like / "config.json", {"model_type": str})["model_type"]
    save_checkpoint(plain, partial, like=like, model_type=model_type, overwrite=True)

    def finish() -> None:
        tokenizer.save(partial)
        files.write_checksums(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    first_alone(finish)


def run_record(job: Job, catalogue: LanguageCatalogue, folder: Path) -> dict[str, Any]:
    """Returns what makes a run this one: settings that change it, and what it was trained on."""
    prepared = catalogue.prepared
    return {
        "config": made_with.run_part(job.config),
        "checkpoint": fingerprint(folder),
        "data": prepared.manifest["config"],
        **fingerprints(prepared, job.sids / SIDS, catalogue.tokenizer.size),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageRun(Run):
    """A language model that answers with SIDs.

    Attributes:
        losses: of the first steps from each start of the new tokens' rows.
        fine_tuned: whether there is a run behind the model.
    """

    catalogue: LanguageCatalogue
    model: SidDecoder
    losses: Mapping[str, Sequence[float]]
    fine_tuned: bool

    def split_batches(self, split: str, max_users: int) -> PromptBatches:
        """Returns the prompts of a split; see `Run`."""
        return split_prompts(self.catalogue, self.config, split, max_users)

    @functools.cached_property
    def prompts(self) -> Prompts:
        """The words of the config's prompt; see `Run`."""
        return TextPrompts(self.catalogue, self.config)

    def tokens_of(self, table: SidTable) -> Int[np.ndarray, "N L"]:
        """Returns the tokens of the answers that name items; see `Run`."""
        catalogue = self.catalogue
        response = catalogue.templates[self.config.evaluate.prompt].response
        return answer_tokens(catalogue.tokenizer, sid_tuples(table), response)

    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the codes of the beams; see `Run`."""
        return self.catalogue.codes(ranked)

    @property
    def is_trained(self) -> bool:
        """Whether it was fine-tuned; see `Run`."""
        return self.fine_tuned

    @property
    def about(self) -> dict[str, Any]:
        """Whether it was fine-tuned, for `report.json`."""
        return {"fine_tuned": self.fine_tuned}

    @property
    def first_losses(self) -> Mapping[str, Sequence[float]]:
        """Losses of the first steps from each start; see `Run`."""
        return self.losses


def load_run(job: Job, *, with_appended: bool = False) -> LanguageRun:
    """Returns the run's fine-tuned model, or the checkpoint as it is where none has begun.

    Args:
        job: whose run.
        with_appended: see `Experiment`.

    Raises:
        ValueError: data, SIDs and run do not belong together, the run is not trained to its end, or
            a checkpoint lacks SID tokens.
    """
    config = job.config
    mesh = make_mesh(config)
    prepared = load_prepared(job)
    folder, sids = job.run / MODEL, job.run
    trained = first_says(folder.is_dir())
    if trained:
        first_alone(lambda: files.check_folder(job.run / MODEL, remedy=_MODEL_REMEDY))
        record = made_with.check_run(job)
    else:
        if first_says((job.run / "config.json").is_file()):
            raise ValueError(
                f"{folder} is missing: the run is not trained to its end; go on with launch.train"
            )
        folder, sids, record = base_folder(job, prepared), job.sids, {}
    require_sids(job, sids)
    appended = job.sids / APPENDED if with_appended else None
    catalogue = load_catalogue(job, prepared, sids, folder, mesh, appended)
    if catalogue.tokenizer.added:
        raise ValueError(
            f"{folder}: its tokenizer lacks {len(catalogue.tokenizer.added)} SID tokens, such as "
            f"{catalogue.tokenizer.added[0]!r}, so that there is nothing to recommend; fine-tune "
            "it with launch.train"
        )
    losses = {}
    if trained:
        here = fingerprints(prepared, job.run / SIDS, catalogue.tokenizer.size)
        check_trained_on(job, record, here)
        if (job.run / NEW_ROWS_FILE).is_file():
            losses = read_new_rows(job)["losses"]
    model = load_model(config, folder, mesh)
    return LanguageRun(config, catalogue, model, mesh, losses, trained)


EXPERIMENT = Experiment(fine_tune, load_run)
