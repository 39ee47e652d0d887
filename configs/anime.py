"""Watch lists of anime teach a language model what people watch.

    export MINIREC_DATA=...   # the folder that holds anime/
    python -m launch.tasks --config=anime --workdir=W

`docs/watch_histories.md` has the commands with what they print.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks, parts

VARIANTS = ("",)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" alone.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = blocks.watch("anime")
    config.tasks.folder = parts.data_folder("anime")
    config.tasks.source_db = "anilist.sqlite"
    config.tasks.semantic_ids_path = "semantic_ids.jsonl"
    # The file's only time is one and the same in all rows: nothing says what came first.
    config.tasks.order_by = "none"
    config.tasks.task_b_mask_modes = ("random",)
    return config
