"""A generated shop's feed: trained in minutes, then served with live events.

    python -m launch.feed --config=feed_quickstart --workdir=W     # http://127.0.0.1:8000

On 2 CPU cores (AMD EPYC) beside many other jobs training took 7 min; 500 validation targets, seed
0: NDCG@10 of the ranker .526.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks, parts

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "smoke" for a run of some seconds.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = blocks.feed("feed_quickstart")
    config.data.source = ConfigDict(
        {
            "name": "generated",
            "num_users": 1500,
            "num_items": 600,
            "seed": 0,
            "signal": 1.0,
            "columns": "price",
            "shop": True,
        }
    )
    config.data.k_core = 0
    config.data.split = ConfigDict({"name": "per_user_ratio"})
    config.model.attributes = ("brand", "department")
    config.model.num_buckets = 2048
    config.model.hash_width = 16
    config.model.num_layers = 1
    config.model.vector_width = 32
    config.model.dropout = 0.1
    config.loss.actions = "view=1,addtocart=3,transaction=10"
    config.loader.max_items = 32
    config.loss.num_retrieved = 512
    config.loader.batch_size = 16
    config.train.num_epochs = 0
    config.train.num_steps = 240
    config.train.learning_rate = 3e-3
    config.train.warmup_steps = 20
    config.train.eval_every = 120
    config.train.checkpoint_every = 120
    config.evaluate.batch_size = 64
    config.evaluate.valid_users = 500
    config.feed.category = "department"
    config.feed.price = "price"
    config.feed.weights = "view=1,addtocart=3,transaction=10"
    if variant == "smoke":
        config.name = "feed_quickstart_smoke"
        config.data.source.num_users = 150
        config.data.source.num_items = 300
        config.model.width = 32
        config.model.head_dim = 16
        config.model.mlp_width = 64
        config.train.num_steps = 30
        config.train.warmup_steps = 5
        config.train.eval_every = 15
        config.train.checkpoint_every = 15
        config.train.log_every = 5
        config.loss.num_retrieved = 256
        config.evaluate.valid_users = 64
        config.evaluate.test_users = 128
        config.evaluate.fusion_users = 64
        config.evaluate.resamples = 100
    return config
