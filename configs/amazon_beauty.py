"""Amazon Beauty 2014, 5-core, leave-one-out, all 22,363 users and 12,101 items ranked.

SCORES
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("", "own_sids", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for LETTER's SIDs, "own_sids" for the project's own, "smoke" for a minute's run.

    Raises:
        ValueError: an unknown variant.
    """
    base.check_variant(variant, VARIANTS)
    config = base.get_config()
    config.name = "amazon_beauty"
    folder = base.data_folder("amazon_beauty")
    config.data.source = ConfigDict(
        {
            "name": "sasrec",
            "folder": folder,
            "interactions": "*.txt",
            "attributes": "*_item2attributes.json",
            "index_offset": 1,  # Beauty.txt counts items from 1, Beauty.index.json from 0
        }
    )
    config.model.dtype = "bfloat16"
    config.model.remat = True  # on CPU it is faster to compute activations twice than to keep them
    config.train.num_steps = 6000
    config.train.warmup_steps = 300
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.train.label_smoothing = 0.1
    if variant == "own_sids":
        config.name = "amazon_beauty_own_sids"
        config.sids.vectors = "cooccurrence"
    else:
        config.sids.source = "given"
        config.sids.collisions = "keep"
        config.sids.path = "*.index.json"
    if variant == "smoke":
        config.name = "amazon_beauty_smoke"
        base.make_smoke(config)
    return config
