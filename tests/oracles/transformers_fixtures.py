"""What transformers computes for tiny Qwen2 and Qwen3 models; Python 3.11 with torch, transformers.

    .venv-oracles/bin/python tests/oracles/transformers_fixtures.py [FOLDER]

Writes into FOLDER (tests/fixtures/hf), for each model of `MODELS`:
- `NAME/`: the checkpoint, as transformers saves it;
- `NAME_forward.npz`: logits, residual stream, keys and values of rows of tokens, see `forward`;
- `NAME_generate.npz`, for models with a catalogue: the beams of `generate`, see `generated`;
- `NAME_sampling.npz`, for `SAMPLED`: greedy answers and distributions of the next token, see
  `sampled`.
The same versions write the same bytes.

`generate` orders equal scores in its own way, and float32 sums differ in the last bits, so a prompt
is drawn again where two scores that decide about order or survival lie within `GAP`. They are taken
from full forward passes over every answer, against which `generate` is checked as well.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FOLDER = pathlib.Path(__file__).parent.parent / "fixtures" / "hf"
SHAPE = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16_384,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "attn_implementation": "eager",
    "dtype": "float32",
}
QWEN2, QWEN3 = (Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)
# Family, what its config has besides SHAPE, and the largest file of its checkpoint.
MODELS = {
    "qwen2_tied": (
        QWEN2,
        {"vocab_size": 320, "tie_word_embeddings": True, "rope_theta": 1e6},
        "1GB",
    ),
    "qwen2_untied": (
        QWEN2,
        {"vocab_size": 96, "tie_word_embeddings": False, "rope_theta": 1e4},
        "50KB",
    ),
    "qwen3_tied": (
        QWEN3,
        {"vocab_size": 96, "tie_word_embeddings": True, "rope_theta": 1e6, "head_dim": 6},
        "1GB",
    ),
    "qwen3_untied": (
        QWEN3,
        {"vocab_size": 320, "tie_word_embeddings": False, "rope_theta": 5e6, "head_dim": 12},
        "100KB",
    ),
}
WITH_CATALOGUE = ("qwen2_tied", "qwen3_untied")

NEWLINE, END = 1, 2
PROMPT_TOKENS = (3, 200)
CODES = ((200, 216), (220, 240), (240, 320))  # The tokens of each level.
BEAMS, PROMPTS, LONGEST = 50, 20, 40
ITEMS, FEW_ITEMS = 160, 30
GAP = 1e-5
SAMPLED = "qwen2_tied"
GREEDY_PROMPTS, GREEDY_LONGEST, NEW_TOKENS = 6, 30, 24
# What is drawn by: temperature, top_k (0: all), top_p, min_p, repetition_penalty.
DRAWN_BY = (
    (0.7, 0, 0.9, 0.0, 1.0),
    (1.0, 12, 1.0, 0.0, 1.0),
    (1.3, 40, 0.8, 0.05, 1.3),
    (2.0, 0, 1.0, 0.0, 1.0),
)
DRAWS = 20_000
FORBIDDEN = -1e6  # MiniOneRec adds this to what its trie forbids.


def make_model(name, seed):
    """Returns a model whose logits spread over some units, as a trained model's do."""
    (config_class, model_class), fields, _ = MODELS[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**SHAPE, **fields)).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if path.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif path.endswith("bias") or "embed_tokens" in path or "lm_head" in path:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * parameter.shape[1] ** -0.5 * noise)
    return model


@torch.no_grad()
def run(model, tokens, mask, positions=None):
    """Returns logits, the residual stream [layers + 1, B, T, D], keys and values of each layer."""
    stream = []
    first = model.model.layers[0].register_forward_pre_hook(
        lambda _, given: stream.append(given[0])
    )
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: stream.append(out if torch.is_tensor(out) else out[0])
        )
        for layer in model.model.layers
    ]
    out = model(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(mask),
        position_ids=None if positions is None else torch.tensor(positions),
        use_cache=True,
        return_dict=True,
    )
    for hook in (first, *hooks):
        hook.remove()
    layers = (out.cache if "cache" in out else out.past_key_values).layers
    keys, values = (
        torch.stack([getattr(layer, kind) for layer in layers]).transpose(2, 3).numpy()
        for kind in ("keys", "values")
    )
    return out.logits.numpy(), torch.stack(stream).numpy(), keys, values


