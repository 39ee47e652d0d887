"""Blocks of the families that fine-tune language models: on SID tasks, on watch histories."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks
from configs.prompts import sft_prompts
from configs.watch_words import watch_words


def language(name: str) -> ConfigDict:
    """Returns the experiment of a language model that is fine-tuned on SID tasks, locked.

    Args:
        name: of the experiment; its runs are called so.
    """
    return blocks.experiment(
        name,
        family="language",
        data=blocks.data(),
        sids=blocks.sids(),
        prompts=sft_prompts(),
        loader=task_loader(),
        model=checkpoint(),
        sft=sft(),
        train=blocks.train(),
        search=blocks.search(),
        evaluate=blocks.evaluate(prompt="sids_to_sid"),
    )


def watch(name: str) -> ConfigDict:
    """Returns the experiment of a language model that learns from watch histories, locked.

    Args:
        name: of the experiment; its runs are called so.
    """
    return blocks.experiment(
        name,
        family="watch",
        dry_run=False,
        # What a dry run has another: fields of the experiment, as they nest.
        when_dry=ConfigDict(),
        data=blocks.data(),
        sids=blocks.sids(),
        tasks=watch_tasks(),
        vocabulary=ConfigDict({"path": ""}),  # JSON with all `tokens`; "": those that occur
        general_mix=general_mix(),
        monitor=monitor(),
        loader=row_loader(),
        model=checkpoint(),
        sft=sft(),
        stages=watch_stages(),
        train=stage_train(),
        search=blocks.search(),
        evaluate=blocks.evaluate(),
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
    config = blocks.train()
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
