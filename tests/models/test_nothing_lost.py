"""A fine-tuned folder through load, new tokens, a step of training, and save.

Every old row that is not trained is bit-equal behind it, whichever file its token stands in.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from minirec.models.hf import load_checkpoint, save_checkpoint
from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.vocabulary import grow, merged, new_rows, split_rows
from minirec.training import OptimizerConfig, TokenTask
from minirec.training.config import Stage
from minirec.training.loop import new_optimizer
from minirec.training.optimizer import make_schedule
from minirec.training.step import TrainStep
from pipelines.text.tokenizer import TextTokenizer
from pipelines.text.train_tokenizer import train_tokenizer
from tests.models.hf_small import QWEN2, make

TUNED = ("<anime_start>", "<anime_end>", "<L1_0>", "<L1_7>", "<L2_3>")
NEW = ("<liked>", "<L1_1>", "<L2_0>", "<L3_5>")
PADDING = 9  # rows behind the last token, as Qwen2.5 has them


def entry(content, *, special):
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": special,
    }


def in_one_file(folder, ids, special):
    """All that was added stands in tokenizer.json, as transformers 5 writes it."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    value["added_tokens"] += [{"id": ids[name], **entry(name, special=special)} for name in TUNED]
    path.write_text(json.dumps(value))


def in_the_config(folder, ids, special):
    """The ids stand in the added_tokens_decoder of tokenizer_config.json alone."""
    path = folder / "tokenizer_config.json"
    value = json.loads(path.read_text())
    value["added_tokens_decoder"] |= {
        str(ids[name]): entry(name, special=special) for name in TUNED
    }
    path.write_text(json.dumps(value))