def forward(model, random):
    """Returns the arrays of `NAME_forward.npz`.

    Rows padded on the right (`padded_*`; results of the valid tokens alone, row after row), rows
    whose positions jump to thousands (`far_*`, all tokens) and a long row (`long_*`, the tokens at
    `long_places`).
    """
    vocab = model.config.vocab_size
    lengths = np.array([24, 1, 9, 17], np.int32)
    tokens = random.integers(0, vocab, (len(lengths), lengths.max()))
    valid = np.arange(lengths.max()) < lengths[:, None]
    logits, stream, keys, values = run(model, tokens, valid.astype(np.int64))
    arrays = {
        "padded_tokens": tokens.astype(np.int32),
        "padded_lengths": lengths,
        "padded_logits": logits[valid],
        "padded_stream": stream[:, valid],
        "padded_keys": keys[:, valid],
        "padded_values": values[:, valid],
    }
    far = np.array(
        [
            [0, 1, 2, 3, 400, 401, 1500, 1501, 1502, 2600, 4000, 4001, 6100, 7999, 8000, 8001],
            [7000 + place for place in range(16)],
        ]
    )
    tokens = random.integers(0, vocab, far.shape)
    logits, stream, _, _ = run(model, tokens, np.ones_like(far), far)
    arrays |= {
        "far_tokens": tokens.astype(np.int32),
        "far_positions": far.astype(np.int32),
        "far_logits": logits,
        "far_stream": stream,
    }
    tokens = random.integers(0, vocab, (1, 700))
    places = np.array([0, 63, 250, 511, 698, 699], np.int32)
    logits, stream, _, _ = run(model, tokens, np.ones_like(tokens))
    return arrays | {
        "long_tokens": tokens.astype(np.int32),
        "long_places": places,
        "long_logits": logits[0, places],
        "long_stream": stream[:, 0, places],
    }


class PrefixTrie(LogitsProcessor):
    """Log-probabilities over the whole vocabulary; lowered what no answer goes on with."""

    def __init__(self, answers, prompt_width):
        self.allowed = {}
        for answer in answers.tolist():
            for level, token in enumerate(answer):
                self.allowed.setdefault(tuple(answer[:level]), set()).add(token)
        self.prompt_width = prompt_width

    def __call__(self, input_ids, scores):
        mask = torch.full_like(scores, FORBIDDEN)
        for row, prefix in enumerate(input_ids[:, self.prompt_width :].tolist()):
            mask[row, list(self.allowed.get(tuple(prefix), ()))] = 0
        return torch.log_softmax(scores, dim=-1) + mask


