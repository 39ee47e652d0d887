"""Small watch lists in an SQLite file, a file of SIDs, and settings that fit them."""

import json
import sqlite3

import numpy as np

from configs.watch_words import watch_words
from pipelines.text.watch_config import WatchConfig

NUM_ITEMS, NUM_USERS, LEVELS, CODES = 60, 40, 3, 8
GENRES = ("Drama", "Comedy", "Space", "Sports")
STUDIOS = ("North", "South", "East")


def spelled(codes):
    return [f"<L{level + 1}_{code}>" for level, code in enumerate(codes)]


def sid_lines(num_items=NUM_ITEMS):
    lines = []
    for item in range(num_items):
        codes = [item // CODES % CODES, item % CODES, item // (CODES * CODES)]
        tokens = spelled(codes)
        lines.append(
            {
                "anime_id": 10 + 3 * item,
                "name": f"Series {item}",
                "semantic_id": "".join(tokens),
                "tokens": tokens,
                "codes": codes,
            }
        )
    return lines


def items(num_items=NUM_ITEMS):
    """Every seventh has no studio, every ninth no year; the last two have no metadata at all."""
    rows = []
    for item in range(num_items - 2):
        genres = ", ".join(sorted({GENRES[item % 4], GENRES[item // 4 % 4]}))
        year = None if item % 9 == 8 else 1990 + item % 30
        rows.append(
            (
                10 + 3 * item,
                f"Name {item}",
                "Unknown" if item % 5 == 4 else f"Series {item}",
                genres,
                None,
                ("TV", "Movie")[item % 2],
                None if year is None else f"Spring {year}",
                year,
                None if item % 7 == 6 else STUDIOS[item % 3],
                "Manga" if item % 2 else "Unknown",
            )
        )
    return rows


def lists(num_users=NUM_USERS, num_items=NUM_ITEMS, seed=0):
    """Rows (user, item, score, status, seen_at); statuses 1, 2, 3, 4 and 6."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(num_users):
        size = int(rng.integers(2, 30))
        for place, item in enumerate(rng.permutation(num_items)[:size].tolist()):
            status = int(rng.choice([1, 2, 2, 2, 3, 4, 6]))
            score = 0 if status == 6 else int(rng.integers(0, 11))
            moment = f"2020-01-{place % 28 + 1:02d}T{user % 24:02d}:00:00+00:00"
            rows.append((user + 5, 10 + 3 * item, score, status, moment))
    return rows


def write(folder, *, sids=None, of_items=None, of_lists=None):
    """Writes lists.sqlite and sids.jsonl."""
    lines = sid_lines() if sids is None else sids
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "sids.jsonl").write_text(text)
    path = folder / "lists.sqlite"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as file:
        file.execute(
            "CREATE TABLE anime (anime_id INTEGER, name TEXT, english_name TEXT, genres TEXT, "
            "synopsis TEXT, type TEXT, premiered TEXT, year INTEGER, studios TEXT, source TEXT)"
        )
        file.execute(
            "CREATE TABLE user_anime (user_id, anime_id, score, watching_status, seen_at TEXT)"
        )
        rows = items() if of_items is None else of_items
        file.executemany(f"INSERT INTO anime VALUES ({', '.join('?' * 10)})", rows)
        rows = lists() if of_lists is None else of_lists
        file.executemany("INSERT INTO user_anime VALUES (?, ?, ?, ?, ?)", rows)
    file.close()
    return folder


def config(folder, **changes):
    fields = {
        "folder": str(folder),
        "source_db": "lists.sqlite",
        "semantic_ids_path": "sids.jsonl",
        "words": watch_words().to_dict(),
        "target_examples": 400,
        "task_b_mask_modes": ("random",),
        "task_b_max_history": 6,
        "export_parquet": False,
    }
    return WatchConfig.from_mapping(fields | changes)


def read(folder):
    with (folder / "llm_prep_train.jsonl").open() as file:
        return [json.loads(line) for line in file]
