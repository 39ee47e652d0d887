"""A language model fine-tuned on SID tasks, as MiniOneRec does it (arXiv 2510.24431).

    python -m launch.sft --config=sid_sft:smoke --run_mode=train_eval --workdir=W

makes everything from nothing in about a minute: a generated catalogue, its SIDs, a tokenizer of
its titles and a tiny model of Qwen2's shape. With a Qwen2, Qwen2.5 or Qwen3 checkpoint in a local
folder and MiniOneRec's data:

    export MINIREC_DATA=...   # the folder that holds amazon_industrial/
    python -m launch.sft --config=sid_sft --config.model.checkpoint=Qwen2.5-0.5B \
      --run_mode=train_eval --workdir=W

`docs/sid_sft.md` has the commands with what they print. Time and score of the second are not
measured: its weights are not here.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base
from configs._prompts import sft_prompts

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for a local checkpoint on Amazon Industrial, "smoke" for a tiny model on a
            generated catalogue.

    Raises:
        ValueError: an unknown variant.
    """
    base.check_variant(variant, VARIANTS)
    config = base.get_config()
    config.unlock()
    config.name = "sid_sft"
    config.data.source = ConfigDict(
        {
            "name": "minionerec",
            "folder": base.data_folder("amazon_industrial"),
            "train_on_context": True,
        }
    )
    config.data.k_core = 0
    config.data.split = ConfigDict({"name": "as_given"})
    config.sids.source = "given"
    config.sids.collisions = "keep"
    config.sids.path = "index/*.index.json"

    del config.loss
    config.search.normalize = "vocab"
    config.model = ConfigDict(
        {
            # A Hugging Face folder (Qwen2, Qwen2.5, Qwen3), or "scratch": a tiny one is made.
            "checkpoint": "",
            "dtype": "bfloat16",  # of the computation
            # Of the stored parameters; what is trained and the optimizer's state are float32 at
            # any rate, what is frozen may be "bfloat16".
            "param_dtype": "float32",
            "remat": True,
            "scan_unroll": 1,
            "dropout": 0.0,
            # The model that "scratch" makes; `tokens` is the most that its tokenizer may have.
            "scratch": {
                "tokens": 1024,
                "num_layers": 2,
                "width": 64,
                "num_heads": 4,
                "num_kv_heads": 2,
                "head_dim": 16,
                "mlp_width": 128,
                "rope_theta": 10_000.0,
                "tie_embeddings": True,
            },
        }
    )
    config.sft = ConfigDict(
        {
            # What the rows of SID tokens that the checkpoint lacks start from: "mean" of the old
            # rows, "random" in their distribution, or the quantiser's "codebooks" projected into
            # it, which need SIDs of the project's own.
            "new_rows": "mean",
            "compare_new_rows": 0,  # first train so many steps from each, for the report; 0: none
            "trainable": "all",  # or "sid_rows", or "lora"
            "lora": {
                "rank": 16,
                "alpha": 32.0,
                "targets": ("query", "key", "value", "output", "gate", "up", "down"),
                "train_sid_rows": True,  # beside the adapters: without them new tokens stay alike
            },
            "logits_at_once": 512,  # positions of a batch whose logits are held at one time
        }
    )
    config.prompts = sft_prompts()

    config.loader = ConfigDict(
        {
            "batch_size": 64,
            "row_tokens": 512,  # 0: what the longest example needs
            "max_items": 10,  # items of history, the newest
            "pack": True,
            # Shares of the examples; 0 turns a task off.
            "weights": {
                "sids_to_sid": 1.0,
                "sid_to_title": 1.0,
                "title_to_sid": 1.0,
                "sids_to_title": 1.0,
                "titles_to_title": 1.0,
                "titles_to_sid": 1.0,
            },
            # Where a history holds its target: "drop" it there, "leave_out" the example, or "keep".
            "repeats": "drop",
            "num_workers": 0,
            "num_threads": 1,
            "prefetch": 4,
        }
    )
    config.train.num_epochs = 0
    config.train.num_steps = 3000
    config.train.learning_rate = 3e-4
    config.train.warmup_steps = 20
    config.train.weight_decay = 0.0
    config.train.b2 = 0.999
    config.train.eval_every = 250
    config.train.checkpoint_every = 250
    config.train.log_every = 10
    config.search.exclude_seen = False  # its users do buy the same again
    config.evaluate.prompt = "sids_to_sid"  # the template whose prompts the search answers
    # Weights & Biases: "online" (needs WANDB_API_KEY, in the environment or in .env), "offline" or
    # "disabled".
    config.wandb = ConfigDict({"mode": "disabled", "project": "minirec", "entity": ""})
    if variant == "smoke":
        _make_smoke(config)
    return config.lock()


def _make_smoke(config: ConfigDict) -> None:
    config.name = "sid_sft_smoke"
    config.data.source = ConfigDict(
        {"name": "generated", "num_users": 200, "num_items": 300, "seed": 0, "signal": 1.0}
    )
    config.data.k_core = 5
    config.data.split = ConfigDict({"name": "leave_one_out"})
    config.sids.source = "rq_kmeans"
    config.sids.path = ""
    config.sids.codebook_sizes = (32, 32)
    config.sids.vectors = "text"
    config.sids.dim = 32
    config.sids.collisions = "spare_capacity"
    config.model.checkpoint = "scratch"
    config.model.dtype = "float32"
    config.model.remat = False
    config.sft.new_rows = "codebooks"
    config.sft.compare_new_rows = 5
    config.loader.batch_size = 8
    config.loader.row_tokens = 256
    config.loader.max_items = 5
    config.train.num_steps = 60
    config.train.learning_rate = 5e-3
    config.train.warmup_steps = 5
    config.train.eval_every = 30
    config.train.checkpoint_every = 30
    config.search.num_beams = 20
    config.search.exclude_seen = True
    config.evaluate.batch_size = 32
    config.evaluate.valid_users = 64
    config.evaluate.resamples = 100
