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
    """Leaves the tokens that continue an answer; everything else gets -inf.

    `seen` keeps what they scored: `generate` gives a sequence's score only to those who also store
    the log-probabilities of every step.
    """

    def __init__(self, following, prompt_width, num_beams):
        self.following = following
        self.prompt_width = prompt_width
        self.num_beams = num_beams
        self.seen = {}

    def __call__(self, input_ids, scores):
        masked = torch.full_like(scores, float("-inf"))
        for row, added in enumerate(input_ids[:, self.prompt_width :].tolist()):
            prefix = tuple(added)
            allowed = self.following.get(prefix)
            if allowed is not None:
                left = scores[row, allowed]
                masked[row, allowed] = left
                self.seen[row // self.num_beams, prefix] = left
        return masked

    def score(self, user, answer):
        """Returns the sum of an answer's log-probabilities."""
        total = 0.0
        for place, token in enumerate(answer):
            prefix = tuple(answer[:place])
            place = torch.searchsorted(self.following[prefix], token)
            total += float(self.seen[user, prefix][place])
        return total


def following_tokens(answers):
    """Returns what may follow each prefix, sorted, as tensors."""
    following = {}
    for answer in answers.tolist():
        for place, token in enumerate(answer):
            following.setdefault(tuple(answer[:place]), set()).add(token)
    return {prefix: torch.tensor(sorted(tokens)) for prefix, tokens in following.items()}


def generate(model, tokens, lengths, following, answer_length, end, num_beams):
    """Returns the tokens [B, M, L] of one batch, and its constraint."""
    width = int(lengths.max())
    place = np.arange(width) - (width - lengths[:, None])
    left_padded = np.take_along_axis(tokens, np.maximum(place, 0), axis=1)
    constraint = PrefixConstraint(following, width, num_beams)
    output = model.generate(
        torch.from_numpy(np.where(place >= 0, left_padded, end)).long(),
        attention_mask=torch.from_numpy((place >= 0).astype(np.int64)),
        logits_processor=transformers.LogitsProcessorList([constraint]),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=0.0,
        do_sample=False,
        max_new_tokens=answer_length,
        pad_token_id=end,
        eos_token_id=end,
    )
    return output[:, width:].reshape(len(tokens), num_beams, -1), constraint


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
    following = following_tokens(answers)
    starts = range(0, len(tokens), config["batch_size"])
    batches = [slice(start, start + config["batch_size"]) for start in starts]

    def search(batch):
        return generate(
            model,
            tokens[batch],
            lengths[batch],
            following,
            answers.shape[1],
            int(answers[0, -1]),
            config["num_beams"],
        )

    rounds = []
    with torch.inference_mode():
        search(batches[0])
        for _ in range(config["rounds"]):
            begin = time.perf_counter()
            found = [search(batch) for batch in batches]
            rounds.append(time.perf_counter() - begin)
    scores = [
        [constraint.score(user, answer) for answer in beams]
        for tokens_found, constraint in found
        for user, beams in enumerate(tokens_found.tolist())
    ]
    found_tokens = torch.cat([tokens_found for tokens_found, _ in found]).int().numpy()
    np.savez(folder / "found.npz", tokens=found_tokens, scores=np.array(scores, np.float32))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": rounds, "peak_gb": peak}))


if __name__ == "__main__":
    main()