def beams_of(model, prompts, answers):
    """Returns what `generate` finds for each prompt: answers [n, 5] and their scores [n]."""
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), END)
    mask = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    out = model.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        length_penalty=0.0,
        do_sample=False,
        max_new_tokens=answers.shape[1],
        logits_processor=LogitsProcessorList([PrefixTrie(answers, width)]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    sequences = out.sequences[:, width:].reshape(len(prompts), BEAMS, -1).numpy()
    scores = out.sequences_scores.reshape(len(prompts), BEAMS).numpy()
    # What the trie forbids has taken at least one FORBIDDEN.
    found = scores > FORBIDDEN / 2
    return [(sequences[row, found[row]], scores[row, found[row]]) for row in range(len(prompts))]


@torch.no_grad()
def expected(model, prompt, answers):
    """Returns the beams by full forward passes, and the smallest gap that decides about them."""
    rows = np.concatenate([np.tile(prompt, (len(answers), 1)), answers], axis=1)
    log_probs = torch.log_softmax(model(input_ids=torch.tensor(rows)).logits, -1).numpy()
    taken = log_probs[:, len(prompt) - 1 : -1]
    sums = np.cumsum(np.take_along_axis(taken, answers[:, :, None], 2)[:, :, 0], axis=1)
    alive, gap = np.ones(len(answers), bool), np.inf
    for level in range(answers.shape[1]):
        _, prefix = np.unique(answers[:, : level + 1], axis=0, return_inverse=True)
        best = {prefix[row]: sums[row, level] for row in np.flatnonzero(alive)}
        ranked = sorted(best.values(), reverse=True)
        if len(ranked) > BEAMS:
            gap = min(gap, ranked[BEAMS - 1] - ranked[BEAMS])
        kept = {name for name, score in best.items() if score >= ranked[:BEAMS][-1]}
        alive &= np.isin(prefix, list(kept))
    order = np.argsort(-np.where(alive, sums[:, -1], -np.inf))[: alive.sum()]
    gap = min(gap, -np.diff(sums[order, -1]).max())
    return answers[order], sums[order, -1], gap


def generated(model, random):
    """Returns the arrays of `NAME_generate.npz`.

    `answers` [ITEMS, 5] are three SID tokens, a newline and the end; `beams` [PROMPTS, BEAMS, 5]
    and `scores` are the search over them, `few_beams` [PROMPTS, FEW_ITEMS, 5] and `few_scores` that
    over the first FEW_ITEMS answers, all that it finds. `prompts` are padded on the right.
    """
    sids = set()
    while len(sids) < ITEMS:
        sids.add(tuple(int(random.integers(*codes)) for codes in CODES))
    sids = random.permutation(sorted(sids))
    answers = np.concatenate([sids, np.tile([NEWLINE, END], (ITEMS, 1))], axis=1)
    few = answers[:FEW_ITEMS]
    prompts, wanted = [], []
    while len(prompts) < PROMPTS:
        size = LONGEST if not prompts else int(random.integers(1, LONGEST))
        prompt = random.integers(*PROMPT_TOKENS, size)
        both = [expected(model, prompt, catalogue) for catalogue in (answers, few)]
        if min(gap for _, _, gap in both) > GAP:
            prompts.append(prompt)
            wanted.append(both)
    results = [beams_of(model, prompts, catalogue) for catalogue in (answers, few)]
    for which, result in enumerate(results):
        for row, (beams, scores) in enumerate(result):
            np.testing.assert_array_equal(beams, wanted[row][which][0])
            np.testing.assert_allclose(scores, wanted[row][which][1], atol=1e-4)
    padded = np.full((PROMPTS, LONGEST), END)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    return {
        "prompts": padded.astype(np.int32),
        "lengths": np.array([len(prompt) for prompt in prompts], np.int32),
        "answers": answers.astype(np.int32),
        "beams": np.stack([beams for beams, _ in results[0]]).astype(np.int32),
        "scores": np.stack([scores for _, scores in results[0]]),
        "few_beams": np.stack([beams for beams, _ in results[1]]).astype(np.int32),
        "few_scores": np.stack([scores for _, scores in results[1]]),
    }


def greedy(model, prompts, **options):
    """Returns `generate`'s answers [n, NEW_TOKENS], and the smallest lead of a chosen token."""
    answers, lead = [], np.inf
    for prompt in prompts:
        out = model.generate(
            torch.tensor(prompt)[None],
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        answers.append(out.sequences[0, len(prompt) :].numpy())
        best = torch.stack(out.scores)[:, 0].topk(2).values
        lead = min(lead, float((best[:, 0] - best[:, 1]).min()))
    return np.stack(answers), lead


def sampled(model, random):
    """Returns the arrays of `NAME_sampling.npz`.

    `prompts` are padded on the right; `greedy` and `penalised` (repetition_penalty 1.3) are the
    answers. `probabilities` [settings, V] are what `generate` draws the token behind the last
    prompt from, by `settings` (see DRAWN_BY), and `counts` how often it drew each in DRAWS.
    """
    while True:
        sizes = [1, GREEDY_LONGEST, *random.integers(2, GREEDY_LONGEST, GREEDY_PROMPTS - 2)]
        prompts = [random.integers(3, model.config.vocab_size, size) for size in sizes]
        plain, lead = greedy(model, prompts)
        penalised, other = greedy(model, prompts, repetition_penalty=1.3)
        if min(lead, other) > 100 * GAP:
            break
    probabilities, counts = [], []
    for temperature, top_k, top_p, min_p, penalty in DRAWN_BY:
        torch.manual_seed(0)
        out = model.generate(
            torch.tensor(prompts[-1])[None],
            do_sample=True,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p or None,
            repetition_penalty=penalty,
            max_new_tokens=1,
            eos_token_id=None,
            num_return_sequences=DRAWS,
            return_dict_in_generate=True,
            output_scores=True,
        )
        probabilities.append(torch.softmax(out.scores[0][0], -1).numpy())
        drawn = out.sequences[:, -1].numpy()
        counts.append(np.bincount(drawn, minlength=model.config.vocab_size))
    padded = np.full((GREEDY_PROMPTS, GREEDY_LONGEST), END)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    return {
        "prompts": padded.astype(np.int32),
        "lengths": np.array(sizes, np.int32),
        "greedy": plain.astype(np.int32),
        "penalised": penalised.astype(np.int32),
        "settings": np.array(DRAWN_BY),
        "probabilities": np.stack(probabilities),
        "counts": np.stack(counts).astype(np.int32),
    }


def main():
    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for seed, (name, (_, _, max_shard_size)) in enumerate(MODELS.items()):
        model, random = make_model(name, seed), np.random.default_rng(seed)
        model.save_pretrained(folder / name, max_shard_size=max_shard_size)
        arrays = forward(model, random)
        np.savez_compressed(folder / f"{name}_forward.npz", **arrays)
        spread = float(arrays["padded_logits"].std())
        if name in WITH_CATALOGUE:
            np.savez_compressed(folder / f"{name}_generate.npz", **generated(model, random))
        if name == SAMPLED:
            np.savez_compressed(folder / f"{name}_sampling.npz", **sampled(model, random))
        print(json.dumps({"model": name, "logits_std": round(spread, 2)}))


if __name__ == "__main__":
    main()
