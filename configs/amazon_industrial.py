"""Amazon Industrial_and_Scientific 2018 as MiniOneRec ships it, with its SIDs and its split.

    export MINIREC_DATA=...   # the folder that holds amazon_industrial/
    for step in prepare make_sids train evaluate; do
      python -m launch.$step --config=amazon_industrial --workdir=W
    done

On 2 CPU cores (AMD EPYC) training takes 96 s and evaluation 6 s. Test split, 4,533 views, seed 0,
invalid 0, repeated items allowed, trained on a partial training file (10,393 of 36,259 rows):

    level                    HR@5    NDCG@5   HR@10   NDCG@10
    item   model             .0843   .0636    .1143   .0732
    item   item_transition   .0973   .0786    .1110   .0830
    item   popularity        .0527   .0423    .0600   .0446
    SID    model             .0900   .0723    .1200   .0819
    SID    item_transition   .0982   .0848    .1132   .0896
    SID    popularity        .0529   .0485    .0602   .0510

Above the transition count in HR@10 (within the interval), below it in NDCG. Validation chose step
1,250 of 1,500. `amazon_industrial:smoke` is a run of about half a minute.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("", "given", "smoke")


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
    config.sids.path = "index/*.index.json"
    config.loader.max_items = 10
    config.model.dtype = "bfloat16"
    config.model.dropout = 0.3
    config.train.num_epochs = 30
    config.train.learning_rate = 1e-3
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.search.exclude_seen = False  # its users do buy the same again
    if variant == "given":
        config.name = "amazon_industrial_given"
        config.sids.source = "given"
        config.sids.collisions = "keep"
    if variant == "smoke":
        config.name = "amazon_industrial_smoke"
        base.make_smoke(config, num_steps=400)
    return config
