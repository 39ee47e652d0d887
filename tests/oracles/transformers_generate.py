"""Transformers' beam search under a prefix constraint; Python 3.11, torch, transformers.

    .venv-oracles/bin/python tests/oracles/transformers_generate.py FOLDER

FOLDER holds `model/` (config.json, model.safetensors), `tokens.npy` int32 [N, S] (prompts, padded
on the right), `lengths.npy` int32 [N], `answers.npy` int32 [n, L] (the catalogue; the last token of
each ends it) and `config.json` (`batch_size`, `num_beams`, `rounds`). The constraint is of
MiniOneRec's kind: log-probabilities over the whole vocabulary, which `generate` makes, then a mask
from a dictionary of prefixes on the host. All prompts are searched for `rounds` times after a first
batch that is not timed. `found.npz` gets `tokens` int32 [N, M, L] and `scores` float32 [N, M]; one
line of JSON is printed with the seconds of each round and the most memory that the process held.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import torch
import transformers


class PrefixConstraint(transformers.LogitsProcessor):
    """Leaves the tokens that continue an answer; everything else gets -inf."""

    def __init__(self, answers, prompt_width):
        following = {}
        for answer in answers.tolist():
            for place, token in enumerate(answer):
                following.setdefault(tuple(answer[:place]), set()).add(token)
        self.following = {prefix: torch.tensor(sorted(f)) for prefix, f in following.items()}
        self.prompt_width = prompt_width

    def __call__(self, input_ids, scores):
        masked = torch.full_like(scores, float("-inf"))
        for row, added in enumerate(input_ids[:, self.prompt_width :].tolist()):
            allowed = self.following.get(tuple(added))
            if allowed is not None:
                masked[row, allowed] = scores[row, allowed]
        return masked


def generate(model, tokens, lengths, answers, num_beams):
    """Returns the tokens [B, M, L] and scores [B, M] of one batch."""
    width, end = int(lengths.max()), int(answers[0, -1])
    place = np.arange(width) - (width - lengths[:, None])
    left_padded = np.take_along_axis(tokens, np.maximum(place, 0), axis=1)
    output = model.generate(
        torch.from_numpy(np.where(place >= 0, left_padded, end)).long(),
        attention_mask=torch.from_numpy((place >= 0).astype(np.int64)),
        logits_processor=transformers.LogitsProcessorList([PrefixConstraint(answers, width)]),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=0.0,
        do_sample=False,
        max_new_tokens=answers.shape[1],
        pad_token_id=end,
        eos_token_id=end,
        return_dict_in_generate=True,
        output_scores=False,
    )
    shape = (len(tokens), num_beams)
    return (
        output.sequences[:, width:].reshape(*shape, -1).numpy(),
        output.sequences_scores.reshape(shape).numpy(),
    )


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    tokens, lengths, answers = (
        np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("tokens", "lengths", "answers")
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, local_files_only=True
    ).eval()
    starts = range(0, len(tokens), config["batch_size"])
    batches = [slice(start, start + config["batch_size"]) for start in starts]

    def search(batch):
        return generate(model, tokens[batch], lengths[batch], answers, config["num_beams"])

    rounds = []
    with torch.inference_mode():
        search(batches[0])
        for _ in range(config["rounds"]):
            begin = time.perf_counter()
            found = [search(batch) for batch in batches]
            rounds.append(time.perf_counter() - begin)
    found_tokens, scores = map(np.concatenate, zip(*found, strict=True))
    np.savez(folder / "found.npz", tokens=found_tokens.astype(np.int32), scores=scores)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": rounds, "peak_gb": peak}))


if __name__ == "__main__":
    main()
