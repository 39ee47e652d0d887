"""What `config.sids` says of the quantiser: checked, and turned into calls; no algorithm here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from minirec.sids import SidTable
from minirec.sids.codebooks import check_sizes
from minirec.sids.latent_codebooks import LatentCodebooks
from minirec.sids.rq_kmeans import RQKMeansResult, rq_kmeans
from minirec.sids.rq_vae import RQVAEResult, check_start, rq_vae
from minirec.sids.rq_vae_config import RQVAEConfig
from minirec.sids.sid_lines import read_sid_lines
from pipelines.sources.fields import input_file

SOURCES = ("given", "rq_kmeans", "rq_vae")


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
    else:
        sizes = tuple(config.codebook_sizes)
        try:
            check_sizes(len(sizes), sizes)
        except ValueError as error:
            raise ValueError(f"config.sids.codebook_sizes={sizes}: {error}") from error
        if config.vectors == "both" and not 0 < config.text_weight < 1:
            raise ValueError(
                f"config.sids.text_weight={config.text_weight}: must lie between 0 and 1; for one "
                "kind of vectors alone set config.sids.vectors to 'text' or 'cooccurrence'"
            )
    if config.source == "rq_vae":
        rq_vae_start(config)
        if config.balance:
            raise ValueError(
                f"config.sids.balance={config.balance}: only source 'rq_kmeans' balances codes; "
                "set it to 0 for 'rq_vae'"
            )
    elif config.start:
        raise ValueError(
            f"config.sids.start={config.start!r}: only source 'rq_vae' goes on from codebooks"
        )


def given_table(path: Path, raw_item_ids: Sequence[str]) -> SidTable:
    """Returns the SIDs in a file for a catalogue: an index of JSON, or JSON lines.

    Raises:
        ValueError: the file holds something else, or lacks an item.
    """
    if path.suffix != ".jsonl":
        return SidTable.load(path, raw_item_ids)
    lines = read_sid_lines(path)
    place = {str(item): row for row, item in enumerate(lines.item_id.tolist())}
    for name in raw_item_ids:
        if name not in place:
            raise ValueError(f"{path}: item {name!r} of the catalogue has no SID")
    rows = [place[name] for name in raw_item_ids]
    ignored = len(place) - len(rows)
    return SidTable(tuple(raw_item_ids), lines.codes[rows], lines.codebook_sizes, ignored)


def rq_vae_config(config: ConfigDict) -> RQVAEConfig:
    """Returns the settings in `config.rq_vae`.

    Raises:
        ValueError: a field is out of its range.
    """
    try:
        return RQVAEConfig(**config.rq_vae.to_dict())
    except ValueError as error:
        raise ValueError(f"config.sids.rq_vae.{error}") from error


def rq_vae_start(config: ConfigDict) -> LatentCodebooks | None:
    """Returns what `config.start` names, if anything: the quantiser to go on from.

    Raises:
        ValueError: there is no such file, or it is of other settings or another source.
    """
    settings = rq_vae_config(config)
    if not config.start:
        return None
    try:
        start, _, _ = LatentCodebooks.load(config.start)
        check_start(start, tuple(config.codebook_sizes), settings)
    except ValueError as error:
        raise ValueError(f"config.sids.start={config.start!r}: {error}") from error
    return start


def quantise(
    vectors: Float32[np.ndarray, "N D"], config: ConfigDict, seed: int
) -> RQKMeansResult | RQVAEResult:
    """Returns the codes and codebooks of `config.source`, "rq_kmeans" or "rq_vae".

    Raises:
        ValueError: a setting is out of its range.
        FloatingPointError: the training of an RQ-VAE diverged.
    """
    sizes = tuple(config.codebook_sizes)
    if config.source == "rq_vae":
        settings, start = rq_vae_config(config), rq_vae_start(config)
        return rq_vae(vectors, len(sizes), sizes, seed, config=settings, start=start)
    return rq_kmeans(
        vectors,
        len(sizes),
        sizes,
        seed,
        num_iterations=config.iterations,
        balance=config.balance,
    )
