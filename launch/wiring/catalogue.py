"""What a run's steps know of the items: records, SIDs and the trie of what may be written."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from kernels.trie import Trie, TrieCapacities, build_trie
from launch.wiring import made_with
from launch.wiring.program import Job
from minirec import files
from minirec.files.schema import COUNT
from minirec.serving.catalogue import Known
from minirec.sids import SidTable
from minirec.sids.append import AppendedItems
from minirec.training import compare
from pipelines.prepared import Prepared

SIDS = "sids.json"
SIDS_REPORT = "sids_report.json"
CODEBOOKS = "codebooks.npz"
APPENDED = "appended.json"
# What is read of a file, as `minirec.files.schema` writes it.
_REPORT = {"prepared": str, "codebook_sizes": [COUNT], "config": dict, "files": dict}
_SIDS_REMEDY = "run launch.make_sids again, or launch.train for the copy that its run keeps"


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The items as a search sees them. Those that were appended come after those of the records.

    Attributes:
        prepared: the records.
        table: the items' SIDs.
        item_tokens: the tokens that the search takes for each item, `[N, L]`.
        trie: the valid sequences of them; items that share one stand by popularity in training.
        titles: what to show people of each item.
        later: what rules find of each appended item.
    """

    prepared: Prepared
    table: SidTable
    item_tokens: Int[np.ndarray, "N L"]
    trie: Trie
    titles: tuple[str, ...]
    later: tuple[Known, ...] = dataclasses.field(default=(), kw_only=True)


@dataclasses.dataclass(frozen=True)
class Items:
    """What is known of the items before a family makes tokens of their SIDs.

    Attributes:
        known: the SIDs of the records' items.
        table: of those, and of the items that came later.
        titles: what to show people.
        train_count: training interactions of each.
        later: what rules find of each item that came later.
    """

    known: SidTable
    table: SidTable
    titles: tuple[str, ...]
    train_count: Int[np.ndarray, " N"]
    later: tuple[Known, ...]


def load_items(prepared: Prepared, sids_folder: Path, appended_path: Path | None = None) -> Items:
    """Returns the items of prepared records with their SIDs.

    Args:
        prepared: the records.
        sids_folder: holds sids.json and sids_report.json.
        appended_path: file of items that were given SIDs later; None leaves them out.

    Raises:
        ValueError: a step before this one has not run, or the SIDs do not fit the records.
    """
    table = known = load_table(prepared, sids_folder)
    titles, train_count, known_later = prepared.titles, prepared.train_count, []
    if appended_path is not None:
        later = AppendedItems.load(appended_path, table, files.sha256(sids_folder / SIDS))
        titles = titles + [
            title or raw for title, raw in zip(later.titles, later.raw_item_ids, strict=True)
        ]
        known_later = [
            Known(later.attributes_of(place), later.columns_of(place))
            for place in range(len(later.raw_item_ids))
        ]
        train_count = np.concatenate([train_count, np.zeros(len(later.codes), train_count.dtype)])
        table = SidTable(
            (*table.raw_item_ids, *later.raw_item_ids),
            np.concatenate([table.codes, later.codes]),
            table.codebook_sizes,
        )
    return Items(known, table, tuple(titles), train_count, tuple(known_later))


def load_prepared(job: Job) -> Prepared:
    """Returns the prepared data of a job.

    Raises:
        ValueError: there is none, or `config.data` says otherwise than what it was prepared with.
    """
    prepared = Prepared.load(job.prepared)
    made_with.check_data(job, prepared.manifest)
    return prepared


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
    item_tokens: Int[np.ndarray, "N L"],
    train_count: Int[np.ndarray, " N"],
    vocab_size: int,
    *,
    listed: Bool[np.ndarray, " N"] | None = None,
    capacities: TrieCapacities | None = None,
) -> Trie:
    """Returns the trie of the items' tokens; items that share all stand by training count.

    Args:
        item_tokens: the tokens of each item.
        train_count: training interactions of each item.
        vocab_size: the model's tokens.
        listed: the items that the trie holds; None: all.
        capacities: sizes to pad to; see `kernels.trie.build_trie`.

    Raises:
        ValueError: no item is listed, or the capacities do not suffice.
    """
    by_popularity = np.lexsort((np.arange(len(item_tokens)), -train_count))
    if listed is not None:
        by_popularity = by_popularity[listed[by_popularity]]
    return build_trie(
        item_tokens[by_popularity],
        by_popularity.astype(np.int32),
        codebook_sizes=[vocab_size] * item_tokens.shape[1],
        capacities=capacities,
    )


def fingerprints(prepared: Prepared, sids: Path, vocabulary: int) -> dict[str, Any]:
    """Returns what a run was trained on, as its record has it.

    Args:
        prepared: the records.
        sids: the file of the SIDs.
        vocabulary: tokens of the model.
    """
    return {
        "prepared": prepared.manifest["fingerprint"],
        "sids_sha256": files.sha256(sids),
        "vocabulary": vocabulary,
    }


def check_trained_on(job: Job, trained: dict[str, Any], here: dict[str, Any]) -> None:
    """Compares what a run was trained on with what is here.

    Args:
        job: whose run.
        trained: its record.
        here: see `fingerprints`.

    Raises:
        ValueError: something differs.
    """
    there = {name: trained.get(name) for name in here}
    differences = [f"{field}={was}, now {now}" for field, was, now in compare(there, here)]
    if differences:
        path = job.run / "config.json"
        raise ValueError(f"{path}: the run was trained with {'; '.join(differences)}")
