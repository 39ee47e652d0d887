"""Items to semantic IDs: `python -m launch.make_sids --config=amazon_beauty --workdir=W`.

Takes a given `index.json`, or makes SIDs by RQ-KMeans or RQ-VAE on vectors of the items. Writes
W/sids/sids.json, W/sids/sids_report.json (codebook use, perplexity and collisions a level) and,
where it made them, W/sids/codebooks.npz.

`--append=new_items.csv` gives SIDs to items that came later, without moving any: trained runs
recommend them at once. The file (CSV, JSON lines or Parquet) has the column raw_item_id and, where
there are such, title, text and attributes; `--append_vectors=V.npy` brings their vectors where text
does not make them. They are kept in W/sids/appended.json.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float32, Int
from ml_collections import ConfigDict

from launch.wiring import append, catalogue, made_with, program, quantisers
from minirec import files
from minirec.sids import SidTable
from minirec.sids.codebooks import Codebooks
from minirec.sids.collisions import resolve_collisions
from minirec.sids.item_vectors import (
    combine_vectors,
    cooccurrence_vectors,
    fit_text,
    load_vectors,
)
from minirec.sids.statistics import sid_report
from minirec.sids.text_transform import TextTransform
from pipelines.prepared import Prepared

_Training = tuple[Int[np.ndarray, " E"], Int[np.ndarray, " S1"]]

_APPEND = flags.DEFINE_string("append", None, "File of new items to give SIDs to.")
_APPEND_VECTORS = flags.DEFINE_string("append_vectors", None, "Their vectors, an .npy, in order.")


@dataclasses.dataclass(frozen=True)
class MadeSids:
    """A catalogue's SIDs and how they were made.

    Attributes:
        table: the SIDs.
        report: for sids_report.json.
        quantiser: what made them; None where they were given.
        text: what turned the items' text into vectors, if anything did.
    """

    table: SidTable
    report: dict[str, Any]
    quantiser: Codebooks | None = None
    text: TextTransform | None = None


def item_vectors(
    prepared: Prepared,
    config: ConfigDict,
    seed: int,
    training: _Training | None = None,
) -> tuple[Float32[np.ndarray, "N D"], TextTransform | None]:
    """Returns `[N, D]` float32 vectors as `config.vectors` asks for; nothing held out enters.

    With them comes what makes such vectors of other items' text, where text is part of them.

    Args:
        prepared: the records.
        config: `config.sids`.
        seed: of the decompositions.
        training: items and offsets of the sequences that co-occurrences are counted in; None: all
            training sequences.

    Raises:
        ValueError: an unknown kind, an `.npy` that does not fit the catalogue, or nothing known of
            any item.
    """
    kind = config.vectors
    if kind.endswith(".npy"):
        try:
            return load_vectors(kind, prepared.num_items), None
        except ValueError as error:
            raise ValueError(f"config.sids.vectors: {error}") from error
    if kind not in ("text", "cooccurrence", "both"):
        raise ValueError(
            f"config.sids.vectors={kind!r}: use 'text', 'cooccurrence', 'both' or an .npy's path"
        )
    parts, text = [], None
    if kind in ("text", "both"):
        vectors, text = _of_text(prepared, config, seed)
        parts.append(vectors)
    if kind in ("cooccurrence", "both"):
        parts.append(_of_neighbours(prepared, config, seed, training))
    if not any(part.any() for part in parts):
        raise ValueError(
            f"config.sids.vectors={kind!r}: {_nothing_known(prepared, config, training)}"
        )
    if len(parts) == 1:
        return parts[0], text
    return combine_vectors(parts, [config.text_weight, 1.0 - config.text_weight]), text


def _of_text(
    prepared: Prepared, config: ConfigDict, seed: int
) -> tuple[Float32[np.ndarray, "N D"], TextTransform]:
    return fit_text(
        prepared.items["text"].to_list(),
        prepared.items["attributes"].to_list(),
        dim=config.dim,
        seed=seed,
    )


def _of_neighbours(
    prepared: Prepared, config: ConfigDict, seed: int, training: _Training | None
) -> Float32[np.ndarray, "N D"]:
    item, offsets = training or prepared.training_items()
    return cooccurrence_vectors(
        item, offsets, prepared.num_items, dim=config.dim, seed=seed, window=config.window
    )


def _nothing_known(prepared: Prepared, config: ConfigDict, training: _Training | None) -> str:
    """Returns why no item has a vector, and what of all that there is would help here."""
    text = (
        f"none of the {prepared.num_items} items in {prepared.folder / 'items.parquet'} has words "
        "or attributes that another one shares"
    )
    near = f"no two items follow one another in the training sequences of {prepared.folder}"
    if config.vectors == "text" and _of_neighbours(prepared, config, 0, training).any():
        return f"{text}; use 'cooccurrence'"
    if config.vectors == "cooccurrence" and _of_text(prepared, config, 0)[0].any():
        return f"{near}; use 'text'"
    return (
        f"{text}, and {near}: give the items titles, texts or attributes "
        "(config.data.source.catalogue and its columns), vectors of your own "
        "(config.sids.vectors=FILE.npy) or SIDs (config.sids.source='given')"
    )


def make_table(prepared: Prepared, config: ConfigDict, seed: int, folder: str = "") -> MadeSids:
    """Returns the catalogue's SIDs and how they were made.

    Args:
        prepared: the records.
        config: `config.sids`.
        seed: of vectors and codebooks.
        folder: what a given index's path is relative to.

    Raises:
        ValueError: a wrong setting, or a given index that does not fit the catalogue.
        FloatingPointError: the training of an RQ-VAE diverged.
    """
    quantisers.check(config, folder)
    quantiser: Codebooks | None = None
    vectors: np.ndarray | None = None
    text: TextTransform | None = None
    if config.source == "given":
        path = quantisers.index_file(config.path, folder)
        given = quantisers.given_table(path, prepared.raw_item_ids)
        codes, sizes = given.codes, given.codebook_sizes
        report: dict[str, Any] = {"source": path.name, "ignored_items": given.num_ignored}
    else:
        vectors, text = item_vectors(prepared, config, seed)
        result = quantisers.quantise(vectors, config, seed)
        quantiser, codes, sizes = result, result.codes, result.codebook_sizes
        errors = [float(value) for value in result.reconstruction_error]
        report = {
            "source": f"{config.source} on {config.vectors}",
            "reconstruction_error": errors,
            "variance": result.variance,
            "items_without_vector": int((~vectors.any(axis=1)).sum()),
        }
    codes, sizes = resolve_collisions(
        codes,
        policy=config.collisions,
        priority=prepared.train_count,
        codebook_sizes=sizes,
        quantiser=quantiser,
        vectors=vectors,
    )
    return MadeSids(SidTable(prepared.raw_item_ids, codes, sizes), report, quantiser, text)


def make(job: program.Job) -> None:
    """Makes or takes the SIDs and prints what the codebooks look like.

    Raises:
        UsageError: the config's family writes no SIDs.
    """
    if "sids" not in job.config:
        raise program.UsageError(
            f"config.family={job.config.family!r} writes no SIDs: go on with launch.train"
        )
    prepared = catalogue.load_prepared(job)
    _check_replaced(job, prepared)
    folder = job.config.data.source.get("folder", "")
    made = make_table(prepared, job.config.sids, made_with.sids_seed(job.config), folder)
    table = made.table
    report = made.report | sid_report(table.codes, table.codebook_sizes)
    report["config"] = made_with.sids_part(job.config)
    # What the vectors were made from: SIDs of another split would hold what this one holds out.
    report["prepared"] = prepared.manifest["fingerprint"]
    # The report vouches for the rest: it goes first and comes last.
    for name in (catalogue.SIDS_REPORT, catalogue.CODEBOOKS):
        (job.sids / name).unlink(missing_ok=True)
    table.save(job.sids / catalogue.SIDS)
    if made.quantiser is not None:
        about = {
            "sids_sha256": files.sha256(job.sids / catalogue.SIDS),
            "source": made.report["source"],
            "config": report["config"],
        }
        arrays = None if made.text is None else made.text.arrays()
        made.quantiser.save(job.sids / catalogue.CODEBOOKS, about, arrays)
    append.drop_stale(job)
    made_files = (catalogue.SIDS, *([catalogue.CODEBOOKS] if made.quantiser is not None else []))
    report["files"] = files.checksums(job.sids, made_files)
    files.write_sealed(job.sids / catalogue.SIDS_REPORT, report)
    for row in report["levels"]:
        print(" ".join(f"{name}={_short(value)}" for name, value in row.items()))
    totals = ("num_items", "distinct_sids", "items_sharing_sid", "largest_group")
    print(" ".join(f"{name}={report[name]}" for name in totals))
    if made.quantiser is not None and made.quantiser.codebook_sizes[0] >= len(table.codes):
        print(
            f"note: level 0 has a code for each of the {len(table.codes)} items, so that SIDs do "
            "not tell what is alike and none are left for new items; set smaller "
            "config.sids.codebook_sizes",
            file=sys.stderr,
        )
    if report.get("items_without_vector", 0) > 1:
        print(
            f"note: nothing tells {report['items_without_vector']} of {len(table.codes)} items "
            f"apart (config.sids.vectors={job.config.sids.vectors!r}): their SIDs begin alike",
            file=sys.stderr,
        )
    if report.get("ignored_items"):
        print(f"ignored_items={report['ignored_items']} (in the index, but not in the catalogue)")
    print(f"wrote {job.sids / catalogue.SIDS}")


def _check_replaced(job: program.Job, prepared: Prepared) -> None:
    """Checks that what lies there may be replaced.

    Raises:
        UsageError: it is of other settings or records, and the job does not say to overwrite.
    """
    path = job.sids / catalogue.SIDS_REPORT
    if job.overwrite or not path.is_file():
        return
    try:
        report = catalogue.checked_sids(job.sids, catalogue.SIDS)
    except ValueError:  # Damaged: to be made again.
        return
    differences = made_with.sids_differences(job.config, report)
    if report["prepared"] != prepared.manifest["fingerprint"]:
        differences.append(f"they were made for other records than those in {prepared.folder}")
    if differences:
        runs = made_with.runs_of(job, "sids_sha256", files.sha256(job.sids / catalogue.SIDS))
        hanging = f"; trained on them: {', '.join(runs)}" if runs else ""
        raise program.UsageError(
            f"{path}: holds other SIDs: {'; '.join(differences)}{hanging}: --overwrite them (a run "
            "keeps its own, and is evaluated with the config that it was trained with), or take "
            "another --workdir"
        )


def main(job: program.Job) -> None:
    """Makes or takes the SIDs, or appends new items' to them."""
    if _APPEND.value is None:
        if _APPEND_VECTORS.value is not None:
            raise program.UsageError("--append_vectors needs --append: whose vectors are they?")
        make(job)
        return
    prepared = catalogue.load_prepared(job)
    added = append.append_items(job, prepared, Path(_APPEND.value), _APPEND_VECTORS.value)
    print(f"appended_items={len(added.raw_item_ids)}")
    print(f"wrote {job.sids / catalogue.APPENDED}")


def _short(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    program.run(main)
