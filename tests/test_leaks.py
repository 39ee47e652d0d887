"""Nothing held out reaches what the model learns from.

Two logs that differ in their validation and test targets alone must give the same item vectors,
SIDs, vocabulary, counts, fitted baselines, likeness of items by their text, training and
fine-tuning batches, bit for bit. As a control, logs that differ in a training interaction must not.
"""

import csv
import itertools
import json

import numpy as np
import pytest

from configs import blocks
from configs.prompts import sft_prompts
from launch import make_sids
from minirec.recommend import ItemTransition, Popularity
from minirec.recommend.content import content_rows, nearest
from minirec.sids import SidVocab
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.text.answers import sid_names
from pipelines.text.prompts import TASKS, parse_templates
from pipelines.text.sft_batches import SftConfig, sft_batches
from pipelines.text.train_tokenizer import train_tokenizer

NUM_ITEMS, NUM_USERS = 40, 60
COLUMNS = (
    *("user_id", "history_item_title", "item_title", "history_item_id", "item_id"),
    *("history_item_sid", "item_sid"),
)


def random_log(rng):
    """The items of each user, oldest first; no repeats, so that any split is possible."""
    return [rng.permutation(NUM_ITEMS)[: rng.integers(5, 12)].tolist() for _ in range(NUM_USERS)]


def with_other_targets(log, rng):
    """The same log, but each user's last two items are others."""
    changed = []
    for items in log:
        unused = rng.permutation(np.setdiff1d(np.arange(NUM_ITEMS), items))
        changed.append(items[:-2] + unused[:2].tolist())
    return changed


def with_another_training_item(log, rng):
    del rng
    changed = [list(items) for items in log]
    changed[0][0], changed[0][1] = changed[0][1], changed[0][0]
    changed[1][0] = next(item for item in range(NUM_ITEMS) if item not in changed[1])
    return changed


def leave_one_out(log, folder):
    """The text layout, split by `leave_one_out`."""
    folder.mkdir()
    lines = [" ".join(map(str, [user + 1, *items])) for user, items in enumerate(log)]
    (folder / "log.txt").write_text("\n".join(lines) + "\n")
    attributes = {str(item): [item % 7, 7 + item % 3] for item in range(NUM_ITEMS)}
    (folder / "attributes.json").write_text(json.dumps(attributes))
    source = {
        "name": "sasrec",
        "folder": str(folder),
        "interactions": "log.txt",
        "attributes": "attributes.json",
    }
    return {"source": source, "k_core": 0, "split": {"name": "leave_one_out"}}


