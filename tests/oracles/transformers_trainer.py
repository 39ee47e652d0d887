"""transformers' Trainer on the benchmark's model and examples; runs in `.venv-oracles`.

    python transformers_trainer.py FOLDER

FOLDER holds `model/` (a Hugging Face folder), `tokens.npy`, `offsets.npy` and `prompts.npy`
(example `i` is `tokens[offsets[i]:offsets[i + 1]]`, of which the first `prompts[i]` are its prompt)
and `config.json`: `batch_size`, `warmup`, `steps`, `learning_rate`. Prints one line of JSON:
`losses` of all steps, `seconds` and `tokens` of those after `warmup`, `peak_gb` of the process.
"""

import json
import os
import pathlib
import resource
import sys
import time

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Examples(torch.utils.data.IterableDataset):
    """The examples in their order; only answers have labels."""

    def __init__(self, folder):
        self.tokens = np.load(folder / "tokens.npy", allow_pickle=False)
        self.offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        self.prompts = np.load(folder / "prompts.npy", allow_pickle=False)

    def __iter__(self):
        for i, prompt in enumerate(self.prompts.tolist()):
            tokens = torch.from_numpy(
                self.tokens[self.offsets[i] : self.offsets[i + 1]].astype(int)
            )
            labels = tokens.clone()
            labels[:prompt] = -100
            yield {"input_ids": tokens, "labels": labels}


def collate(examples):
    """One batch, padded to its longest example."""
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(name, value):
        return torch.stack(
            [
                torch.nn.functional.pad(one[name], (0, longest - len(one[name])), value=value)
                for one in examples
            ]
        )

    labels = padded("labels", -100)
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_ids": padded("input_ids", 0), "attention_mask": mask, "labels": labels}


class Clock(TrainerCallback):
    def __init__(self, warmup):
        self.warmup, self.times, self.losses = warmup, [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model.config.use_cache = False
    clock = Clock(config["warmup"])
    steps = config["warmup"] + config["steps"]
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=config["batch_size"],
        max_steps=steps,
        learning_rate=config["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    examples = Examples(folder)
    trainer = Trainer(
        model, arguments, train_dataset=examples, data_collator=collate, callbacks=[clock]
    )
    trainer.train()
    first, last = config["warmup"] * config["batch_size"], steps * config["batch_size"]
    print(
        json.dumps(
            {
                "losses": clock.losses,
                "seconds": clock.times[-1] - clock.times[config["warmup"] - 1],
                # As ours count them: the last token of an example is a target only.
                "tokens": int(examples.offsets[last] - examples.offsets[first]) - (last - first),
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    )


if __name__ == "__main__":
    main()
