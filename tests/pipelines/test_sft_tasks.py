"""The five tasks: what they show and ask, and that no prompt holds its own answer."""

from collections import Counter

import numpy as np
import pytest

from configs.prompts import sft_prompts
from minirec.sids import SidTable
from pipelines.prepare.prepare import prepare
from pipelines.prepared import Prepared
from pipelines.text.answers import sid_names
from pipelines.text.item_texts import item_texts
from pipelines.text.prompts import TASKS, parse_templates
from pipelines.text.sft_batches import SftConfig, sft_batches
from pipelines.text.sft_tasks import task_examples
from pipelines.text.train_tokenizer import train_tokenizer
from tests.pipelines.text_data import (
    NUM_ITEMS,
    epoch_of,
    sid_table,
    templates,
    text_log,
    titles,
    tokenizer,
)

MAX_ITEMS = 6


def make(name, log=None, template=None, **options):
    log = text_log() if log is None else log
    texts = item_texts(log, sid_table(), tokenizer())
    template = template or templates()[name]
    return task_examples(template, log, texts, max_items=MAX_ITEMS, **options)


def examples_of(made):
    offsets = made.shown.offsets
    return [
        (made.shown.items[offsets[row] : offsets[row + 1]].tolist(), int(made.target[row]))
        for row in range(len(made))
    ]


def histories(log):
    for _, start, stop in log.views("train"):
        if stop > start:
            shown = log.columns["item"][max(start, stop - MAX_ITEMS) : stop]
            yield shown.tolist(), int(log.columns["item"][stop])


def is_alike(one, other):
    """By hand: 8 and 9 share their title, 20 and 21 their SID."""
    return one == other or {one, other} in ({8, 9}, {20, 21})


def holds_title(name, target):
    return titles()[target] and titles()[target] in name


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.history])
def test_a_history_task_shows_what_does_not_give_the_target_away(name):
    log, task = text_log(), TASKS[name]
    expected, dropped = [], 0
    for shown, target in histories(log):
        kept = [item for item in shown if not is_alike(item, target)]
        if task.shows == "title":
            kept = [item for item in kept if titles()[item]]
        if task.shows == task.asks == "title":
            kept = [item for item in kept if not holds_title(titles()[item], target)]
        if kept and (task.asks == "sid" or titles()[target]):
            expected.append((kept, target))
            dropped += kept != shown
    made = make(name, log)
    assert examples_of(made) == expected
    assert dropped > 5
    assert made.dropped_items > 5
    total = len(list(histories(log)))
    assert sum(made.left_out.values()) - made.left_out.get("without_history", 0) == total - len(
        expected
    )


def test_examples_can_be_left_out_or_kept_instead():
    log = text_log()
    left_out = make("sids_to_sid", log, repeats="leave_out")
    assert examples_of(left_out) == [
        (shown, target)
        for shown, target in histories(log)
        if not any(is_alike(item, target) for item in shown)
    ]
    assert left_out.left_out["answer_in_history"] > 5
    kept = make("sids_to_sid", log, repeats="keep")
    assert examples_of(kept) == list(histories(log))


def test_the_catalogue_tasks_have_an_example_for_each_pair_of_sid_and_title():
    for name in ("sid_to_title", "title_to_sid"):
        made = make(name)
        with_title = [item for item in range(NUM_ITEMS) if item != 10]
        assert examples_of(made) == [([item], item) for item in with_title]
        assert (made.user == -1).all()
    texts = titles()
    texts[21] = texts[20]
    made = make("sid_to_title", text_log(texts=texts))
    assert 21 not in made.target.tolist()
    assert made.left_out["same_sid_and_title"] == 1


def test_an_answer_that_the_templates_own_words_hold_is_left_out():
    config = sft_prompts()
    config.sid_to_title.instruction = "Which Glue or Hinge is that?"
    made = make("sid_to_title", template=parse_templates(config)["sid_to_title"])
    assert made.left_out["answer_in_prompt"] == 2
    assert not {titles().index("Glue"), titles().index("Hinge")} & set(made.target.tolist())