def as_given(log, folder):
    """MiniOneRec's layout: rows of (history, target), split by file.

    Every third user has no training rows, so that what stands before the held-out targets is known
    from their histories alone.
    """
    sids = {str(i): [f"<a_{i % 5}>", f"<b_{i % 8}>", f"<c_{i}>"] for i in range(NUM_ITEMS)}
    rows = {"train": [], "valid": [], "test": []}
    for user, items in enumerate(log):
        for place in range(1, len(items)):
            split = {len(items) - 2: "valid", len(items) - 1: "test"}.get(place, "train")
            if split != "train" or user % 3:
                rows[split].append((user, items[max(0, place - 10) : place], items[place]))
    for split, lines in rows.items():
        (folder / split).mkdir(parents=True)
        with (folder / split / "set.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for user, history, target in lines:
                titles, codes = (
                    [f"item {i}" for i in history],
                    ["".join(sids[str(i)]) for i in history],
                )
                sid = "".join(sids[str(target)])
                writer.writerow([f"u{user}", titles, f"item {target}", history, target, codes, sid])
    (folder / "index").mkdir()
    (folder / "index" / "set.index.json").write_text(json.dumps(sids))
    texts = {
        str(i): {"title": f"item {i}", "description": f"word{i % 4}", "brand": "", "categories": ""}
        for i in range(NUM_ITEMS)
    }
    (folder / "index" / "set.item.json").write_text(json.dumps(texts))
    return {
        "source": {"name": "minionerec", "folder": str(folder), "train_on_context": True},
        "k_core": 0,
        "split": {"name": "as_given"},
    }


def all_that_is_learnt_from(data_config, folder) -> dict[str, np.ndarray]:
    prepare(data_config, folder)
    prepared = Prepared.load(folder)
    config = blocks.sid("leaks")
    config.sids.codebook_sizes = (4, 4)
    config.sids.dim = 8
    config.sids.vectors = "both"
    table = make_sids.make_table(prepared, config.sids, seed=0).table
    vocab = SidVocab.from_table(table)
    item, offsets = prepared.training_items()
    histories = [np.arange(user, user + 3) for user in range(10)]
    transition = ItemTransition(item, offsets, prepared.num_items)
    # What is written about an item is known before its first sale, also where it is a target.
    items = prepared.items
    like = nearest(content_rows(items["title"].to_list(), items["attributes"].to_list()))
    learnt = {
        "vectors": make_sids.item_vectors(prepared, config.sids, seed=0)[0],
        "codes": table.codes,
        "vocabulary": np.array(vocab.token_strings),
        "train_count": prepared.train_count,
        "popularity": Popularity(item, prepared.num_items).counts,
        "likeness": np.concatenate([like.offsets, like.item, like.cosine]),
        "transition": transition.recommend(histories, 20, exclude_seen=False),
    }
    for examples, first_items in itertools.product(("windows", "histories"), (False, True)):
        batches = train_batches(
            prepared,
            BatchConfig(
                batch_size=8,
                max_items=6,
                examples=examples,
                pack=examples == "histories",
                first_items=first_items,
            ),
            seed=0,
        )
        for index in range(batches.batches_per_epoch):
            for name, value in batches.batch_at(index).items():
                learnt[f"{examples}, {first_items}, batch {index}, {name}"] = value
    titled = bool(prepared.items["title"].to_list()[0])
    tasks = {name: 1.0 for name in TASKS if titled or name == "sids_to_sid"}
    batches = sft_batches(
        prepared,
        table,
        train_tokenizer(prepared.titles, 300).with_sid_tokens(sid_names(table)),
        parse_templates(sft_prompts()),
        SftConfig(16, max_items=6, weights=tasks),
        seed=0,
    )
    for index in range(batches.batches_per_epoch):
        for name, value in batches.batch_at(index).items():
            learnt[f"fine-tuning, batch {index}, {name}"] = value
    return learnt


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not np.array_equal(one[name], other[name])]


@pytest.mark.parametrize("split", [leave_one_out, as_given])
def test_held_out_targets_change_nothing_that_is_learnt(split, tmp_path):
    rng = np.random.default_rng(0)
    log = random_log(rng)
    one = all_that_is_learnt_from(split(log, tmp_path / "raw"), tmp_path / "one")
    changed = split(with_other_targets(log, rng), tmp_path / "raw2")
    other = all_that_is_learnt_from(changed, tmp_path / "other")
    views = [np.array(Prepared.load(tmp_path / x).targets("test")) for x in ("one", "other")]
    assert (views[0] != views[1]).all()
    assert not differing(one, other)


@pytest.mark.parametrize("split", [leave_one_out, as_given])
def test_the_check_sees_a_changed_training_interaction(split, tmp_path):
    rng = np.random.default_rng(0)
    log = random_log(rng)
    one = all_that_is_learnt_from(split(log, tmp_path / "raw"), tmp_path / "one")
    changed = split(with_another_training_item(log, rng), tmp_path / "raw2")
    other = all_that_is_learnt_from(changed, tmp_path / "other")
    found = differing(one, other)
    assert {"vectors", "train_count", "popularity"} <= set(found)
    assert any("item" in name for name in found if name.startswith(("windows", "histories")))
    assert any("targets" in name for name in found if name.startswith("fine-tuning"))
