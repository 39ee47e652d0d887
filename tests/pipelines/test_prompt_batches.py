"""Evaluation prompts: what fine-tuning shows, every view once, few shapes."""

import numpy as np
import pytest

from pipelines.batches.eval_batches import eval_batches
from pipelines.text.prompt_batches import prompt_batches
from tests.pipelines.text_data import sid_table, templates, text_log, titles, tokenizer

MAX_ITEMS = 6


def make(split="test", name="sids_to_sid", log=None, **options):
    options = {"batch_size": 8, "max_items": MAX_ITEMS, "bucket_tokens": 8} | options
    return prompt_batches(
        log or text_log(), split, sid_table(), tokenizer(), templates()[name], **options
    )


def rows_of(batches):
    """Returns each view's prompt, as ids, and the other fields."""
    found = {}
    for batch in batches:
        assert (batch["tokens"].shape[1], batch["history"].shape[1]) in batches.shapes
        assert batch["tokens"].shape[1] - batch["lengths"].max() < 8
        unseen = np.arange(batch["tokens"].shape[1]) >= batch["lengths"][:, None]
        assert (batch["tokens"][unseen] == tokenizer().pad_token_id).all()
        assert (batch["lengths"] >= 1).all()
        for place, row in enumerate(batch["row"].tolist()):
            assert (row >= 0) == batch["valid"][place]
            if row < 0:
                assert batch["target"][place] == batch["user"][place] == -1
                assert (batch["history"][place] == -1).all()
                continue
            history = batch["history"][place]
            assert row not in found
            found[row] = {
                "prompt": batch["tokens"][place, : batch["lengths"][place]].tolist(),
                "history": history[history >= 0].tolist(),
                "target": batch["target"][place],
                "user": batch["user"][place],
            }
    return found


@pytest.mark.parametrize("name", ["sids_to_sid", "titles_to_sid"])
def test_a_prompt_is_the_templates_with_the_newest_history_as_it_is(name):
    log, template = text_log(), templates()[name]
    found = rows_of(make(name=name, log=log))
    item, table = log.columns["item"], sid_table()
    assert len(found) == len(log.views("test"))
    for row, (user, start, stop) in enumerate(log.views("test").tolist()):
        history = item[start:stop].tolist()
        assert found[row]["history"] == history
        assert (found[row]["user"], found[row]["target"]) == (user, item[stop])
        written = []
        for shown in history[-MAX_ITEMS:]:
            a, b, c = table.codes[shown]
            text = f"<a_{a}><b_{b}><c_{c}>" if name == "sids_to_sid" else titles()[shown]
            written += [template.item.format(sid=text, title=text)] if text else []
        text = template.separator.join(written)
        expected = [
            *tokenizer().encode(template.instruction),
            *tokenizer().encode(template.input.format(history=text)),
        ]
        assert found[row]["prompt"] == expected


def test_views_targets_and_histories_are_those_of_the_eval_batches():
    log = text_log()
    others = eval_batches(log, "test", batch_size=8, max_items=3, max_users=11, seed=4)
    found = rows_of(make(log=log, max_users=11, seed=4))
    batches = list(others)
    rows = np.concatenate([batch["row"] for batch in batches])
    assert sorted(rows[rows >= 0].tolist()) == sorted(found)
    assert others.num_views == len(found) == 11


def test_a_prompt_that_is_too_long_loses_its_oldest_items():
    batches = make(name="titles_to_sid", max_tokens=60)
    whole = rows_of(make(name="titles_to_sid"))
    assert 0 < batches.shortened < batches.num_views
    cut = 0
    for row, fields in rows_of(batches).items():
        assert len(fields["prompt"]) <= 60
        assert fields["history"] == whole[row]["history"]
        text, before = (tokenizer().decode(x["prompt"]) for x in (fields, whole[row]))
        cut += text != before
        head, _, items = text.partition(":\n- ")
        assert before.startswith(head)
        assert before.endswith(items)
    assert cut == batches.shortened
    with pytest.raises(
        ValueError, match=r"max_tokens=10: prompts\.titles_to_sid is longer without"
    ):
        make(name="titles_to_sid", max_tokens=10)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"prompts\.title_to_sid: shows an item of the catalogue"):
        make(name="title_to_sid")
    for field in ("batch_size", "max_items", "max_tokens", "bucket_tokens", "max_users"):
        with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
            make(**{field: 0})
    log = text_log()
    log.splits["valid"] = log.splits["valid"][:0]
    with pytest.raises(ValueError, match="splits/valid: no views"):
        make(split="valid", log=log)
