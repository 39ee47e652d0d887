"""Fine-tuning batches: the right tokens and losses, the mixture asked for, exact positions."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from absl import flags

from pipelines.text.mixture import draw_counts, draws
from pipelines.text.prompts import Template
from pipelines.text.sft_batches import SftConfig, sft_batches
from tests.pipelines.text_data import (
    epoch_of,
    plain_tokenizer,
    sequences,
    sid_table,
    templates,
    text_log,
    titles,
    tokenizer,
)

CONFIG = SftConfig(8, 130, max_items=6, num_threads=0)
LAYOUT = {
    "instruction": "Under this line stands a question.\n\n### Question:\nWhat is next?\n\n",
    "input": "### Given: \nThe list is {history} so far.\n\n### Reply:\n",
    "item": '"{title}"',
    "separator": ", ",
    "response": "{sid}\n",
}
"""The blocks of MiniOneRec's prompts, in other words."""


def make(config=CONFIG, *, log=None, made=None, wording=None, seed=0, **options):
    return sft_batches(
        log or text_log(),
        sid_table(),
        made or tokenizer(),
        wording or templates(),
        config,
        seed=seed,
        **options,
    )


def sid(item):
    codes = sid_table().codes[item]
    return "".join(f"<{letter}_{code}>" for letter, code in zip("abc", codes, strict=True))


def change(**fields):
    return dataclasses.replace(CONFIG, **fields)


@pytest.mark.parametrize("bos", [None, 5])
def test_an_examples_tokens_are_bos_its_blocks_its_answer_and_the_end(bos):
    made = dataclasses.replace(tokenizer(), bos_token_id=bos)
    wording = {"titles_to_sid": Template.from_config("titles_to_sid", LAYOUT)}
    log = text_log()
    batches = make(change(row_tokens=None), log=log, made=made, wording=wording)
    expected = Counter()
    for _, start, stop in log.views("train"):
        target = log.columns["item"][stop]
        history = [
            f'"{titles()[item]}"'
            for item in log.columns["item"][max(start, stop - 6) : stop]
            if titles()[item] and item != target and {item, target} not in ({8, 9}, {20, 21})
        ]
        if not history:
            continue
        prompt = [] if bos is None else [bos]
        prompt += made.encode(LAYOUT["instruction"])
        prompt += made.encode(LAYOUT["input"].format(history=", ".join(history)))
        answer = [*made.encode(f"{sid(target)}\n"), made.eos_token_id]
        assert len(answer) == 5
        expected[tuple(prompt), tuple(answer)] += 1
    found = Counter()
    for prompt, answer in zip(*epoch_of(batches), strict=True):
        found[tuple(prompt.tolist()), tuple(answer.tolist())] += 1
    assert found == expected
    assert batches.num_examples == expected.total()


def test_a_history_may_stand_in_several_blocks_and_fits_all_the_same():
    entries = {"system": "So far {history}.\n", "input": "Again: {history}; next:\n"}
    wording = {"titles_to_sid": Template.from_config("titles_to_sid", LAYOUT | entries)}
    config = change(pack=False, row_tokens=None)
    whole = by_row(make(config, wording=wording))
    batches = make(dataclasses.replace(config, row_tokens=200), wording=wording)
    assert batches.tasks["titles_to_sid"]["shortened"] > 10
    cut = 0
    for row, (prompt, answer) in by_row(batches).items():
        first, middle, last = prompt.split("\n", 1)[0], LAYOUT["instruction"], prompt
        history = first.removeprefix("So far ").removesuffix(".")
        assert last == f"So far {history}.\n{middle}Again: {history}; next:\n"
        assert answer == whole[row][1]
        whole_history = whole[row][0].split("\n", 1)[0].removesuffix(".")
        assert whole_history.endswith(history)
        cut += whole[row][0] != prompt
    assert cut == batches.tasks["titles_to_sid"]["shortened"]


