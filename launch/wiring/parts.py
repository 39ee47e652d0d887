"""Parts put together from a config; shared by the launchers, no algorithm here."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from kernels.trie import Trie, build_trie
from launch.wiring import made_with
from launch.wiring.program import Job
from minirec import files
from minirec.decoding import BeamSearcher, Buckets
from minirec.files.schema import COUNT
from minirec.models import (
    ItemDecoder,
    ItemDecoderConfig,
    SidDecoder,
    SidDecoderConfig,
    TrunkConfig,
    prompt_tokens,
    sharding,
)
from minirec.sids import SidTable, SidVocab
from minirec.sids.append import AppendedItems
from minirec.training import compare, load_best
from pipelines.batches.train_batches import BatchConfig, EvalBatches, eval_batches
from pipelines.prepared import Prepared

Model = ItemDecoder | SidDecoder

SIDS = "sids.json"
SIDS_REPORT = "sids_report.json"
CODEBOOKS = "codebooks.npz"
APPENDED = "appended.json"
VOCAB = "vocab.json"
# What is read of a file, as `minirec.files.schema` writes it.
_REPORT = {"prepared": str, "codebook_sizes": [COUNT], "config": dict, "files": dict}
_SIDS_REMEDY = "run launch.make_sids again, or launch.train for the copy that its run keeps"
# A report on validation users stands beside the one on test users, not in its place.
REPORTS = {"test": "report", "valid": "report_valid"}


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The items as the model and the search see them.

    Attributes:
        prepared: the records.
        table: the items' SIDs.
        vocab: the model's tokens.
        item_tokens: the items' SIDs as tokens, `[N, L]`.
        trie: the valid token sequences; items that share one stand by popularity in training.
        titles: what to show people of each item. Items that were appended come after those of the
            records, in the table and here.
    """

    prepared: Prepared
    table: SidTable
    vocab: SidVocab
    item_tokens: Int[np.ndarray, "N L"]
    trie: Trie
    titles: tuple[str, ...]


def load_prepared(job: Job) -> Prepared:
    """Returns the prepared data of a job.

    Raises:
        ValueError: there is none, or `config.data` says otherwise than what it was prepared with.
    """
    prepared = Prepared.load(job.prepared)
    made_with.check_data(job, prepared.manifest)
    return prepared


def load_catalogue(
    prepared: Prepared,
    sids_folder: Path,
    appended_path: Path | None = None,
    mesh: Mesh | None = None,
) -> Catalogue:
    """Returns the catalogue of prepared records and of the SIDs in a folder.

    Args:
        prepared: the records.
        sids_folder: holds sids.json, sids_report.json and, where a model was trained with it,
            vocab.json.
        appended_path: file of items that were given SIDs later; None leaves them out.
        mesh: each of its devices gets the trie.

    Raises:
        ValueError: a step before this one has not run, or the SIDs do not fit the records.
    """
    table = load_table(prepared, sids_folder)
    vocab_path = sids_folder / VOCAB
    vocab = SidVocab.load(vocab_path) if vocab_path.is_file() else SidVocab.from_table(table)
    titles, train_count = prepared.titles, prepared.train_count
    if appended_path is not None:
        later = AppendedItems.load(appended_path, table, files.sha256(sids_folder / SIDS))
        titles = titles + [
            title or raw for title, raw in zip(later.titles, later.raw_item_ids, strict=True)
        ]
        train_count = np.concatenate([train_count, np.zeros(len(later.codes), train_count.dtype)])
        table = SidTable(
            (*table.raw_item_ids, *later.raw_item_ids),
            np.concatenate([table.codes, later.codes]),
            table.codebook_sizes,
        )
    item_tokens = vocab.encode(table.codes)
    trie = popularity_trie(item_tokens, train_count, vocab.size)
    trie = sharding.replicate(trie, mesh)
    return Catalogue(prepared, table, vocab, item_tokens, trie, tuple(titles))


