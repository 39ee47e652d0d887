"""Benchmark `tasks`: rows of watch lists, beside the same steps row by row in plain Python."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs.watch_words import watch_words
from launch.bench.peer import measured, own_command
from minirec import files

SIZES = (300_000, 20_000_000)
_ITEMS, _LEVELS, _CODES = 17_562, 8, 2_048
_USER_ROWS = 530  # about as many as a list of the real files has
_GENRES = ("Action", "Comedy", "Drama", "Fantasy", "Mystery", "Romance", "Space", "Sports")
_BLOCK = 1_000_000


def run(
    sizes: tuple[int, ...] = SIZES, target_examples: int = 400_000, num_items: int = _ITEMS
) -> Iterator[dict[str, Any]]:
    """Yields a row of ours a size, and one of plain Python at the smallest.

    Args:
        sizes: rows of the lists' table.
        target_examples: rows to make.
        num_items: items of the catalogue.
    """
    with tempfile.TemporaryDirectory() as place:
        for size in sizes:
            folder = Path(place) / str(size)
            folder.mkdir()
            generate(folder, size, num_items)
            tasks = {
                "folder": str(folder),
                "source_db": "lists.sqlite",
                "semantic_ids_path": "sids.jsonl",
                "target_examples": target_examples,
                "task_b_mask_modes": ("random",),
                "words": watch_words().to_dict(),
            }
            ways = ("minirec", "plain") if size == min(sizes) else ("minirec",)
            found = {}
            for which in ways:
                files.write_json(folder / "settings.json", {"which": which, "tasks": tasks})
                found[which] = measured(own_command("launch.bench.tasks_measure", folder))
            for which, row in found.items():
                ratio = found["plain"]["seconds"] / row["seconds"] if "plain" in found else None
                yield {
                    "benchmark": "tasks",
                    "implementation": which,
                    "list_rows": size,
                    **row,
                    "seconds": round(row["seconds"], 1),
                    "ratio": None if ratio is None else round(ratio, 2),
                }


def generate(folder: Path, num_rows: int, num_items: int, seed: int = 0) -> None:
    """Writes a database of about so many list rows, and a file of SIDs, block by block.

    Args:
        folder: gets lists.sqlite and sids.jsonl.
        num_rows: rows of the lists.
        num_items: items, each with metadata and a SID.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, _CODES, (num_items, _LEVELS))
    codes[:, -1] = np.arange(num_items) % _CODES
    codes[:, -2] = np.arange(num_items) // _CODES
    with (folder / "sids.jsonl").open("w", encoding="utf-8") as file:
        for item, row in enumerate(codes.tolist()):
            tokens = [f"<L{level + 1}_{code}>" for level, code in enumerate(row)]
            line = {"anime_id": item, "name": f"Title {item}", "semantic_id": "".join(tokens)}
            file.write(json.dumps(line | {"tokens": tokens, "codes": row}) + "\n")
    database = sqlite3.connect(folder / "lists.sqlite")
    database.executescript(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        "CREATE TABLE anime (anime_id INTEGER PRIMARY KEY, name TEXT, english_name TEXT, genres "
        "TEXT, synopsis TEXT, type TEXT, premiered TEXT, year INTEGER, studios TEXT, source TEXT);"
        "CREATE TABLE user_anime (user_id INTEGER, anime_id INTEGER, score INTEGER, "
        "watching_status INTEGER);"
    )
    for item in range(num_items):
        genres = ", ".join(sorted({str(one) for one in rng.choice(_GENRES, 3)}))
        year = 1980 + item % 40
        made = f"Studio {item % 97}"
        row = (item, f"Title {item}", "Unknown", genres, None, "TV", f"Fall {year}", year, made)
        database.execute("INSERT INTO anime VALUES (?,?,?,?,?,?,?,?,?,?)", (*row, "Manga"))
    statuses = np.array([1, 2, 2, 2, 2, 3, 4, 6, 6])
    share = 1 / (np.arange(num_items) + 50.0)
    chance = np.cumsum(share / share.sum())
    for begin in range(0, num_rows, _BLOCK):
        number = np.arange(begin, min(num_rows, begin + _BLOCK))
        item = np.minimum(np.searchsorted(chance, rng.random(len(number))), num_items - 1)
        score = np.where(rng.random(len(number)) < 0.45, 0, rng.integers(1, 11, len(number)))
        status = statuses[rng.integers(0, len(statuses), len(number))]
        columns = (number // _USER_ROWS, item, score, status)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        database.executemany("INSERT INTO user_anime VALUES (?,?,?,?)", rows)
    database.commit()
    database.close()
