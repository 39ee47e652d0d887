"""The defaults: a config for your own log starts here and changes what differs.

Every field that an experiment may set stands in this file, so that a mistyped name is an error.
"""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict, FieldReference


def data_folder(name: str) -> str:
    """Returns the folder `name` below the one that the environment's MINIREC_DATA names.

    Where that is unset the name itself stands in the path, so that an error shows it.
    """
    return str(Path(os.environ.get("MINIREC_DATA") or "$MINIREC_DATA") / name)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the defaults, locked: a field that is not here cannot be set.

    Raises:
        ValueError: a variant; there is none.
    """
    check_variant(variant, ("",))
    config = ConfigDict()
    config.name = "base"
    config.seed = 0

    # Where the log comes from: `name` is a file of pipelines/sources, whose own fields (see its
    # `Config`) stand beside it.
    config.data = ConfigDict(
        {
            "source": {
                "name": "sasrec",
                "folder": "",
                "interactions": "",
                "attributes": "",
                "index_offset": 0,
            },
            # Least interactions of a user and of an item; 0: off. A field of any type, since it may
            # be two numbers, of users and of items: --config.data.k_core=5,10.
            "k_core": FieldReference(5, field_type=object),
            "on_bad_rows": "error",  # or "skip": left out, and counted in the manifest
            # Rows before the one date or date-time (UTC where it has no zone), and at the other or
            # later, are no part of the log; "": no bound.
            "time_from": "",
            "time_to": "",
            # Events of one user at one time: as the log has them, or "shuffled": drawn by lot.
            "ties": "log",
            # "keep", "drop_exact" (user, item, type and time), "drop_consecutive" (an item twice
            # running) or "first" (of a user and an item); see pipelines/prepare/duplicates.py.
            "duplicates": "keep",
            "split": {"name": "leave_one_out"},
        }
    )

    # Where the semantic IDs come from.
    config.sids = ConfigDict(
        {
            "source": "rq_kmeans",  # "rq_vae", or "given", with `path` to an index.json
            "path": "",  # from data.source.folder on; a pattern such as *.index.json will do
            "codebook_sizes": (256, 256, 256),
            "vectors": "both",  # "text", "cooccurrence", "both", or the path of an .npy
            "dim": 64,  # width of the item vectors
            "text_weight": 0.5,  # share of the text in "both"
            "window": 3,  # how far apart two items of a history may stand to count as a pair
            "iterations": 30,
            "balance": 0.0,  # a code's items at most, in shares of N / K (2.0, say); 0: no limit
            "seed": -1,  # of vectors and codebooks; -1: the experiment's
            "collisions": "extra_level",  # or "spare_capacity" (no level more), or "keep"
            "start": "",  # a codebooks.npz that "rq_vae" goes on from, made of the same vectors
            # Of source "rq_vae"; see minirec/sids/rq_vae_config.py.
            "rq_vae": {
                "hidden_widths": (256,),
                "latent_dim": 128,
                "num_steps": 3000,
                "batch_size": 1024,
                "learning_rate": 3e-3,
                "weight_decay": 1e-4,
                "commitment": 0.25,
                "estimator": "straight_through",  # or "rotation"
                "codebook_update": "ema",  # or "gradient"
                "ema_decay": 0.95,
                "kmeans_start": True,
                "revive_below": 0.01,  # of an even share of a batch; 0: codes stay dead
            },
        }
    )

    # How records become batches.
    config.loader = ConfigDict(
        {
            "batch_size": 96,
            "max_items": 20,  # items of history, the newest
            "examples": "histories",  # or "windows"
            "pack": True,
            "row_tokens": 0,  # 0: as long as the longest example
            "stride": 0,  # new items a window of a long history; 0: half a window
            # Whether a history's first item is a target too, so that users without one are learnt.
            "first_items": True,
            "num_workers": 0,
            "num_threads": 1,
            "prefetch": 4,
        }
    )

    config.model = ConfigDict(
        {
            # "items": a position an item, of its SID and of its own row, and a small decoder of
            # SIDs behind it. "tokens": a position a token of a SID, and nothing of the items.
            "positions": "items",
            "level_width": 256,  # inner width of that small decoder
            "num_layers": 2,
            "width": 128,
            "num_heads": 4,
            "num_kv_heads": 4,
            "head_dim": 32,
            "mlp_width": 384,
            "rope_theta": 10_000.0,
            "norm_eps": 1e-6,
            "qk_norm": True,
            "qkv_bias": False,
            "dropout": 0.4,
            "remat": False,
            "dtype": "float32",
            "tie_embeddings": False,
        }
    )

    # What a model with a position an item learns; see minirec/training/tasks/item_task.py.
    config.loss = ConfigDict(
        {
            "sid_weight": 1.0,
            "item_weight": 1.0,
            "num_negatives": 16_384,  # items drawn a step; all, in a catalogue no larger
        }
    )

    config.train = ConfigDict(
        {
            # Passes over the training rows, of which a warm-up is at most a quarter. 0: as many as
            # `num_steps` makes.
            "num_epochs": 15,
            "min_steps": 400,  # where `num_epochs` makes fewer: a small log
            "max_steps": 8000,  # where it makes more: half an hour on 2 CPU cores; 0: no limit
            "num_steps": 1000,  # where `num_epochs` is 0
            "accumulate": 1,
            "learning_rate": 2e-3,
            "warmup_steps": 100,
            "schedule": "cosine",
            "end_fraction": 0.05,
            "weight_decay": 0.1,
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-8,
            # Of the weights' average, which is what is evaluated; 0: none. A warm-up holds it to
            # (t - 1) / (t + 9) after t steps: .9 after 91, .99 after 991.
            "average_decay": 0.0,
            "clip_norm": 1.0,
            "label_smoothing": 0.0,
            "eval_every": 200,
            "checkpoint_every": 200,
            "log_every": 20,
            "patience": 5,  # evaluations without a better one before the run stops; 0: never
        }
    )

    # Over how many devices training and search are spread: the rows of a batch over `data` times
    # `fsdp`, parameters and optimizer state over `fsdp`. One size may be -1: all that are left.
    config.mesh = ConfigDict({"data": 1, "fsdp": 1})

    # `exclude_seen` holds for the model and the baselines alike.
    # Probabilities over the codes that the catalogue has behind a prefix, "children", are what a
    # model with a position an item learns; over all tokens, "vocab", what the other kind learns.
    config.search = ConfigDict({"num_beams": 50, "normalize": "children", "exclude_seen": True})

    config.evaluate = ConfigDict(
        {
            "batch_size": 16,  # users; on CPU more of them leave the cache, a GPU or TPU wants more
            "valid_users": 2000,  # that select a checkpoint; 0: all, here and below
            "fusion_users": 5000,  # of validation, that choose how the system weights its sources
            "test_users": 0,
            "resamples": 1000,
        }
    )
    return config.lock()


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Checks the part of `--config=NAME:VARIANT` behind the colon.

    Raises:
        ValueError: it is none of `known`.
    """
    if variant not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"config variant {variant!r} is not known; there are {names}")


def make_smoke(config: ConfigDict, num_steps: int = 30) -> None:
    """Makes a config run in well under a minute: a tiny model, few steps, few users."""
    config.model.num_layers = 1
    config.model.width = 32
    config.model.num_heads = 2
    config.model.num_kv_heads = 1
    config.model.head_dim = 16
    config.model.mlp_width = 64
    config.model.dropout = 0.0
    config.loader.batch_size = 16
    config.train.num_epochs = 0
    config.train.num_steps = num_steps
    config.train.learning_rate = 5e-3
    config.train.warmup_steps = 5
    config.train.eval_every = num_steps // 2
    config.train.checkpoint_every = num_steps // 3
    config.train.log_every = num_steps // 6
    config.search.num_beams = 20
    config.evaluate.batch_size = 64
    config.evaluate.valid_users = 128
    config.evaluate.fusion_users = 128
    config.evaluate.test_users = 512
    config.evaluate.resamples = 100
