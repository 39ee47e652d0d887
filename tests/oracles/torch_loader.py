"""How fast PyTorch's DataLoader makes the loader benchmark's examples; Python 3.11 and torch alone.

    .venv-oracles/bin/python tests/oracles/torch_loader.py FOLDER

FOLDER holds `item.npy` and `event.npy` int32 [E], `time.npy` int64 [E], `views.npy` int64 [n, 3]
(user, start, stop) and `config.json` (`batch_size`, `max_items`, `width`, `nothing`, what stands
where there is no event, `num_workers`, `turns` and the
`seconds` of each). One line of JSON is printed, with the rate of the fastest turn; `check.npz` gets
the first examples, by which others can tell whether these are the same.
"""

import itertools
import json
import pathlib
import sys
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate


class Windows(Dataset):
    """One example a view: its newest items and its target, as the arrays of a training row."""

    def __init__(self, folder, config):
        self.columns = {
            name: np.load(folder / f"{name}.npy", allow_pickle=False)
            for name in ("item", "event", "time")
        }
        self.views = np.load(folder / "views.npy", allow_pickle=False)
        self.max_items, self.width, self.nothing = (
            config[name] for name in ("max_items", "width", "nothing")
        )

    def __len__(self):
        return len(self.views)

    def __getitem__(self, row):
        _, start, stop = self.views[row]
        events = slice(max(start, stop - self.max_items), stop + 1)
        size = events.stop - events.start
        example = {}
        for name, column in self.columns.items():
            example[name] = np.full(self.width, self.nothing, column.dtype)
            example[name][:size] = column[events]
        example["segment"] = np.zeros(self.width, np.int32)
        example["segment"][:size] = 1
        example["target_weight"] = np.zeros(self.width, np.float32)
        example["target_weight"][size - 1] = 1
        return example


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    examples = Windows(folder, config)
    first = default_collate([examples[row] for row in range(min(64, len(examples)))])
    np.savez(folder / "check.npz", **{name: value.numpy() for name, value in first.items()})
    loader = DataLoader(
        examples,
        batch_size=config["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=config["num_workers"],
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    next(batches)
    turns = []
    for _ in range(config["turns"]):
        begin, cpu_begin, count = time.perf_counter(), time.process_time(), 0
        while (passed := time.perf_counter() - begin) < config["seconds"] or not count:
            next(batches)
            count += 1
        turns.append((count / passed, (time.process_time() - cpu_begin) / passed))
    rate, core_share = max(turns)
    core_share = None if config["num_workers"] else core_share  # A worker's time is not counted.
    print(json.dumps({"batches_per_second": rate, "core_share": core_share}))


if __name__ == "__main__":
    main()
