"""Watch lists of anime teach a language model what people watch, in two stages.

    export MINIREC_DATA=...   # the folder that holds anime/ and wiki/
    python -m launch.tasks --config=anime --workdir=W
    python -m launch.sft   --config=anime --workdir=W --run_mode=train_eval

is a dry run of everything, in W/dry_run: 2,048 rows and 20 steps of a tiny model. The real run
needs the base model, an accelerator, and --config.dry_run=False. `anime:small` makes a model of
some millions of parameters from nothing, on 2 CPU cores. `docs/watch_histories.md` has the commands
with what they print.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import language_blocks, parts

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for DeepSeek-R1-Distill-Qwen-14B, a dry run unless told otherwise; "small" for a
            model made from nothing, which learns general text first.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = language_blocks.watch("anime")
    folder, wiki = parts.data_folder("anime"), parts.data_folder("wiki")
    config.tasks.folder = folder
    config.tasks.source_db = "anilist.sqlite"
    config.tasks.semantic_ids_path = "semantic_ids.jsonl"
    # The file's only time is one and the same in all rows: nothing says what came first.
    config.tasks.order_by = "none"
    config.tasks.task_b_mask_modes = ("random",)
    config.data.source = language_blocks.watch_source(folder, config.tasks)
    config.data.k_core = 0
    config.data.split = ConfigDict({"name": "as_given"})
    config.sids.source = "given"
    config.sids.collisions = "keep"
    config.sids.path = "semantic_ids.jsonl"
    config.vocabulary.path = f"{folder}/semantic_vocab.json"
    config.general_mix.hub = "Open-Orca/SlimOrca"
    config.general_mix.fallback = f"{wiki}/wikitext2_valid.txt"
    config.monitor.path = f"{wiki}/wikitext2_test.txt"
    config.model.checkpoint = "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
    config.sft.trainable = "lora"
    config.sft.new_rows = "ridge"
    config.search.normalize = "vocab"
    config.evaluate.fusion_users = 200  # each is a search by the language model
    config.dry_run = True
    _set_dry(config)
    if variant == "small":
        _make_small(config)
    return config


def _set_dry(config: ConfigDict) -> None:
    """Sets what a dry run has another."""
    short = {"num_epochs": 0, "num_steps": 10, "warmup_steps": 2, "learning_rate": 1e-3}
    config.when_dry = ConfigDict(
        {
            "tasks": {"target_examples": 2048},
            "stages": {"phase1_linking": short, "phase2_reasoning": short},
            "loader": {"batch_size": 4, "row_tokens": 512},
            "general_mix": {"max_records": 500},
            "monitor": {"eval_every_steps": 10, "max_bytes": 20_000},
            "model": {"scratch": {"tokens": 2048}},
            "train": {"eval_every": 10, "checkpoint_every": 10, "log_every": 2},
            "search": {"num_beams": 20},
            "evaluate": {
                "valid_users": 32,
                "test_users": 64,
                "fusion_users": 16,
                "resamples": 100,
            },
        }
    )


def _make_small(config: ConfigDict) -> None:
    config.name = "anime_small"
    config.dry_run = False
    config.vocabulary.path = ""  # of 16,390 tokens most are those of no item
    config.general_mix.hub = ""
    config.model.checkpoint = "scratch"
    config.model.dtype = "float32"
    config.model.remat = False
    config.model.scratch.tokens = 8192
    config.model.scratch.num_layers = 4
    config.model.scratch.width = 256
    config.model.scratch.num_heads = 4
    config.model.scratch.num_kv_heads = 4
    config.model.scratch.head_dim = 64
    config.model.scratch.mlp_width = 768
    config.sft.trainable = "all"
    config.loader.batch_size = 4
    config.loader.row_tokens = 448
    config.loader.max_rows = 40_000
    lengths = {"phase0_general": 60, "phase1_linking": 100, "phase2_reasoning": 260}
    for name, steps in lengths.items():
        config.stages[name].num_epochs = 0
        config.stages[name].num_steps = steps
        config.stages[name].learning_rate = 1e-3
    config.train.eval_every = 130
    config.train.checkpoint_every = 65
    config.train.patience = 0
    config.monitor.eval_every_steps = 65
    config.monitor.max_bytes = 50_000
    config.evaluate.batch_size = 32
    config.evaluate.valid_users = 64