def split_over_two(folder, ids, special):
    """Half in tokenizer.json, half in added_tokens.json, as version 4 of transformers left them."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    value["added_tokens"] += [
        {"id": ids[name], **entry(name, special=special)} for name in TUNED[:2]
    ]
    path.write_text(json.dumps(value))
    later = {name: ids[name] for name in TUNED[2:]}
    (folder / "added_tokens.json").write_text(json.dumps(later))
    if special:
        names = {"additional_special_tokens": list(TUNED)}
        (folder / "special_tokens_map.json").write_text(json.dumps(names))


LAYOUTS = (in_one_file, in_the_config, split_over_two)


def tuned_folder(folder, layout, *, special, padding, tied):
    tokenizer = train_tokenizer(["some words of a text", "and others"], 280)
    size = tokenizer.size
    save_checkpoint(make(QWEN2, tied, size + len(TUNED) + padding), folder, model_type="qwen2")
    tokenizer.save(folder)
    ids = {name: size + place for place, name in enumerate(TUNED)}
    layout(folder, ids, special)
    return ids


def a_step(model, trainable):
    """Trains on a few tokens, so that whatever may move has moved."""
    T, V = 12, model.config.vocab_size
    tokens = V - 1 - np.arange(2 * T).reshape(2, T) % V  # The newest are among them.
    batch = {
        "tokens": tokens.astype(np.int32),
        "targets": ((tokens * 7 + 3) % V).astype(np.int32),
        "loss_mask": np.ones((2, T), np.float32),
        "positions": np.tile(np.arange(T, dtype=np.int32), (2, 1)),
        "segment_ids": np.ones((2, T), np.int32),
    }
    optimizer = OptimizerConfig(learning_rate=0.01, warmup_steps=0, schedule="constant")
    stage = Stage("x", lambda: iter(()), 1, optimizer, trainable=trainable)
    step = TrainStep(
        model,
        new_optimizer(model, stage, None),
        TokenTask(lambda model: {}),
        schedule=make_schedule(optimizer, 1),
        accumulate=1,
        seed=0,
        mesh=None,
        trainable=trainable,
    )
    state, _ = step(step.start(), batch, 0)
    return step.model(state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("special", "padding", "tied"), [(False, 0, True), (True, PADDING, False)])
def test_old_rows_are_bit_equal_behind_new_tokens(tmp_path, layout, special, padding, tied):
    folder, out = tmp_path / "tuned", tmp_path / "out"
    ids = tuned_folder(folder, layout, special=special, padding=padding, tied=tied)
    before = load_checkpoint(folder)
    tokenizer = TextTokenizer.load(folder)
    assert {name: int(tokenizer.ids([name])[0]) for name in TUNED} == ids
    # New rows are asked for together with those that are there.
    tokenizer = tokenizer.with_tokens([*TUNED[::-1], *NEW])
    assert tokenizer.added == NEW
    first = tokenizer.size - len(NEW)
    rows = {
        name: new_rows("mean", own[...][:first], np.full((len(NEW), 2), -1), seed=0)
        for name in ("embedding", "head")
        if (own := getattr(before, name)) is not None
    }
    model = grow(before, tokenizer.size, rows["embedding"], rows.get("head"))
    add_adapters(model, LoraConfig(rank=2), seed=0)
    split_rows(model, first)
    model = merged(a_step(model, AddedParam))
    save_checkpoint(model, out, like=folder, model_type="qwen2")
    tokenizer.save(out)
    after, again = load_checkpoint(out), TextTokenizer.load(out)
    assert after.config.vocab_size == again.size == first + len(NEW)
    for name in rows:
        old, new = (np.asarray(getattr(one, name)[...]) for one in (before, after))
        for token in range(first):
            spelled = tokenizer.spelling(token)
            assert again.ids([spelled]).tolist() == [token]
            assert old[token].tobytes() == new[token].tobytes(), spelled
        # What was trained has moved.
        assert not np.array_equal(new[first:], rows[name])
    text = f"some words {''.join(TUNED)}{''.join(NEW)}"
    assert again.encode(text) == tokenizer.encode(text)
    assert [again.encode(name) for name in (*TUNED, *NEW)] == [
        again.ids([name]).tolist() for name in (*TUNED, *NEW)
    ]


def test_with_nothing_trained_every_bit_is_what_it_was(tmp_path):
    folder, out = tmp_path / "tuned", tmp_path / "out"
    tuned_folder(folder, in_the_config, special=False, padding=0, tied=True)
    before = load_checkpoint(folder)
    tokenizer = TextTokenizer.load(folder).with_tokens(TUNED)
    assert tokenizer.added == ()
    save_checkpoint(before, out, like=folder, model_type="qwen2")
    tokenizer.save(out)
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert TextTokenizer.load(out).ids(TUNED).tolist() == tokenizer.ids(TUNED).tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_with_a_gap_are_refused_by_name_and_lose_nothing(tmp_path, layout):
    """The library numbers tokens without gaps: none must get another row than its own."""
    folder = tmp_path / "tuned"
    tokenizer = train_tokenizer(["some words of a text", "and others"], 280)
    save_checkpoint(make(QWEN2, True, tokenizer.size + 20), folder, model_type="qwen2")
    tokenizer.save(folder)
    ids = {name: tokenizer.size + 3 * place + 2 for place, name in enumerate(TUNED)}
    layout(folder, ids, False)
    with pytest.raises(ValueError, match=r"'<.*>' has the id \d+, but \d+ by tokenizer\.json"):
        TextTokenizer.load(folder)


def test_a_token_that_stands_there_twice_or_is_taken_apart_is_named(tmp_path):
    tokenizer = train_tokenizer(["some words of a text"], 270)
    with pytest.raises(ValueError, match="token '<liked>' stands there twice"):
        tokenizer.with_tokens(["<liked>", "<x>", "<liked>"])
    same = tokenizer.with_tokens(["<liked>", "<liked> "])
    assert same.encode("<liked> x")[0] == int(same.ids(["<liked> "])[0])
    assert jnp.asarray(same.added_ids).shape == (2,)
