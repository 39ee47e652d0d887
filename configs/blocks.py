"""The blocks that experiments are composed of; those of language models: `language_blocks.py`.

Every field that an experiment may set stands here, so that a mistyped name is an error. A config
for your own log starts from `configs/own_log.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict, FieldReference

from configs import feed_blocks


def sid(name: str) -> ConfigDict:
    """Returns the experiment of a decoder of SIDs, locked: a field that is not here cannot be set.

    Args:
        name: of the experiment; its runs are called so.
    """
    return experiment(
        name,
        family="sid",
        data=data(),
        sids=sids(),
        loader=loader(),
        model=sid_decoder(),
        loss=loss(),
        train=train(),
        search=search(),
        evaluate=evaluate(),
    )


def feed(name: str) -> ConfigDict:
    """Returns the experiment of a ranker and two towers, locked.

    Args:
        name: of the experiment; its runs are called so.
    """
    return experiment(
        name,
        family="feed",
        data=data(),
        loader=loader(),
        model=feed_model(),
        loss=feed_loss(),
        train=train(),
        search=feed_search(),
        evaluate=evaluate(),
        feed=feed_blocks.feed_serving(),
    )


def experiment(name: str, *, family: str, **blocks: ConfigDict | bool) -> ConfigDict:
    """Returns a family's experiment of its own blocks and of those that every family has, locked.

    Args:
        name: of the experiment.
        family: a module of launch/wiring with an `EXPERIMENT`.
        **blocks: the family's own.
    """
    config = ConfigDict({"name": name, "family": family, "seed": 0, **blocks})
    # Over how many devices training and search are spread: the rows of a batch over `data` times
    # `fsdp`, parameters and optimizer state over `fsdp`. One size may be -1: all that are left.
    config.mesh = ConfigDict({"data": 1, "fsdp": 1})
    # Weights & Biases: "online" (needs WANDB_API_KEY, in the environment or in .env), "offline" or
    # "disabled".
    config.wandb = ConfigDict({"mode": "disabled", "project": "minirec", "entity": ""})
    return config.lock()


def data() -> ConfigDict:
    """Returns where the log comes from and how it becomes records."""
    # Where the log comes from: `name` is a file of pipelines/sources, whose own fields (see its
    # `Config`) stand beside it.
    return ConfigDict(
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
            # later, are not part of the log; "": no bound.
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


def sids() -> ConfigDict:
    """Returns where the semantic IDs come from."""
    return ConfigDict(
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


def loader() -> ConfigDict:
    """Returns how records become batches."""
    return ConfigDict(
        {
            "batch_size": 96,
            "max_items": 20,  # items of history, the newest
            "examples": "histories",  # or "windows"
            "pack": True,
            "row_items": 0,  # 0: as long as the longest example
            "stride": 0,  # new items a window of a long history; 0: half a window
            # Whether a history's first item is a target too, so that users without one are learnt.
            "first_items": True,
            "num_workers": 0,
            "num_threads": 1,
            "prefetch": 4,
        }
    )


def sid_decoder() -> ConfigDict:
    """Returns the model that writes SIDs."""
    return ConfigDict(
        {
            # "items": a position an item, of its SID and of its own row, and a small decoder of
            # SIDs behind it. "tokens": a position a token of a SID, and nothing of the items.
            "positions": "items",
            "level_width": 256,  # inner width of that small decoder
            # Words of an item's text, the heaviest, whose rows are added to its own; 0: none.
            "terms_per_item": 24,
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


def loss() -> ConfigDict:
    """Returns what a model with a position an item learns; see `ItemTask`."""
    return ConfigDict(
        {
            "sid_weight": 1.0,
            "item_weight": 1.0,
            "num_negatives": 16_384,  # items drawn a step; all, in a catalogue no larger
            # Chance that a target is replaced by an item whose text is near that of the two before.
            "neighbour_share": 0.0,
        }
    )


def feed_model() -> ConfigDict:
    """Returns ranker and towers; the trunk's fields hold for both."""
    return ConfigDict(
        {
            # Attributes that are identities beside the item's own, as the records spell them
            # ("categoryid" of "categoryid=50"); "": an item's first attribute.
            "attributes": (),
            "num_buckets": 16_384,  # rows of each identity's table
            "num_hashes": 2,  # rows of an id
            "hash_width": 32,
            # Whether a candidate says when, how often and how the user met it before.
            "seen_features": True,
            "vector_width": 64,  # of the towers' vectors
            "num_layers": 2,
            "width": 64,
            "num_heads": 2,
            "num_kv_heads": 2,
            "head_dim": 32,
            "mlp_width": 192,
            "rope_theta": 10_000.0,
            "norm_eps": 1e-6,
            "qk_norm": True,
            "qkv_bias": False,
            "dropout": 0.2,
            "remat": False,
            "dtype": "float32",
        }
    )


def feed_loss() -> ConfigDict:
    """Returns what ranker and towers learn; see `FeedTask`."""
    return ConfigDict(
        {
            "actions": "",  # weights of the event types' losses, "view=1,addtocart=3"; "": 1 each
            "num_recent": 8,
            "num_negatives": 8,
            "num_shared": 4,
            "num_retrieved": 2048,
            "power": 0.75,
            "next_weight": 1.0,
            "action_weight": 0.1,
            "retrieval_weight": 1.0,
            "identity_dropout": 0.0,
        }
    )


def feed_search() -> ConfigDict:
    """Returns how long a feed's lists are, and where its candidates come from."""
    return ConfigDict({"num_items": 50, "retrieved": 200, "exclude_seen": False})


def train() -> ConfigDict:
    """Returns for how long and how a model is trained."""
    return ConfigDict(
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


def search() -> ConfigDict:
    """Returns how recommendations are searched for."""
    # `exclude_seen` holds for the model and the baselines alike.
    # Probabilities over the codes that the catalogue has behind a prefix, "children", are what a
    # model with a position an item learns; over all tokens, "vocab", what the other kind learns.
    return ConfigDict({"num_beams": 50, "normalize": "children", "exclude_seen": True})


def evaluate(**more: str) -> ConfigDict:
    """Returns on whom a run is evaluated; `more` are a family's own fields."""
    return ConfigDict(
        {
            "batch_size": 16,  # users; on CPU more of them leave the cache, a GPU or TPU wants more
            "valid_users": 2000,  # that select a checkpoint; 0: all, here and below
            "fusion_users": 20_000,  # of validation, that choose how the system fuses its sources
            "test_users": 0,
            "resamples": 1000,
            **more,
        }
    )
