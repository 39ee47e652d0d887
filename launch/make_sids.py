"""Items to semantic IDs: `python -m launch.make_sids --config=amazon_beauty --workdir=W`.

Takes a given `index.json`, or makes SIDs by RQ-KMeans or RQ-VAE on vectors of the items. Writes
W/sids/sids.json and W/sids/sids_report.json (codebook use, perplexity and collisions a level).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from launch import program, wiring
from minirec import files
from minirec.sids import SidTable
from minirec.sids.collisions import resolve_collisions
from minirec.sids.item_vectors import (
    combine_vectors,
    cooccurrence_vectors,
    load_vectors,
    text_vectors,
)
from minirec.sids.rq_kmeans import RQKMeansResult, rq_kmeans
from minirec.sids.rq_vae import RQVAEResult, rq_vae
from minirec.sids.rq_vae_config import RQVAEConfig
from minirec.sids.statistics import sid_report
from pipelines.prepared import Prepared
from pipelines.sources.fields import input_file

SOURCES = ("given", "rq_kmeans", "rq_vae")


def item_vectors(prepared: Prepared, config: ConfigDict, seed: int) -> Float32[np.ndarray, "N D"]:
    """Returns `[N, D]` float32 vectors as `config.vectors` asks for; nothing held out enters.

    Raises:
        ValueError: an unknown kind, or an `.npy` that does not fit the catalogue.
    """
    kind = config.vectors
    if kind.endswith(".npy"):
        try:
            return load_vectors(kind, prepared.num_items)
        except ValueError as error:
            raise ValueError(f"config.sids.vectors: {error}") from error
    if kind not in ("text", "cooccurrence", "both"):
        raise ValueError(
            f"config.sids.vectors={kind!r}: use 'text', 'cooccurrence', 'both' or an .npy's path"
        )
    parts = []
    if kind in ("text", "both"):
        parts.append(
            text_vectors(
                prepared.items["text"].to_list(),
                prepared.items["attributes"].to_list(),
                dim=config.dim,
                seed=seed,
            )
        )
    if kind in ("cooccurrence", "both"):
        item, offsets = prepared.training_items()
        parts.append(
            cooccurrence_vectors(
                item,
                offsets,
                prepared.num_items,
                dim=config.dim,
                seed=seed,
                window=config.window,
            )
        )
    if len(parts) == 1:
        return parts[0]
    return combine_vectors(parts, [config.text_weight, 1.0 - config.text_weight])


def index_file(name: str, folder: str) -> Path:
    """Returns the index that `config.sids.path` names, relative to the data's folder.

    Raises:
        ValueError: there is no such file, or not exactly one that matches a pattern.
    """
    if not name:
        raise ValueError("config.sids.path is empty: source 'given' needs an index.json")
    try:
        return input_file(folder, name, "the given SIDs")
    except ValueError as error:
        raise ValueError(f"config.sids.path={name!r}: {error}") from error


def check(config: ConfigDict, folder: str = "") -> None:
    """Checks what can be checked of `config.sids` before any work.

    Raises:
        ValueError: an unknown source, a given index that is not there, or a field out of its range.
    """
    if config.source not in SOURCES:
        raise ValueError(f"config.sids.source={config.source!r}: use one of {list(SOURCES)}")
    if config.source == "given":
        index_file(config.path, folder)
    if config.source == "rq_vae":
        rq_vae_config(config)


def rq_vae_config(config: ConfigDict) -> RQVAEConfig:
    """Returns the settings in `config.rq_vae`.

    Raises:
        ValueError: a field is out of its range.
    """
    try:
        return RQVAEConfig(**config.rq_vae.to_dict())
    except ValueError as error:
        raise ValueError(f"config.sids.rq_vae.{error}") from error


def quantise(
    vectors: Float32[np.ndarray, "N D"], config: ConfigDict, seed: int
) -> RQKMeansResult | RQVAEResult:
    """Returns the codes and codebooks of `config.source`, "rq_kmeans" or "rq_vae".

    Raises:
        ValueError: a field of `config.rq_vae` is out of its range.
    """
    sizes = tuple(config.codebook_sizes)
    if config.source == "rq_vae":
        return rq_vae(vectors, len(sizes), sizes, seed, config=rq_vae_config(config))
    return rq_kmeans(vectors, len(sizes), sizes, seed, num_iterations=config.iterations)


def make_table(
    prepared: Prepared,
    config: ConfigDict,
    seed: int,
    folder: str = "",
    vectors: Float32[np.ndarray, "N D"] | None = None,
) -> tuple[SidTable, dict]:
    """Returns the catalogue's SIDs and a report of how they were made.

    Args:
        prepared: the records.
        config: `config.sids`.
        seed: of vectors and codebooks.
        folder: what a given index's path is relative to.
        vectors: the items' vectors where they are made already.

    Raises:
        ValueError: an unknown source, or a given index that does not fit the catalogue.
        FloatingPointError: the training of an RQ-VAE diverged.
    """
    check(config, folder)
    raw_item_ids = prepared.raw_item_ids
    if config.source == "given":
        path = index_file(config.path, folder)
        given = SidTable.load(path, raw_item_ids)
        codes, sizes = given.codes, given.codebook_sizes
        report = {"source": path.name, "ignored_items": given.num_ignored}
    else:
        vectors = item_vectors(prepared, config, seed) if vectors is None else vectors
        result = quantise(vectors, config, seed)
        codes, sizes = result.codes, result.codebook_sizes
        errors = [float(value) for value in result.reconstruction_error]
        report = {
            "source": f"{config.source} on {config.vectors}",
            "variance": result.variance,
            "reconstruction_error": errors,
        }
    codes, sizes = resolve_collisions(
        codes, policy=config.collisions, priority=prepared.train_count, codebook_sizes=sizes
    )
    return SidTable(raw_item_ids, codes, sizes), report


def main(job: program.Job) -> None:
    """Makes or takes the SIDs and prints what the codebooks look like."""
    prepared = wiring.load_prepared(job)
    folder = job.config.data.source.get("folder", "")
    table, report = make_table(prepared, job.config.sids, job.config.seed, folder)
    report |= sid_report(table.codes, table.codebook_sizes)
    report["config"] = job.config.sids.to_dict()
    # What the vectors were made from: SIDs of another split would hold what this one holds out.
    report["prepared"] = prepared.manifest["fingerprint"]
    (job.sids / wiring.SIDS_REPORT).unlink(missing_ok=True)
    table.save(job.sids / wiring.SIDS)
    files.write_json(job.sids / wiring.SIDS_REPORT, report)
    for row in report["levels"]:
        print(" ".join(f"{name}={_short(value)}" for name, value in row.items()))
    totals = ("num_items", "distinct_sids", "items_sharing_sid", "largest_group")
    print(" ".join(f"{name}={report[name]}" for name in totals))
    if report.get("ignored_items"):
        print(f"ignored_items={report['ignored_items']} (in the index, but not in the catalogue)")
    print(f"wrote {job.sids / wiring.SIDS}")


def _short(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    program.run(main)
