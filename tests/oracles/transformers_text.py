"""Answers by transformers' `generate`; Python 3.11 with torch and transformers.

    .venv-oracles/bin/python tests/oracles/transformers_text.py FOLDER

FOLDER holds `model/` (a Hugging Face folder), `tokens.npy` int32 [N, S] (prompts, padded on the
right), `lengths.npy` int32 [N] and `config.json`: `batches` (how many of the first prompts are
answered together), `new_tokens`, `rounds`, `temperature`, `top_p`. For each batch and mode
("greedy", "drawn"), `found.npz` gets the answers [batch, new_tokens] as `MODE_BATCH`; a first
answer is not timed. Prints one line of JSON: `seconds` of each round by `MODE_BATCH`, and `peak_gb`
of the process.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import torch
import transformers


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    tokens, lengths = (
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("tokens", "lengths")
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, local_files_only=True
    ).eval()
    drawn = {"do_sample": True, "temperature": config["temperature"], "top_p": config["top_p"]}
    modes = {"greedy": {"do_sample": False}, "drawn": drawn | {"top_k": 0}}
    seconds, found = {}, {}
    for batch in config["batches"]:
        width = int(lengths[:batch].max())
        place = np.arange(width) - (width - lengths[:batch, None])
        left_padded = np.take_along_axis(tokens[:batch], np.maximum(place, 0), axis=1)
        ids = torch.from_numpy(np.where(place >= 0, left_padded, 0)).long()
        mask = torch.from_numpy((place >= 0).astype(np.int64))
        for mode, options in modes.items():
            for number in range(config["rounds"] + 1):
                torch.manual_seed(0)
                begin = time.perf_counter()
                with torch.inference_mode():
                    out = model.generate(
                        ids,
                        attention_mask=mask,
                        min_new_tokens=config["new_tokens"],
                        max_new_tokens=config["new_tokens"],
                        pad_token_id=0,
                        eos_token_id=None,
                        **options,
                    )
                if number:
                    name = f"{mode}_{batch}"
                    seconds.setdefault(name, []).append(time.perf_counter() - begin)
                    found[name] = out[:, width:].int().numpy()
    np.savez(folder / "found.npz", **found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gb": peak}))


if __name__ == "__main__":
    main()