@pytest.mark.parametrize("pack", [True, False])
def test_rows_hold_whole_examples_with_the_loss_on_the_answer_alone(pack):
    batches = make(change(pack=pack))
    most = 0
    for number in range(batches.batches_per_epoch):
        batch = batches.batch_at(number)
        for row, prompt, answer in sequences(batch):
            assert answer[-1] == tokenizer().eos_token_id
            assert tokenizer().decode(answer).endswith("\n")
            assert tokenizer().eos_token_id not in [*prompt, *answer[:-1]]
            assert len(prompt) + len(answer) - 1 <= batches.row_size
            assert pack or batch["segment_ids"][row].max() == 1
        most = max(most, np.count_nonzero(batch["loss_mask"], axis=1).max())
        unused = batch["segment_ids"] == 0
        assert (batch["tokens"][unused] == tokenizer().pad_token_id).all()
    assert most == batches.max_loss_tokens
    assert pack == (batches.num_rows < batches.num_examples)
    assert pack == (batches.efficiency > 0.9)


def test_packed_and_padded_epochs_hold_the_same_examples():
    packed, padded = (
        Counter(
            (tuple(prompt.tolist()), tuple(answer.tolist()))
            for prompt, answer in zip(*epoch_of(make(change(pack=pack))), strict=True)
        )
        for pack in (True, False)
    )
    assert packed == padded


def by_row(batches):
    """Returns the prompt and the answer of each row, decoded; rows hold one example each."""
    found = {}
    for number in range(batches.batches_per_epoch):
        batch = batches.batch_at(number)
        for row, *pair in sequences(batch):
            found[int(batch["rows"][row])] = tuple(map(tokenizer().decode, pair))
    return found


def test_an_example_that_is_too_long_loses_its_oldest_items_and_never_its_answer():
    config = change(weights={"titles_to_sid": 1}, pack=False)
    whole, short = make(config), make(dataclasses.replace(config, row_tokens=80))
    report, before = short.tasks["titles_to_sid"], whole.tasks["titles_to_sid"]
    assert before["shortened"] == 0 < report["shortened"] < report["examples"]
    assert report["examples"] == before["examples"]
    cut = 0
    expected = by_row(whole)
    for row, (prompt, answer) in by_row(short).items():
        whole_prompt, whole_answer = expected[row]
        assert answer == whole_answer
        if prompt == whole_prompt:
            continue
        cut += 1
        head, items = prompt.split(":\n- ", 1)
        whole_head, whole_items = whole_prompt.split(":\n- ", 1)
        assert head == whole_head
        assert whole_items.endswith("\n- " + items)
        one_more = whole_items[: -len(items)].split("\n- ")[-2]
        instruction, text = f"{head}:\n- {one_more}\n- {items}".split("\n\n", 1)
        used = map(len, tokenizer().encode_batch([instruction + "\n\n", text, answer]))
        assert sum(used) > 80
    assert cut == report["shortened"]


def test_an_example_that_is_too_long_with_one_item_is_left_out_and_counted():
    batches = make(change(weights={"titles_to_title": 1, "sids_to_sid": 1}, row_tokens=50))
    report = batches.tasks["titles_to_title"]
    assert 0 < report["left_out"]["too_long"] < 200
    assert report["examples"] > 0
    with pytest.raises(ValueError, match=r"row_tokens=20: no example of task 'sids_to_sid' fits"):
        make(change(weights={"sids_to_sid": 1}, row_tokens=20))


def test_weights_are_shares_of_the_examples_drawn_and_zero_turns_a_task_off():
    weights = {"sids_to_sid": 2, "sid_to_title": 1.0, "titles_to_sid": 1, "title_to_sid": 0}
    batches = make(change(weights=weights))
    assert list(batches.tasks) == ["sids_to_sid", "sid_to_title", "titles_to_sid"]
    drawn = {name: task["drawn"] for name, task in batches.tasks.items()}
    total = sum(drawn.values())
    assert total == batches.num_examples == len(epoch_of(batches)[0])
    np.testing.assert_allclose([n / total for n in drawn.values()], [0.5, 0.25, 0.25], atol=0.005)
    asks = Counter(tokenizer().decode(answer).startswith("<a_") for answer in epoch_of(batches)[1])
    assert asks[False] == drawn["sid_to_title"]
    # Everything comes at least once, and nothing of a task more than once more than the others.
    for name, task in batches.tasks.items():
        assert task["drawn"] >= task["examples"], name