def test_a_catalogue_without_titles_has_no_examples_of_titles():
    log = text_log(texts=[None] * NUM_ITEMS)
    assert len(make("sids_to_sid", log))
    for name in ("sid_to_title", "title_to_sid", "titles_to_sid", "sids_to_title"):
        with pytest.raises(ValueError, match=f"task '{name}' has no examples .*give it the weight"):
            make(name, log)


def test_a_table_of_another_catalogue_is_an_error():
    table = sid_table()
    other = SidTable(table.raw_item_ids[::-1], table.codes, table.codebook_sizes)
    with pytest.raises(ValueError, match="they differ from item 0 on"):
        item_texts(text_log(), other, tokenizer())


def test_weights_of_events_are_the_losses_weights():
    import dataclasses

    log = text_log()
    events = np.arange(len(log.columns["item"]), dtype=np.int32) % 3
    log = dataclasses.replace(
        log,
        columns=log.columns | {"event": events},
        event_weights={"view": 0.0, "cart": 0.5, "buy": 1.0},
    )
    made, all_of_them = make("sids_to_sid", log), make("sids_to_sid")
    assert set(made.weight.tolist()) == {0.5, 1.0}
    assert 0 < made.left_out["weight_0"] < len(all_of_them)


def check_no_answer_in_prompts(batches, tokenizer, table, titles):
    """Returns how many prompts hold their answer, or the other name of the item asked for."""
    sid_of = [
        "".join(f"<{'abc'[level]}_{code}>" for level, code in enumerate(row)) for row in table
    ]
    titles_of, sids_of = {}, {}
    for sid, title in zip(sid_of, titles, strict=True):
        titles_of.setdefault(sid, set()).add(title)
        sids_of.setdefault(title, set()).add(sid)
    found, asked = Counter(), Counter()
    prompts, answers = epoch_of(batches)
    assert all(answer[-1] == tokenizer.eos_token_id for answer in answers)
    for text, asks in zip(*map(tokenizer.decode_batch, (prompts, answers)), strict=True):
        assert asks.endswith("\n")
        asks = asks.removesuffix("\n")
        kind = "sid" if asks in titles_of else "title"
        assert kind == "sid" or asks in sids_of
        asked[kind] += 1
        found["answer"] += asks in text
        other = titles_of[asks] if kind == "sid" else sids_of[asks]
        history = "oldest first" in text
        if history and len(other) == 1:
            (name,) = other
            found["other_name"] += (f"- {name}\n" if kind == "sid" else name) in text
    assert min(asked["sid"], asked["title"]) > 100
    return found


@pytest.fixture(scope="module")
def industrial(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("industrial")
    source = {"name": "minionerec", "folder": str(real_data / "amazon_industrial")}
    prepare({"source": source, "k_core": 0, "split": {"name": "as_given"}}, folder)
    prepared = Prepared.load(folder)
    (path,) = (real_data / "amazon_industrial" / "index").glob("*.index.json")
    table = SidTable.load(path, prepared.raw_item_ids)
    made = train_tokenizer(prepared.titles, 2048).with_sid_tokens(sid_names(table))
    return prepared, table, made


def test_no_prompt_of_the_real_data_holds_its_own_answer(industrial):
    prepared, table, made = industrial
    names = [made.plain(title) for title in prepared.titles]
    config = SftConfig(64, 512, num_threads=0)
    batches = sft_batches(prepared, table, made, templates(), config, seed=0)
    assert not sum(check_no_answer_in_prompts(batches, made, table.codes, names).values())
    assert sum(task["drawn"] for task in batches.tasks.values()) > 47_000


def test_no_generated_prompt_holds_its_own_answer_and_the_check_sees_one_that_does():
    table, log = sid_table(), text_log(100)
    for repeats, expected in (("drop", False), ("leave_out", False), ("keep", True)):
        config = SftConfig(16, 256, repeats=repeats, num_threads=0)
        batches = sft_batches(log, table, tokenizer(), templates(), config, seed=0)
        found = check_no_answer_in_prompts(batches, tokenizer(), table.codes, titles())
        assert (found["answer"] > 10) == (found["other_name"] > 10) == expected, repeats
        assert expected or not sum(found.values())
