"""The blocks that experiments are composed of, and the experiment of each model family.

Every field that an experiment may set stands here, so that a mistyped name is an error. A config
for your own log starts from `configs/own_log.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict, FieldReference

from configs import feed_blocks
from configs.prompts import sft_prompts
from configs.watch_words import watch_words


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


def language(name: str) -> ConfigDict:
    """Returns the experiment of a language model that is fine-tuned on SID tasks, locked.

    Args:
        name: of the experiment; its runs are called so.
    """
    return experiment(
        name,
        family="language",
        data=data(),
        sids=sids(),
        prompts=sft_prompts(),
        loader=task_loader(),
        model=checkpoint(),
        sft=sft(),
        train=train(),
        search=search(),
        evaluate=evaluate(prompt="sids_to_sid"),
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


def watch(name: str) -> ConfigDict:
    """Returns the experiment of a language model that learns from watch histories, locked.

    Args:
        name: of the experiment; its runs are called so.
    """
    return experiment(
        name,
        family="watch",
        dry_run=False,
        # What a dry run has another: fields of the experiment, as they nest.
        when_dry=ConfigDict(),
        data=data(),
        sids=sids(),
        tasks=watch_tasks(),
        vocabulary=ConfigDict({"path": ""}),  # JSON with all `tokens`; "": those that occur
        general_mix=general_mix(),
        monitor=monitor(),
        loader=row_loader(),
        model=checkpoint(),
        sft=sft(),
        stages=watch_stages(),
        train=stage_train(),
        search=search(),
        evaluate=evaluate(),
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


def watch_tasks() -> ConfigDict:
    """Returns how rows are made of watch histories; see `pipelines/text/watch_config.py`."""
    return ConfigDict(
        {
            "folder": "",  # where the two files lie
            "source_db": "",  # SQLite, tables and columns as below
            "semantic_ids_path": "",  # a JSON object a line, with anime_id, tokens, codes, …
            "sid_id": "anime_id",
            "columns": {
                "items": "anime",
                "item_id": "anime_id",
                "title": "english_name",
                "title_else": "name",
                "genres": "genres",
                "studios": "studios",
                "year": "year",
                "season": "premiered",
                "type": "type",
                "source": "source",
                "synopsis": "synopsis",
                "themes": "",
                "separator": ", ",
                "missing": ("Unknown", "None", "-"),
                "lists": "user_anime",
                "list_user": "user_id",
                "list_item": "anime_id",
                "list_score": "score",
                "list_status": "watching_status",
            },
            # All that a list may hold; another one is an error.
            "statuses": {
                "1": "watching",
                "2": "completed",
                "3": "on hold",
                "4": "dropped",
                "6": "plan to watch",
            },
            "dropped_status": 4,
            "planned_status": 6,
            # A column of the lists, whole numbers or dates; "none": nothing tells an order.
            "order_by": "none",
            "target_examples": 400_000,
            "split_task_a": 0.5,
            "split_task_b": 0.25,
            "split_task_c": 0.25,
            "max_task_a_templates_per_anime": 12,
            "task_b_min_history": 4,
            "task_b_max_history": 30,
            "task_b_positive_score_min": 7,
            "task_b_allowed_statuses": (1, 2, 3, 4),
            "task_b_mask_modes": ("last", "random"),  # "last" needs an order
            "task_b_mask_marks": ("watch", "liked"),
            "task_c_liked": (1, 3),
            "pool_too_small": "repeat",  # or "shrink", or "error"
            "hold_out": {"users": 0.1, "items": 0.2, "least": 5},
            "seed": 42,
            "rebuild": False,
            "export_parquet": True,
            "write_manifest": True,
            "words": watch_words(),
        }
    )


def watch_source(folder: str, tasks: ConfigDict, targets: int = 4) -> ConfigDict:
    """Returns the source of records to evaluate on, which reads lists just as the tasks do.

    Args:
        folder: where the files lie.
        tasks: what `watch_tasks` returned; a change there is one here.
        targets: entries that a user is asked for at most.
    """
    names = (
        *("source_db", "semantic_ids_path", "sid_id", "dropped_status", "planned_status"),
        *("order_by", "task_b_positive_score_min", "task_b_allowed_statuses", "task_b_mask_modes"),
        *("task_b_mask_marks", "seed"),
    )
    lists = ConfigDict({name: tasks.get_ref(name) for name in names})
    for name in ("columns", "statuses", "hold_out"):
        lists[name] = tasks[name]
    source = {"name": "watch_lists", "folder": folder, "targets": targets}
    return ConfigDict(source | {"lists": lists})


def general_mix() -> ConfigDict:
    """Returns the general text that is mixed into fine-tuning."""
    return ConfigDict(
        {
            "ratio": 0.15,  # of the rows, and of the loss's weight
            "files": (),  # JSON lines, Parquet or .txt; see pipelines/text/general_text.py
            "hub": "",  # a data set of the Hugging Face hub, where no files are named
            "fallback": "",  # a local file, where neither is to be had
            "max_records": 100_000,
            "window": 128,  # tokens of a row of plain text
            "turns": {
                "system": "{text}\n",
                "human": "Question: {text}\nAnswer: ",
                "gpt": "{text}\n",
            },
        }
    )


def monitor() -> ConfigDict:
    """Returns what watches whether a model forgets; see `minirec/training/monitors.py`."""
    return ConfigDict(
        {
            "path": "",  # a text that nothing is trained on; "": no monitor
            "eval_every_steps": 200,
            "max_bytes": 0,  # of the text, from its beginning; 0: all
            "window": 256,  # tokens that are read at a time
            "batch_size": 4,
            "max_rise": 0.0,  # of the perplexity, as a share of the first; 0: no limit
            "stops": False,  # whether a rise beyond it ends the run
        }
    )


def watch_stages() -> ConfigDict:
    """Returns the stages of a run, in the order of their names; one without a length is off."""

    def stage(weights: tuple[float, float, float], num_epochs: int, general: float) -> ConfigDict:
        a, b, c = weights
        return ConfigDict(
            {
                "weights": {"A": a, "B": b, "C": c},  # shares of the rows that are no general text
                "general": general,  # its share; -1: general_mix.ratio
                "num_epochs": num_epochs,  # as many rows as so many passes over all have
                "num_steps": 0,  # instead
                "learning_rate": 2e-4,
                "warmup_steps": 50,
            }
        )

    return ConfigDict(
        {
            "phase0_general": stage((0.0, 0.0, 0.0), 0, 1.0),
            "phase1_linking": stage((0.85, 0.10, 0.05), 2, -1.0),
            "phase2_reasoning": stage((0.10, 0.45, 0.45), 3, -1.0),
        }
    )


def stage_train() -> ConfigDict:
    """Returns how all stages are trained; what each has of its own stands in `stages`."""
    own = ("num_epochs", "min_steps", "max_steps", "num_steps", "learning_rate", "warmup_steps")
    config = train()
    for name in own:
        del config[name]
    config.weight_decay = 0.0
    config.b2 = 0.999
    return config


def row_loader() -> ConfigDict:
    """Returns how rows of prompts and answers become batches."""
    return ConfigDict(
        {
            "batch_size": 8,
            "row_tokens": 1024,  # 0: what the longest example needs
            "max_rows": 0,  # rows of the tasks that are read, in their shuffled order; 0: all
            "pack": True,
            "num_workers": 0,
            "num_threads": 1,
            "prefetch": 4,
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


def task_loader() -> ConfigDict:
    """Returns how records become batches of prompts and answers."""
    return ConfigDict(
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


def checkpoint() -> ConfigDict:
    """Returns the language model to start from."""
    return ConfigDict(
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


def sft() -> ConfigDict:
    """Returns what of a language model is fine-tuned, and from where."""
    return ConfigDict(
        {
            # What the rows of SID tokens that the checkpoint lacks start from: "mean" of the old
            # rows, "random" in their distribution, the quantiser's "codebooks" projected into it,
            # which need SIDs of the project's own or a file, or a "ridge" regression from codes to
            # the embedding of the items' text.
            "new_rows": "mean",
            "codebooks_path": "",  # of SIDs that were given
            "ridge_lambda": 1e-3,
            "max_fit_samples": 50_000,
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
