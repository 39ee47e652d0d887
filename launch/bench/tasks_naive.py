"""The rows of `launch.tasks` as one would first write them: row by row, in plain Python.

The same eight steps with dicts, lists and `random`; the yardstick of the benchmark `tasks`. Draws
differ, kinds, shares and limits of rows do not.
"""

from __future__ import annotations

import collections
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

from pipelines.text.watch_config import WatchConfig
from pipelines.text.watch_draw import stands_in


def make_rows(config: WatchConfig, path: Path) -> int:
    """Writes the rows to a file, and returns how many.

    Args:
        config: settings of `launch.tasks`, without an order.
        path: the JSON-lines file.
    """
    words, columns, draw = config.said, config.columns, random.Random(config.seed)
    sids = {}
    with config.sid_file.open() as file:
        for line in file:
            value = json.loads(line)
            sids[value[config.sid_id]] = value["semantic_id"]
    database = sqlite3.connect(f"file:{config.database}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    facts: dict[int, dict[str, str]] = {}
    for row in database.execute(f'SELECT * FROM "{columns.items}"'):
        item = row[columns.item_id]
        if item in sids:
            facts[item] = {
                name: str(row[column] or "")
                for name in ("title", "genres", "studios", "year", "season", "type", "source")
                if (column := getattr(columns, name))
            } | {"sid": sids[item], "synopsis": "", "themes": ""}
    pools: dict[str, list[dict[str, Any]]] = {"A": [], "B": [], "C": []}
    for item, values in facts.items():
        found = []
        for fact in words.facts:
            if not all(values[name] for name in fact.fields):
                continue
            prompt, answer = fact.input.format(**values), fact.output.format(**values)
            if not stands_in(answer, prompt):
                found.append(_row(prompt, answer, [item], None, fact.name))
        draw.shuffle(found)
        pools["A"] += found[: config.max_task_a_templates_per_anime]
    lists: dict[int, list[tuple[int, str]]] = collections.defaultdict(list)
    for row in database.execute(f'SELECT * FROM "{columns.lists}"'):
        item, score = row[columns.list_item], row[columns.list_score]
        status = row[columns.list_status]
        if status not in config.task_b_allowed_statuses or item not in sids:
            continue
        mark = "disliked" if 1 <= score <= 3 else "watch"
        mark = "liked" if score >= config.task_b_positive_score_min else mark
        mark = "dropped" if status == config.dropped_status else mark
        lists[row[columns.list_user]].append((item, mark))
    database.close()
    kept = {}
    for user, entries in lists.items():
        if draw.random() >= config.hold_out.users:
            draw.shuffle(entries)
            kept[user] = entries[int(len(entries) * config.hold_out.items) :]

    def entry(item: int, mark: str) -> str:
        return words.entry.format(sid=sids[item], mark=words.marks[mark])

    quota = {
        "A": round(config.target_examples * config.split_task_a),
        "B": round(config.target_examples * config.split_task_b),
    }
    quota["C"] = config.target_examples - sum(quota.values())
    users = [user for user, entries in kept.items() if len(entries) > config.task_b_min_history]
    for number in range(quota["B"]):
        entries = kept[users[number % len(users)]]
        able = [one for one in entries if one[1] in config.task_b_mask_marks]
        if not able:
            continue
        answer = draw.choice(able)
        others = [one for one in entries if one[0] != answer[0]]
        shown = draw.sample(others, min(config.task_b_max_history, len(others)))
        history = words.between.join([*(entry(*one) for one in shown), words.hidden])
        prompt = words.mask_random.format(history=history)
        ids = [item for item, _ in shown] + [answer[0]]
        user = users[number % len(users)]
        pools["B"].append(_row(prompt, sids[answer[0]], ids, user, "random"))
    for number in range(quota["C"]):
        user = users[number % len(users)]
        liked = [item for item, mark in kept[user] if mark == "liked" and item in facts]
        wanted = config.task_c_liked[number % len(config.task_c_liked)]
        groups = collections.defaultdict(list)
        for item in liked:
            for genre in facts[item]["genres"].split(columns.separator):
                groups[genre].append(item)
        able = [group for genre, group in groups.items() if genre and len(group) > wanted]
        if not able:
            continue
        picked = draw.sample(draw.choice(able), wanted + 1)
        shared = set.intersection(
            *(set(facts[item]["genres"].split(columns.separator)) for item in picked)
        )
        prompt = words.liked[str(wanted)].format(
            history=words.between.join(entry(item, "liked") for item in picked[:-1])
        )
        told = words.shared["genres"].format(values=", ".join(sorted(shared)))
        answer = words.reason.format(shared=told, sid=sids[picked[-1]])
        pools["C"].append(_row(prompt, answer, picked, user, f"liked_{wanted}"))
    rows = []
    for task, pool in pools.items():
        for number in range(quota[task]):
            rows.append({"task": task} | pool[number % len(pool)])
    draw.shuffle(rows)
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            head = {"example_id": f"{row['task']}-{number:07d}"}
            file.write(json.dumps(head | row, ensure_ascii=False) + "\n")
    return len(rows)


def _row(prompt: str, answer: str, items: list[int], user: int | None, name: str) -> dict[str, Any]:
    return {
        "input": prompt,
        "output": answer,
        "anime_ids": items,
        "user_id": user,
        "meta": {"template": name, "shown": len(items)},
    }
