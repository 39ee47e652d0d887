"""A small catalogue with titles and SIDs, a log of it, a tokenizer and prompts."""

import dataclasses
import functools

import numpy as np
import polars as pl

from configs.prompts import sft_prompts
from minirec.sids import SidTable
from pipelines.synthetic import SyntheticLog, synthetic_log
from pipelines.text.answers import sid_names
from pipelines.text.prompts import parse_templates
from pipelines.text.train_tokenizer import train_tokenizer

NUM_ITEMS = 40
NOUNS = ("Tape", "Glue", "Bearing", "Hinge", "Drill", "Hose", "Valve", "Filter")


@dataclasses.dataclass(frozen=True)
class TextLog(SyntheticLog):
    items: pl.DataFrame = dataclasses.field(default_factory=pl.DataFrame)

    @property
    def raw_item_ids(self):
        return self.items["raw_item_id"].to_list()


def titles():
    """Every eighth item's is short and stands in others'; 8 and 9 share one, 10 has none."""
    found = [
        NOUNS[i % 8] if i < 8 else f"{('Grey', 'Small')[i % 2]} {NOUNS[i % 8]}, No. {i}, Ø {i} mm"
        for i in range(NUM_ITEMS)
    ]
    found[9], found[10] = found[8], ""
    return found


def text_log(num_users=30, seed=0, texts=None):
    log = synthetic_log(num_users, num_items=NUM_ITEMS, mean_events=8, seed=seed)
    items = pl.DataFrame(
        {
            "raw_item_id": [f"item{i}" for i in range(NUM_ITEMS)],
            "title": titles() if texts is None else texts,
        }
    )
    return TextLog(**{f.name: getattr(log, f.name) for f in dataclasses.fields(log)}, items=items)


def sid_table():
    """Items 20 and 21 share their SID."""
    codes = np.array([(i % 4, i // 4 % 5, i) for i in range(NUM_ITEMS)])
    codes[21] = codes[20]
    return SidTable([f"item{i}" for i in range(NUM_ITEMS)], codes, (4, 8, 64))


@functools.cache
def plain_tokenizer():
    words = [text for entries in sft_prompts().to_dict().values() for text in entries.values()]
    return train_tokenizer(titles() + words, vocab_size=420)


@functools.cache
def tokenizer():
    return plain_tokenizer().with_sid_tokens(sid_names(sid_table()))


def templates():
    return parse_templates(sft_prompts())


def sequences(batch):
    """Yields (row, prompt ids, answer ids) of every segment of a batch; checks its layout."""
    for row in range(len(batch["tokens"])):
        ids = batch["segment_ids"][row]
        used = int((ids > 0).sum())
        assert (ids[used:] == 0).all()
        assert set(np.diff(ids[:used])) <= {0, 1}
        for key in ("loss_mask", "positions"):
            assert not batch[key][row, used:].any()
        for number in range(1, ids.max() + 1):
            (places,) = np.nonzero(ids == number)
            tokens, targets = batch["tokens"][row, places], batch["targets"][row, places]
            np.testing.assert_array_equal(tokens[1:], targets[:-1])
            np.testing.assert_array_equal(batch["positions"][row, places], np.arange(len(places)))
            asked = batch["loss_mask"][row, places] > 0
            (first,) = np.flatnonzero(np.diff(asked, prepend=False))  # off, then on to the end
            yield row, [*tokens[: first + 1].tolist()], targets[first:].tolist()


def epoch_of(batches):
    """Returns the prompts and the answers of an epoch, as arrays of ids."""
    prompts, answers = [], []
    for number in range(batches.batches_per_epoch):
        batch = batches.batch_at(number)
        fresh = batch["epoch"] == 0
        real = batch["segment_ids"][fresh] > 0
        tokens, targets, positions, asked = (
            batch[name][fresh][real] for name in ("tokens", "targets", "positions", "loss_mask")
        )
        first = np.flatnonzero(positions == 0)
        answer = np.flatnonzero(np.diff(asked > 0, prepend=False) & (asked > 0))
        assert len(first) == len(answer)
        cuts = np.stack([first, answer], axis=1).reshape(-1)
        # A run of inputs from a segment's beginning to its answer's lacks the prompt's last token.
        parts = np.split(np.arange(len(tokens)), cuts[1:])
        prompts += [tokens[[*part, part[-1] + 1]] for part in parts[::2]]
        answers += [targets[part] for part in parts[1::2]]
    return prompts, answers
