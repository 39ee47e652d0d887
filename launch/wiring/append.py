"""New items for a catalogue that has its SIDs: the file's way to `minirec.sids.append`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32

from launch.wiring import catalogue, program
from minirec import files
from minirec.sids.append import AppendedItems, append_sids
from minirec.sids.codebooks import Codebooks
from minirec.sids.item_vectors import combine_vectors, load_vectors
from minirec.sids.latent_codebooks import load_codebooks
from minirec.sids.text_transform import TextTransform
from pipelines.prepared import Prepared
from pipelines.sources.items import ItemColumns, read_items
from pipelines.sources.own_log import LogConfig
from pipelines.tables.bad_rows import BadRows


def append_items(
    job: program.Job, prepared: Prepared, path: Path, vectors_path: str | None
) -> AppendedItems:
    """Gives SIDs to the items of a file, and returns all that have been appended so far.

    Called again with the same file it changes nothing.

    Raises:
        ValueError: the SIDs were given and not made, a mistake in the file, an item that is there
            already, or vectors that do not fit.
    """
    catalogue.require_sids(job, job.sids)
    table, sids_path = catalogue.load_table(prepared, job.sids), job.sids / catalogue.SIDS
    digest = files.sha256(sids_path)
    codebooks_path = job.sids / catalogue.CODEBOOKS
    if not codebooks_path.is_file():
        raise ValueError(
            f"{codebooks_path} is missing: the SIDs were given, not made here, so nothing tells a "
            "new item's; take an index that holds it, or make SIDs by config.sids.source "
            "rq_kmeans or rq_vae"
        )
    catalogue.checked_sids(job.sids, catalogue.CODEBOOKS)
    quantiser, about, arrays = load_codebooks(codebooks_path)
    if about.get("sids_sha256") != digest:
        raise ValueError(
            f"{codebooks_path}: sids_sha256 is {about.get('sids_sha256')!r}, but {sids_path} is "
            f"{digest!r}: run launch.make_sids again"
        )
    if "config" not in about:
        raise ValueError(f"{codebooks_path}: about: config is missing: run launch.make_sids again")
    before = AppendedItems.load(job.sids / catalogue.APPENDED, table, digest)
    items = read_new_items(path, prepared.carried.schema)
    ids = items["raw_item_id"].to_list()
    if set(ids) <= set(before.raw_item_ids):
        # As after a run that was killed between its file and its end: there is nothing to do.
        print(f"note: {path}: all {len(ids)} items were appended before", file=sys.stderr)
        return before
    known = {*table.raw_item_ids, *before.raw_item_ids}
    old = next((raw_item_id for raw_item_id in ids if raw_item_id in known), None)
    if old is not None:
        raise ValueError(f"{path}: item {old!r} has a SID already; list new items only")
    text = TextTransform.from_arrays(arrays, codebooks_path)
    vectors = _vectors(items, path, vectors_path, quantiser, about, text)
    taken = np.concatenate([table.codes, before.codes])
    policy = about["config"]["collisions"]
    codes = append_sids(taken, quantiser, vectors, policy, trained=table.codes)
    added = AppendedItems(
        digest,
        (*before.raw_item_ids, *ids),
        (*before.titles, *items["title"].to_list()),
        np.concatenate([before.codes, codes]),
        (*map(before.attributes_of, range(len(before.codes))), *items["attributes"].to_list()),
        (*map(before.columns_of, range(len(before.codes))), *_known(items, prepared.carried)),
    )
    added.save(job.sids / catalogue.APPENDED)
    return added


def drop_stale(job: program.Job) -> None:
    """Removes the items that were appended to other SIDs than the ones that lie there now."""
    path = job.sids / catalogue.APPENDED
    if not path.is_file():
        return
    try:
        belongs = files.read_sealed(path, "it is removed").get("sids_sha256")
    except ValueError as error:
        print(f"note: {error}", file=sys.stderr)
        belongs = None
    if belongs != files.sha256(job.sids / catalogue.SIDS):
        path.unlink()
        print(
            f"note: {path} held items that were appended to the SIDs before, and is removed; "
            "append them again with --append",
            file=sys.stderr,
        )


def read_new_items(path: Path, carried: Mapping[str, pl.DataType] | None = None) -> pl.DataFrame:
    """Returns the file's items, columns of `pipelines.tables.interactions.ITEM_SCHEMA`.

    Args:
        path: the file.
        carried: further columns, which `data.source.columns` names, and their types in the
            records; the file must have them all, without a value where nothing is known.

    Raises:
        ValueError: there is no such file, or a mistake in it.
    """
    if not path.is_file():
        raise ValueError(f"--append={path}: no such file")
    files.check_fetched(path)
    table = LogConfig(interactions=path.name).item_table(path, path.name)
    there = table.columns()
    carried = dict(carried or {})
    columns = ItemColumns(
        columns=tuple(carried),
        item_id="raw_item_id",
        title="title" if "title" in there else "",
        text=("text",) if "text" in there else (),
        attributes=("attributes",) if "attributes" in there else (),
        separator="|",
    )
    items = read_items([table], columns, BadRows())
    if items.is_empty():
        raise ValueError(f"{path}: the file holds no items")
    # Attributes are taken as they stand, such as brand=Halden, not as values of one column.
    items = items.with_columns(
        pl.col("attributes").list.eval(pl.element().str.strip_prefix("attributes="))
    )
    return items.with_columns(
        _as_carried(items, name, kind, path) for name, kind in carried.items()
    )


def _as_carried(items: pl.DataFrame, name: str, kind: pl.DataType, path: Path) -> pl.Series:
    """A column of new items, of the type that the records have it in."""
    values = items[name]
    if kind == pl.String:
        return values.cast(pl.String)
    # Where the records hold whole numbers by chance, a new item may have a fraction.
    if values.dtype.is_integer():
        return values
    numbers = values.cast(pl.Float64, strict=False).fill_nan(None)
    missing = values.is_null() | (values.cast(pl.String).str.to_lowercase() == "nan")
    wrong = ~missing & (numbers.is_null() | numbers.is_infinite())
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise ValueError(
            f"{path}: column {name!r} of item {items['raw_item_id'][row]!r} is "
            f"{values[row]!r:.80}; the records hold finite numbers there"
        )
    return numbers


def _known(items: pl.DataFrame, carried: pl.DataFrame) -> list[dict[str, str | float]]:
    """What the further columns say of each item, without what is missing."""
    if not carried.width:
        return [{}] * len(items)
    rows = items.select(carried.columns).iter_rows(named=True)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _vectors(
    items: pl.DataFrame,
    path: Path,
    vectors_path: str | None,
    quantiser: Codebooks,
    about: dict,
    text: TextTransform | None,
) -> Float32[np.ndarray, "n D"]:
    kind = about["config"]["vectors"]
    if vectors_path is not None:
        vectors = load_vectors(vectors_path, len(items))
        width = quantiser.width
        if vectors.shape[1] != width:
            raise ValueError(
                f"--append_vectors={vectors_path}: {vectors.shape[1]} wide; the catalogue's "
                f"vectors ({kind}) are {width} wide"
            )
        return vectors
    if text is None:
        raise ValueError(
            f"{path}: the SIDs were made of {kind!r} vectors, which new items' text does not give; "
            f"bring them in an .npy, {quantiser.width} wide, by --append_vectors"
        )
    vectors = text(items["text"].to_list(), items["attributes"].to_list())
    silent = ~vectors.any(axis=1)
    if silent.any():
        row = int(silent.argmax())
        raise ValueError(
            f"{path}: no word or attribute of item {items['raw_item_id'][row]!r} occurs in the "
            f"catalogue ({int(silent.sum())} such items), so nothing tells what it is like; give "
            "it text or attributes, or bring vectors by --append_vectors"
        )
    if kind == "both":  # Nobody has met it yet: its text speaks alone.
        nobody = np.zeros((len(vectors), quantiser.width - vectors.shape[1]), np.float32)
        share = about["config"]["text_weight"]
        return combine_vectors([vectors, nobody], [share, 1.0 - share])
    return vectors