def test_draws_repeat_every_example_evenly():
    sizes, weights = {"one": 10, "two": 4, "three": 7}, {"one": 1.0, "two": 1.0, "three": 0.5}
    counts = draw_counts(sizes, weights)
    assert counts == {"one": 14, "two": 14, "three": 7}
    times = np.bincount(draws(sizes, counts, seed=3))
    assert set(times[:10]) == {1, 2}
    assert set(times[10:14]) == {3, 4}
    assert (times[14:] == 1).all()
    assert [times[:10].sum(), times[10:14].sum()] == [14, 14]
    assert draw_counts(sizes) == sizes
    with pytest.raises(ValueError, match=r"weights\['two'\]=1e-09: an epoch in which"):
        draw_counts(sizes, {"one": 1.0, "two": 1e-9, "three": 1.0})


def test_a_position_restores_exactly_in_every_epoch():
    batches = make(change(weights={"sids_to_sid": 1, "title_to_sid": 1}))
    count = 2 * batches.batches_per_epoch + 1
    expected = [batches.batch_at(number) for number in range(count)]
    assert (expected[0]["rows"] != expected[batches.batches_per_epoch]["rows"]).any()
    threads = make(change(weights={"sids_to_sid": 1, "title_to_sid": 1}, num_threads=2, prefetch=3))
    for start in (0, 1, batches.batches_per_epoch, count - 2):
        iterator = iter(threads)
        iterator.set_state(
            json.loads(json.dumps({**iter(batches).get_state(), "next_batch": start}))
        )
        for number in range(start, min(start + 3, count)):
            batch = next(iterator)
            assert batch.keys() == expected[number].keys()
            for key, value in batch.items():
                np.testing.assert_array_equal(value, expected[number][key], err_msg=key)
        assert iterator.get_state()["next_batch"] == number + 1
        iterator.close()


def test_a_worker_process_makes_the_same_batches():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    alone, worker = make(), make(change(num_workers=1, num_threads=1, prefetch=1))
    iterator = iter(worker)
    iterator.set_state({**iter(alone).get_state(), "next_batch": 5})
    for number in (5, 6):
        batch = next(iterator)
        for key, value in alone.batch_at(number).items():
            np.testing.assert_array_equal(batch[key], value, err_msg=key)
    iterator.close()


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("seed", {"seed": 1}),
        ("row_tokens", {"config": change(row_tokens=140)}),
        ("drawn", {"config": change(weights={"sids_to_sid": 1})}),
        ("pack", {"config": change(pack=False)}),
        ("data", {"wording": templates() | {
            "titles_to_sid": Template.from_config("titles_to_sid", LAYOUT)}}),
    ],
)  # fmt: skip
def test_a_position_of_another_stream_is_an_error(field, other):
    state = iter(make()).get_state()
    with pytest.raises(ValueError, match=f"loader state: {field} was"):
        iter(make(**other)).set_state(state)


def test_processes_take_slices_of_the_same_batches():
    whole = make().batch_at(3)
    halves = [make(process_index=i, process_count=2).batch_at(3) for i in range(2)]
    for key, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), value)
    with pytest.raises(ValueError, match="batch_size=8: must be a multiple of process_count=3"):
        make(process_count=3)


def test_a_batch_can_be_described():
    batches = make(change(batch_size=2, pack=False))
    text = batches.describe(batches.batch_at(0))
    assert text.startswith("batch 0 of seed 0, epoch 0: row ")
    assert text.count("item ") == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"max_items": 0}, "max_items=0: must be at least 1"),
        ({"row_tokens": 0}, "row_tokens=0: must be at least 1, or None"),
        ({"repeats": "no"}, "repeats='no': must be one of drop, leave_out, keep"),
        ({"weights": {"titles": 1}}, r"weights\['titles'\]: no such task; there are sids_to_sid"),
        ({"weights": {"sids_to_sid": -1}}, r"weights\['sids_to_sid'\]=-1: must be a finite"),
        ({"weights": {"sids_to_sid": "1"}}, r"weights\['sids_to_sid'\]='1': must be a finite"),
        ({"weights": {"sids_to_sid": 0}}, "at least one must be above 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        change(**fields)


def test_a_task_without_a_template_or_a_tokenizer_without_sid_tokens_is_an_error():
    wording = {name: template for name, template in templates().items() if name != "sids_to_sid"}
    with pytest.raises(ValueError, match=r"prompts\.sids_to_sid is missing: the task has the weig"):
        make(change(weights={"sids_to_sid": 1}), wording=wording)
    with pytest.raises(ValueError, match="'<a_0>' is not a token of the tokenizer"):
        make(made=plain_tokenizer())
