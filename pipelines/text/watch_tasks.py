"""Rows of prompts and answers, made of a database of watch lists and a table of SIDs.

Eight stages, each of which is told of: SID map, metadata, pool A, histories, seeds and pool B,
pool C, quotas and shuffle, writing. The same config and the same files give the same bytes; no file
holds a time of day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minirec import files
from pipelines.text.watch_catalogue import read_catalogue, read_sids
from pipelines.text.watch_config import WatchConfig
from pipelines.text.watch_draw import Pool, chosen, quotas
from pipelines.text.watch_fact_rows import fact_rows
from pipelines.text.watch_lists import TRAIN, hold_out, read_lists
from pipelines.text.watch_mask_rows import mask_capacity, mask_rows
from pipelines.text.watch_reason_rows import Values, reason_capacity, reason_rows
from pipelines.text.watch_writing import (
    MANIFEST,
    PARQUET,
    REMEDY,
    ROWS,
    SUMMARY,
    check_rows,
    read_summary,
    write_parquet,
    write_rows,
)

STAGES = (
    "SID map",
    "metadata",
    "pool A",
    "histories",
    "seeds and pool B",
    "pool C",
    "quotas and shuffle",
    "writing",
)
_VERSION = 1  # of what the same config makes
Progress = Callable[[int, str], None]
"""Is told the number of a stage, from 1, and what there is to say."""


def make_tasks(
    config: WatchConfig, folder: Path, progress: Progress = lambda stage, text: None
) -> dict[str, Any]:
    """Makes the rows, and returns their summary.

    All is checked before anything is written, and the folder appears whole or not at all. What is
    there already stays, if it was made of this config and these files.

    Args:
        config: settings.
        folder: where the rows shall lie.
        progress: is told of each stage.

    Returns:
        `config`, `inputs` (SHA-256 and size of each file), `catalogue`, `lists`, `held_out`,
        `left_out`, `tasks` (of each: quota, pool, rows, different, repeated), `special_tokens`,
        `sid_tokens` (number and examples), `rows` and `outputs`.

    Raises:
        ValueError: bad input, whose message names file, table, row and value; rows that were made
            otherwise lie in the folder; or a task has too few rows.
    """
    record, inputs = _record(config), _inputs(config)
    config.said.check_fits(config.task_c_liked if config.split_task_c else ())
    if folder.exists() and not config.rebuild:
        there = made_tasks(config, folder)
        progress(len(STAGES), f"{there['rows']:,} rows are there already, of this config")
        return there

    def at(stage: int) -> Callable[[str], None]:
        progress(stage, "")
        return lambda text: progress(stage, text)

    tell = at(1)
    sids = read_sids(config)
    tell(f"{len(sids.item_id):,} SIDs of {sids.codes.shape[1]} levels")
    catalogue, counts = read_catalogue(config, sids, at(2))
    tell = at(3)
    facts, left_out = fact_rows(config, catalogue)
    tell(f"pool A: {len(facts):,} different rows")
    lists, list_counts = read_lists(config, catalogue, at(4))
    role, held = hold_out(lists, config.hold_out, config.seed)
    user_of = lists.user_of
    kept = lists.where((held == TRAIN) & (role[user_of] == TRAIN))
    held_out = {
        "users": int(np.count_nonzero(role)),
        "entries_of_those_users": int(np.count_nonzero(role[user_of])),
        "entries_of_others": int(np.count_nonzero(held[role[user_of] == TRAIN])),
        "entries_for_rows": len(kept.item),
    }
    del user_of, lists
    share = (config.split_task_a, config.split_task_b, config.split_task_c)
    quota_a, quota_b, quota_c = quotas(config.target_examples, share)
    tell = at(5)
    capacity_b, seeds = mask_capacity(config, kept)
    tell(f"{seeds['seeds']:,} lists; pool B: {_counted(capacity_b)} different rows at most")
    masked = mask_rows(config, catalogue, kept, capacity_b, quota_b)
    tell = at(6)
    values = Values.of_catalogue(catalogue, config)
    capacity_c = reason_capacity(config, kept, values)
    tell(f"pool C: {_counted(capacity_c)} different rows at most")
    reasons = reason_rows(config, catalogue, kept, values, capacity_c, quota_c)
    tell = at(7)
    sets, pools = {}, {}
    for number, (task, rows, pool, quota) in enumerate(
        (
            ("A", facts, len(facts), quota_a),
            ("B", masked, int(capacity_b.sum()), quota_b),
            ("C", reasons, int(capacity_c.sum()), quota_c),
        )
    ):
        rng = np.random.default_rng([config.seed, 4, number])
        picked, pools[task] = chosen(task, pool, len(rows), quota, config.pool_too_small, rng)
        sets[task] = (rows, picked)
        tell(_told(pools[task]))
    tell = at(8)
    with files.atomic_folder(folder) as temporary:
        rng = np.random.default_rng([config.seed, 5])
        num_rows = write_rows(temporary / ROWS, sets, rng, tell)
        names = [ROWS]
        if config.export_parquet:
            write_parquet(temporary / ROWS, temporary / PARQUET)
            names.append(PARQUET)
        spellings = sids.spellings()
        pools_told = {task: pool.report() for task, pool in pools.items()}
        summary = {
            "config": record,
            "inputs": inputs,
            "catalogue": counts,
            "lists": list_counts,
            "held_out": held_out,
            "left_out": left_out | {name: seeds[name] for name in seeds if name != "seeds"},
            "tasks": pools_told,
            "special_tokens": list(config.said.special_tokens()),
            "sid_tokens": {"number": len(spellings), "such_as": list(spellings[:3])},
            "rows": num_rows,
            "outputs": files.checksums(temporary, names),
        }
        files.write_sealed(temporary / SUMMARY, summary)
        if config.write_manifest:
            manifest = {"config": record, "inputs": inputs, "pools": pools_told}
            manifest["outputs"] = files.checksums(temporary, [*names, SUMMARY])
            files.write_sealed(temporary / MANIFEST, manifest)
    tell(f"{num_rows:,} rows in {folder}")
    return summary


def made_tasks(config: WatchConfig, folder: Path) -> dict[str, Any]:
    """Returns the summary of the rows in a folder, which were made of this config and its files.

    Raises:
        ValueError: there are none, they are damaged, or they were made of something else.
    """
    record, inputs = _record(config), _inputs(config)
    if not (folder / SUMMARY).is_file():
        raise ValueError(
            f"{folder}: holds no {SUMMARY}: run launch.tasks, after removing what else lies there"
        )
    there = read_summary(folder)
    differences = [
        f"{name} is {_shown(old)} there, {_shown(new)} now"
        for name, old, new in _differences("tasks", there["config"], record)
    ]
    differences += [
        f"tasks.{name} is another file"
        for name in inputs
        if there["inputs"].get(name) != inputs[name]
    ]
    if differences:
        raise ValueError(f"{folder / SUMMARY}: {'; '.join(differences)}: {REMEDY}")
    return check_rows(folder)


def _record(config: WatchConfig) -> dict[str, Any]:
    return json.loads(json.dumps(config.record() | {"version": _VERSION}))


def _inputs(config: WatchConfig) -> dict[str, Any]:
    inputs = {}
    for name, path in (("source_db", config.database), ("semantic_ids_path", config.sid_file)):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; tasks.{name} must name one")
        inputs[name] = {"sha256": files.sha256(path), "bytes": path.stat().st_size}
    return inputs


def _differences(name: str, there: Any, here: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            found
            for key in dict.fromkeys([*there, *here])
            for found in _differences(f"{name}.{key}", there.get(key), here.get(key))
        ]
    return [] if there == here else [(name, there, here)]


def _shown(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False):.120}"


def _counted(capacity: np.ndarray) -> str:
    return f"{int(capacity.sum()):,}"


def _told(pool: Pool) -> str:
    text = f"task {pool.task}: {pool.rows:,} rows of {pool.quota:,} asked for"
    return f"{text}, {pool.repeated:,} of them repeated" if pool.repeated else text
