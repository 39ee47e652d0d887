"""A small language model trained by PyTorch alone, as nanoGPT does it; runs in `.venv-oracles`.

    python torch_text_trainer.py FOLDER

FOLDER holds `model/` (a Hugging Face folder of a Qwen3 model, whose weights it begins with),
`tokens.npy` int32 [steps, rows, tokens + 1], `config.json` (`warmup`, `learning_rate`) and
`variant.json` (`dtype`: float32 or bfloat16 by autocast; `compile`: through torch.compile). Prints
one line of JSON: `losses` of all steps, `seconds` of each after `warmup`, `peak_gb` of the process;
or `left_out`, why it cannot compile.
"""

import contextlib
import json
import pathlib
import resource
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def turned(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        D, K = c["hidden_size"], c["head_dim"]
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.q_proj = nn.Linear(D, self.heads * K, bias=False)
        self.k_proj = nn.Linear(D, self.kv_heads * K, bias=False)
        self.v_proj = nn.Linear(D, self.kv_heads * K, bias=False)
        self.o_proj = nn.Linear(self.heads * K, D, bias=False)
        self.q_norm, self.k_norm = (Norm(K, c["rms_norm_eps"]) for _ in range(2))

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, self.heads, -1)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, -1)).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.kv_heads, -1).transpose(1, 2)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        D, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(D, inner, bias=False)
        self.up_proj = nn.Linear(D, inner, bias=False)
        self.down_proj = nn.Linear(inner, D, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), FeedForward(c)
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, c, length):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        pairs = torch.arange(0, c["head_dim"], 2) / c["head_dim"]
        angles = torch.arange(length)[:, None] * theta**-pairs
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, targets):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = functional.linear(self.norm(x), self.embed_tokens.weight)
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    variant = json.loads((folder / "variant.json").read_text())
    steps = torch.from_numpy(np.load(folder / "tokens.npy", allow_pickle=False)).long()
    shape = json.loads((folder / "model" / "config.json").read_text())
    model = Model(shape, steps.shape[2] - 1)
    weights = load_file(folder / "model" / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): x for name, x in weights.items()})
    # Norms are not decayed, and nothing else is here: the rate of decay is 0.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config["learning_rate"], betas=(0.9, 0.999), weight_decay=0.0
    )
    call = torch.compile(model) if variant["compile"] else model
    losses, seconds = [], []
    for tokens in steps:
        begin = time.perf_counter()
        half = variant["dtype"] == "bfloat16"
        amp = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
        try:
            with amp:
                loss = call(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        except Exception as error:
            if not variant["compile"] or losses:
                raise
            said = str(error).strip().splitlines() or [""]
            print(json.dumps({"left_out": f"{type(error).__name__}: {said[0]}"}))
            return
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "losses": losses,
                "seconds": seconds[config["warmup"] :],
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    )


if __name__ == "__main__":
    main()
