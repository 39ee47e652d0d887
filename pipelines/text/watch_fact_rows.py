"""Task A: what SID has which metadata, and the other way round."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32, Int64

from pipelines.text.watch_catalogue import WatchCatalogue
from pipelines.text.watch_config import WatchConfig
from pipelines.text.watch_draw import stands_in


@dataclasses.dataclass(frozen=True, eq=False)
class FactRows:
    """Rows of task A; no two have the same input and output.

    Attributes:
        catalogue: the items.
        config: the wording.
        item: row of the catalogue of each row.
        template: place in the wording's facts.
    """

    catalogue: WatchCatalogue
    config: WatchConfig
    item: Int32[np.ndarray, " n"]
    template: Int16[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.item)

    def row(self, number: int) -> dict[str, Any]:
        """Returns a row without its id and task."""
        item = int(self.item[number])
        fact = self.config.said.facts[self.template[number]]
        values = _values(self.catalogue, item)
        return {
            "input": fact.input.format(**values),
            "output": fact.output.format(**values),
            "anime_ids": [int(self.catalogue.item_id[item])],
            "user_id": None,
            "meta": {"template": fact.name, "shown": 1},
        }


def fact_rows(config: WatchConfig, catalogue: WatchCatalogue) -> tuple[FactRows, dict[str, int]]:
    """Returns all rows of task A, and how many were left out and why.

    A template needs all its facts. A row is left out where (a part of) its answer stands in its
    prompt, and where a prompt fits several items, so that its answer is one of several. Of more
    than `max_task_a_templates_per_anime` rows of an item some are drawn.

    Args:
        config: templates, limit and seed.
        catalogue: the items.
    """
    counts = dict.fromkeys(("answer_in_prompt", "ambiguous", "over_limit"), 0)
    items: list[np.ndarray] = []
    templates: list[np.ndarray] = []
    everyone = [_values(catalogue, item) for item in range(len(catalogue))]
    for number, fact in enumerate(config.said.facts):
        found, prompts = [], []
        for item, values in enumerate(everyone):
            if not all(values[name] for name in fact.fields):
                continue
            prompt = fact.input.format(**values)
            answers = [
                part
                for name in fact.asked
                for part in (catalogue.parts[name][item] if name in catalogue.parts else ())
                or (values[name],)
            ]
            if any(stands_in(answer, prompt) for answer in answers):
                counts["answer_in_prompt"] += 1
                continue
            found.append(item)
            prompts.append(prompt)
        kept = np.array(found, np.int32)
        if fact.asks_sid and prompts:
            _, which, times = np.unique(prompts, return_inverse=True, return_counts=True)
            is_one = times[which] == 1
            counts["ambiguous"] += int(np.count_nonzero(~is_one))
            kept = kept[is_one]
        items.append(kept)
        templates.append(np.full(len(kept), number, np.int16))
    item, template = np.concatenate(items), np.concatenate(templates)
    rng = np.random.default_rng([config.seed, 1])
    drawn = rng.permutation(len(item))
    order = drawn[np.argsort(item[drawn], kind="stable")]
    place = np.arange(len(order)) - np.searchsorted(item[order], item[order])
    within = place < config.max_task_a_templates_per_anime
    counts["over_limit"] = int(np.count_nonzero(~within))
    kept_rows: Int64[np.ndarray, " n"] = np.sort(order[within])
    return FactRows(catalogue, config, item[kept_rows], template[kept_rows]), counts


def _values(catalogue: WatchCatalogue, item: int) -> dict[str, str]:
    values = {name: column[item] for name, column in catalogue.facts.items()}
    return values | {"sid": catalogue.sids[item]}