def load_table(prepared: Prepared, sids_folder: Path) -> SidTable:
    """Returns the SIDs in a folder, which were made for just these records.

    Raises:
        ValueError: a step before this one has not run, a file is damaged, or the SIDs do not fit
            the records.
    """
    report = checked_sids(sids_folder, SIDS)
    if report["prepared"] != prepared.manifest["fingerprint"]:
        raise ValueError(
            f"{sids_folder / SIDS_REPORT}: prepared is {report['prepared']!r}, but the records in "
            f"{prepared.folder} are {prepared.manifest['fingerprint']!r}: these SIDs were made for "
            "other records"
        )
    return SidTable.load(sids_folder / SIDS, prepared.raw_item_ids, report["codebook_sizes"])


def checked_sids(sids_folder: Path, name: str) -> dict[str, Any]:
    """Returns `sids_report.json`, once a file beside it is found to be as that says.

    Raises:
        ValueError: one of them is missing or damaged.
    """
    for needed in (name, SIDS_REPORT):
        if not (sids_folder / needed).is_file():
            raise ValueError(f"{sids_folder / needed} is missing: run launch.make_sids and train")
    report = files.read_sealed(sids_folder / SIDS_REPORT, _SIDS_REMEDY, _REPORT)
    files.check_files(sids_folder, report.get("files"), [name], remedy=_SIDS_REMEDY)
    return report


def require_sids(job: Job, sids_folder: Path) -> None:
    """Checks that the SIDs in a folder are those that the job's config describes.

    Raises:
        ValueError: there are none, they are damaged, or a setting differs.
    """
    made_with.check_sids(job, checked_sids(sids_folder, SIDS), sids_folder)


def keep_sids(job: Job) -> None:
    """Keeps the SIDs with the run; their report, which vouches for them, goes first, comes last."""
    if all(
        (job.run / name).is_file() and files.sha256(job.run / name) == files.sha256(job.sids / name)
        for name in (SIDS, SIDS_REPORT)
    ):
        return
    (job.run / SIDS_REPORT).unlink(missing_ok=True)
    for name in (SIDS, SIDS_REPORT):
        with files.atomic_path(job.run / name) as temporary:
            shutil.copyfile(job.sids / name, temporary)


def popularity_trie(
    item_tokens: Int[np.ndarray, "N L"], train_count: Int[np.ndarray, " N"], vocab_size: int
) -> Trie:
    """Returns the trie of the items' tokens; items that share all stand by training count."""
    by_popularity = np.lexsort((np.arange(len(item_tokens)), -train_count))
    return build_trie(
        item_tokens[by_popularity],
        by_popularity.astype(np.int32),
        codebook_sizes=[vocab_size] * item_tokens.shape[1],
    )


def run_record(job: Job, catalogue: Catalogue) -> dict[str, Any]:
    """Returns what makes a run this one: settings that change it, and what it was trained on."""
    return {
        "config": made_with.run_part(job.config),
        "data": catalogue.prepared.manifest["config"],
        "prepared": catalogue.prepared.manifest["fingerprint"],
        "sids_sha256": files.sha256(job.sids / SIDS),
        "vocabulary": catalogue.vocab.size,
    }


def load_run(
    job: Job, *, mesh: Mesh | None = None, with_appended: bool = False
) -> tuple[Catalogue, Model]:
    """Returns the catalogue and the best model of the job's run.

    Args:
        job: whose run.
        mesh: where trie and model go.
        with_appended: whether items that were given SIDs after the run was trained are part of the
            catalogue (`launch.make_sids --append`).

    Raises:
        ValueError: there is no such run, or it was trained with other data, SIDs or settings than
            the ones at hand; the message names the field and both values.
        FileNotFoundError: the run has saved no model yet.
    """
    require_sid_decoder(job.config)
    path = job.run / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run launch.train first")
    appended = job.sids / APPENDED if with_appended else None
    trained = made_with.check_run(job)
    require_sids(job, job.run)
    catalogue = load_catalogue(load_prepared(job), job.run, appended, mesh)
    here = {
        "prepared": catalogue.prepared.manifest["fingerprint"],
        "sids_sha256": files.sha256(job.run / SIDS),
        "vocabulary": catalogue.vocab.size,
    }
    there = {name: trained.get(name) for name in here}
    differences = [f"{field}={was}, now {now}" for field, was, now in compare(there, here)]
    if differences:
        raise ValueError(f"{path}: the run was trained with {'; '.join(differences)}")
    model = nnx.eval_shape(lambda: new_model(job.config, catalogue))
    sharding.place(model, mesh)
    return catalogue, load_best(job.run, model)


