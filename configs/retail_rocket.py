"""Retail Rocket's shop log: a feed of two towers and a ranker, split 80/10/10 within each user.

    export MINIREC_DATA=...   # the folder that holds retail_rocket/
    for step in prepare train evaluate; do
      python -m launch.$step --config=retail_rocket --workdir=W
    done

On 2 CPU cores (AMD EPYC) beside other jobs training took 11 min, evaluation with the choice of the
feed's weights 8 min. Test split, 13,500 targets, repeats allowed, seed 0:

                        HR@1     HR@10    NDCG@10  HR@50
    feed                .4581    .6504    .5583    .7323
    ranker              .4584    .6001    .5387    .6559
    two_tower           .4060    .5373    .4673    .6516
    recency_transition  .4489    .6196    .5426    .6416
    recency             .4489    .5899    .5305    .6041
    item_transition     .2201    .4039    .3114    .4355
    popularity          .0035    .0150    .0083    .0413

The feed is all of ranker, towers, transition count and likeness of attributes, as validation users
chose.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks, parts

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "smoke" for a run of about a minute.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = blocks.feed("retail_rocket")
    config.data.source = ConfigDict(
        {
            "name": "retailrocket",
            "folder": parts.data_folder("retail_rocket"),
            "events": "view=1,addtocart=1,transaction=1",
            "interactions": "events.csv",
            "properties": "item_properties_part*.csv",
            "categories": "",  # the part that is public has no tree
            "attributes": "categoryid",
            "text": "",
        }
    )
    config.data.k_core = 3
    config.data.split = ConfigDict({"name": "per_user_ratio"})
    config.model.attributes = ("categoryid",)
    config.loss.actions = "view=1,addtocart=3,transaction=10"
    # There are no brands in what is public: the category stands in for them.
    config.feed.brand = config.feed.category = "categoryid"
    config.feed.weights = "view=1,addtocart=3,transaction=10"
    config.loader.max_items = 32
    config.loader.batch_size = 32
    config.loss.identity_dropout = 0.2
    config.model.dropout = 0.3
    config.train.num_epochs = 5
    config.train.learning_rate = 1e-3
    config.train.eval_every = 70
    config.train.checkpoint_every = 70
    config.evaluate.batch_size = 64
    if variant == "smoke":
        config.name = "retail_rocket_smoke"
        config.model.num_layers = 1
        config.model.width = 32
        config.model.head_dim = 16
        config.model.mlp_width = 64
        config.train.num_epochs = 0
        config.train.num_steps = 60
        config.train.eval_every = 30
        config.train.checkpoint_every = 30
        config.evaluate.valid_users = 256
        config.evaluate.fusion_users = 256
        config.evaluate.test_users = 512
    return config
