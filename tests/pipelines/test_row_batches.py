"""Rows as batches: what is predicted, mixtures, weights of general text, exact positions."""

import json

import numpy as np
import polars as pl
import pytest

from pipelines.text.general_text import read_general
from pipelines.text.row_batches import EncodedRows, RowsConfig, row_batches
from pipelines.text.train_tokenizer import train_tokenizer

TURNS = {"system": "{text}\n", "human": "Q: {text}\nA: ", "gpt": "{text}\n"}
PROMPTS = [f"What is {n}? " for n in range(30)]
ANSWERS = [f"It is {n * n}." for n in range(30)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*PROMPTS, *ANSWERS], 300)


@pytest.fixture(scope="module")
def parts(tokenizer):
    ids, _ = tokenizer.encode_flat(["some general text of a few words " * 12])
    return {
        "A": EncodedRows.of_texts(PROMPTS[:20], ANSWERS[:20], tokenizer),
        "B": EncodedRows.of_texts(PROMPTS[20:], ANSWERS[20:], tokenizer),
        "general": EncodedRows.of_stream(ids, tokenizer.eos_token_id, 16),
    }


def make(parts, weights, tokenizer, even_out=(), **options):
    config = RowsConfig(**{"batch_size": 4, "num_threads": 0} | options)
    return row_batches(
        parts, weights, config, seed=3, pad=tokenizer.pad_token_id, even_out=even_out
    )


def test_answers_are_predicted_and_prompts_are_given(parts, tokenizer):
    stream = make({"A": parts["A"]}, {"A": 1.0}, tokenizer, pack=False)
    seen = set()
    for number in range(stream.batches_per_epoch):
        batch = stream.batch_at(number)
        for row in range(4):
            mask = batch["loss_mask"][row] > 0
            said = tokenizer.decode(batch["targets"][row][mask])
            real = batch["segment_ids"][row] > 0
            whole = tokenizer.decode(batch["tokens"][row][real])
            prompt = PROMPTS[ANSWERS.index(said)]
            assert whole == prompt + said
            assert batch["targets"][row][mask][-1] == tokenizer.eos_token_id
            seen.add(said)
    assert seen == set(ANSWERS[:20])


def test_a_mixture_has_its_shares_and_even_out_those_of_the_loss(parts, tokenizer):
    weights = {"A": 0.6, "B": 0.25, "general": 0.15}
    stream = make(parts, weights, tokenizer, even_out=("general",))
    total = sum(stream.drawn.values())
    for name, share in weights.items():
        assert stream.drawn[name] / total == pytest.approx(share, abs=0.03)
        assert stream.drawn[name] >= len(parts[name])
    general = everything = 0.0
    for number in range(stream.batches_per_epoch):
        mask = stream.batch_at(number)["loss_mask"]
        everything += mask.sum()
        # The tasks' weights are 1 each; those of general text are another.
        general += mask[(mask > 0) & (mask != 1)].sum()
    assert general / everything == pytest.approx(0.15, abs=0.04)


def test_the_stream_goes_on_where_its_state_says(parts, tokenizer):
    weights = {"A": 0.5, "B": 0.5}
    whole = iter(make(parts, weights, tokenizer))
    batches = [next(whole) for _ in range(5)]
    first = iter(make(parts, weights, tokenizer, num_threads=2))
    for _ in range(2):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    again = iter(make(parts, weights, tokenizer))
    again.set_state(state)
    for batch in batches[2:]:
        for name, value in next(again).items():
            np.testing.assert_array_equal(value, batch[name])
    other = iter(make(parts, {"A": 0.9, "B": 0.1}, tokenizer))
    with pytest.raises(ValueError, match="drawn"):
        other.set_state(state)


def test_rows_too_long_are_left_out_and_counted(tokenizer):
    rows = EncodedRows.of_texts(["a " * 50, "b "], ["c", "d"], tokenizer, row_tokens=20)
    assert (len(rows), rows.left_out) == (1, 1)
    stream = make({"A": rows}, {"A": 1.0}, tokenizer, row_tokens=20)
    assert "A row 0" in stream.describe(stream.batch_at(0))
    none = EncodedRows.of_texts(["a " * 50], ["c"], tokenizer, row_tokens=20)
    with pytest.raises(ValueError, match="1 are longer than row_tokens=20"):
        make({"A": none}, {"A": 1.0}, tokenizer, row_tokens=20)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"A": 0.0}, "at least one must be above 0"),
        ({"A": -1.0}, r"weights\['A'\]=-1\.0"),
        ({"C": 1.0}, r"weights\['C'\]: there are A, B, general"),
    ],
)
def test_weights_that_cannot_be_are_named(parts, tokenizer, weights, message):
    with pytest.raises(ValueError, match=message):
        make(parts, weights, tokenizer)


RECORDS = [
    (
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi?"},
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "Bye?"},
                {"from": "gpt", "value": "Bye."},
                {"from": "human", "value": "And?"},
            ]
        },
        ("Be kind.\nQ: Hi?\nA: Hello.\nQ: Bye?\nA: ", "Bye.\n"),
    ),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        ("Q: x\nA: ", "y\n"),
    ),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, ("Q: Add.\n1 2\nA: ", "3\n")),
    ({"prompt": "p", "response": "r"}, ("Q: p\nA: ", "r\n")),
]


def test_instructions_of_every_layout_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record, _ in RECORDS))
    assert read_general(path, TURNS).pairs == tuple(pair for _, pair in RECORDS)
    assert len(read_general(path, TURNS, most=2)) == 2
    (tmp_path / "b.jsonl").write_text('{"text": "plain"}\n')
    assert read_general(tmp_path / "b.jsonl", TURNS).texts == ("plain",)
    pl.DataFrame([record for record, _ in RECORDS[3:]]).write_parquet(tmp_path / "c.parquet")
    assert read_general(tmp_path / "c.parquet", TURNS).pairs == (RECORDS[3][1],)
    (tmp_path / "d.txt").write_text("all of it\n")
    assert read_general(tmp_path / "d.txt", TURNS).texts == ("all of it\n",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": 1}', r"a\.jsonl, line 1: holds x; expected conversations"),
        ('{"text": ""}', "line 1: holds text"),
        ('{"prompt": "p"}', "prompt and response must both be texts"),
        ('{"messages": []}', r"messages is \[\]: must be a list"),
        ('{"messages": [{"role": "judge", "content": "x"}]}', r"messages\[0\] is"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "there is no answer behind"),
        ("", "holds no records"),
        ("{", "line 1: not JSON"),
    ],
)
def test_records_that_are_none_are_named(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_general(tmp_path / "a.jsonl", TURNS)
