"""Amazon Industrial_and_Scientific 2018 as MiniOneRec ships it, with its SIDs and its split.

SCORES
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for the whole run, "smoke" for a minute's.

    Raises:
        ValueError: an unknown variant.
    """
    base.check_variant(variant, VARIANTS)
    config = base.get_config()
    config.name = "amazon_industrial"
    folder = base.data_folder("amazon_industrial")
    config.data.source = ConfigDict(
        {
            "name": "minionerec",
            "folder": folder,
            # 660 users have no training row, only one history item before their first validation
            # or test target. None of these interactions is a target. Counted in, they change
            # popularity a little (and make the baselines stronger); they fill no training batch.
            "train_on_context": True,
        }
    )
    config.data.k_core = 0
    config.data.split = ConfigDict({"name": "as_given"})
    config.sids.source = "given"
    config.sids.collisions = "keep"
    config.sids.path = f"{folder}/index/Industrial_and_Scientific.index.json"
    config.loader.max_items = 10
    config.model.dtype = "bfloat16"
    config.model.remat = True  # on CPU it is faster to compute activations twice than to keep them
    config.model.dropout = 0.3
    config.train.num_steps = 1500
    config.train.eval_every = 125
    config.train.checkpoint_every = 125
    config.train.label_smoothing = 0.1
    config.search.exclude_seen = False  # its users do buy the same again
    if variant == "smoke":
        config.name = "amazon_industrial_smoke"
        base.make_smoke(config)
    return config