def require_sid_decoder(config: ConfigDict) -> None:
    """Checks that the config is one of a model of SIDs alone.

    Raises:
        ValueError: it fine-tunes a language model.
    """
    if "sft" in config:
        raise ValueError(
            f"config {config.name!r} fine-tunes a language model: use python -m launch.sft"
        )


def make_mesh(config: ConfigDict) -> Mesh | None:
    """Returns the mesh that `config.mesh` describes; None for one device.

    Raises:
        ValueError: it does not fit the devices.
    """
    try:
        return sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    except ValueError as error:
        raise ValueError(f"config.mesh: {error}") from error


def reads_items(config: ConfigDict) -> bool:
    """Returns whether the model has a position an item, and not one a token of a SID.

    Raises:
        ValueError: `config.model.positions` is neither.
    """
    positions = config.model.positions
    if positions not in ("items", "tokens"):
        raise ValueError(f"config.model.positions={positions!r}: must be 'items' or 'tokens'")
    return positions == "items"


def make_model(config: ConfigDict, vocab_size: int, items: tuple[int, int]) -> Model:
    """Returns the decoder that `config.model` describes, with weights drawn from the seed.

    Args:
        config: the experiment.
        vocab_size: tokens of SIDs.
        items: `(N, L)`, items of the records and levels of their SIDs.

    Raises:
        ValueError: a field of `config.model` is unknown or impossible.
    """
    fields = config.model.to_dict()
    own = {name: fields.pop(name) for name in ("positions", "level_width", "tie_embeddings")}
    trunk = TrunkConfig(**fields)
    rngs = nnx.Rngs(config.seed)
    if not reads_items(config):
        return SidDecoder(SidDecoderConfig(trunk, vocab_size, own["tie_embeddings"]), rngs=rngs)
    decoder = ItemDecoderConfig(
        trunk, vocab_size, *items, own["level_width"], own["tie_embeddings"]
    )
    return ItemDecoder(decoder, rngs=rngs)


def new_model(config: ConfigDict, catalogue: Catalogue) -> Model:
    """Returns the decoder that `config.model` describes for a catalogue; see `make_model`."""
    items = (catalogue.prepared.num_items, catalogue.table.num_levels)
    return make_model(config, catalogue.vocab.size, items)


def model_tokens(config: ConfigDict, catalogue: Catalogue) -> Int[np.ndarray, "N W"]:
    """Returns the tokens by which the model reads each item of a history."""
    if reads_items(config):
        return prompt_tokens(catalogue.item_tokens, catalogue.vocab.size)
    return catalogue.item_tokens


def make_searcher(
    config: ConfigDict, mesh: Mesh | None = None, *, at_least: int = 1, rank_by: str = "sids"
) -> BeamSearcher:
    """Returns the constrained search that `config.search` describes.

    Args:
        config: the experiment.
        mesh: devices that share the users.
        at_least: as many beams even if the config has fewer.
        rank_by: "items" for the item table's ranking instead.
    """
    num_beams = max(config.search.num_beams, at_least)
    return BeamSearcher(
        num_beams=num_beams,
        normalize=config.search.normalize,
        rank_by=rank_by,
        # The prompts come in few widths already (`pipelines.batches.eval_batches`).
        length_buckets=Buckets(steps=64),
        mesh=mesh,
    )


def batch_config(config: ConfigDict) -> BatchConfig:
    """Returns the loader's settings from `config.loader`."""
    fields = config.loader.to_dict()
    for name in ("row_tokens", "stride"):
        fields[name] = fields[name] or None
    return BatchConfig(**fields)


def split_batches(
    catalogue: Catalogue, config: ConfigDict, split: str, max_users: int
) -> EvalBatches:
    """Returns the prompts of a split; `max_users` 0 takes all users."""
    return eval_batches(
        catalogue.prepared,
        split,
        model_tokens(config, catalogue),
        batch_size=config.evaluate.batch_size,
        max_items=config.loader.max_items,
        max_users=max_users or None,
        seed=config.seed,
    )
