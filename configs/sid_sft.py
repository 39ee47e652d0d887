"""A language model fine-tuned on SID tasks, as MiniOneRec does it (arXiv 2510.24431).

    python -m launch.sft --config=sid_sft:smoke --run_mode=train_eval --workdir=W

makes everything from nothing in 80 seconds: a generated catalogue, its SIDs, a tokenizer of
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

from configs import language_blocks, parts

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for a local checkpoint on Amazon Industrial, "smoke" for a tiny model on a
            generated catalogue.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = language_blocks.language("sid_sft")
    config.data.source = ConfigDict(
        {
            "name": "minionerec",
            "folder": parts.data_folder("amazon_industrial"),
            "train_on_context": True,
            "columns": "",  # fields of the items that a server's rules speak of
        }
    )
    config.data.k_core = 0
    config.data.split = ConfigDict({"name": "as_given"})
    config.sids.source = "given"
    config.sids.collisions = "keep"
    config.sids.path = "index/*.index.json"
    # Its model learns over all tokens, not over the codes behind a prefix.
    config.search.normalize = "vocab"
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
    config.evaluate.fusion_users = 2000  # each is a search by the language model
    if variant == "smoke":
        _make_smoke(config)
    return config


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
