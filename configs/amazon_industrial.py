"""Amazon Industrial_and_Scientific 2018 as MiniOneRec ships it, with its split.

    export MINIREC_DATA=...   # the folder that holds amazon_industrial/
    for step in prepare make_sids train evaluate; do
      python -m launch.$step --config=amazon_industrial --workdir=W
    done

On 2 CPU cores (AMD EPYC) beside other jobs training took 140 s. Test split, 4,533 views, item
level, invalid 0, repeated items allowed, trained on a partial training file (10,393 of 36,259
rows), seed 0:

                        HR@5    NDCG@5   HR@10   NDCG@10
    system              .1434   .1157    .1802   .1276
    item_head           .1207   .0882    .1487   .0972
    model_head          .1196   .0878    .1498   .0974
    model               .1090   .0807    .1350   .0891
    transition_content  .1262   .0974    .1575   .1075
    item_transition     .0973   .0786    .1110   .0830
    popularity          .0527   .0423    .0600   .0446

`amazon_industrial:given` takes MiniOneRec's SIDs instead of the project's own (RQ-KMeans on titles
and descriptions); `amazon_industrial:smoke` is a run of about half a minute. For another set in the
same layout set `config.data.source.folder`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks, parts

VARIANTS = ("", "given", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for the whole run, "given" for MiniOneRec's SIDs, "smoke" for a short one.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = blocks.sid("amazon_industrial")
    folder = parts.data_folder("amazon_industrial")
    config.data.source = ConfigDict(
        {
            "name": "minionerec",
            "folder": folder,
            # 660 users have no training row, only one history item before their first validation
            # or test target. None of these interactions is such a target. Counted in, they make
            # the baselines a little stronger; the model learns each as a first item.
            "train_on_context": True,
            "columns": "",  # fields of the items that a server's rules speak of
        }
    )
    config.data.k_core = 0
    config.data.split = ConfigDict({"name": "as_given"})
    config.sids.path = "index/*.index.json"
    config.sids.vectors = "text"  # better on validation than with co-occurrence (docs/results.md)
    config.loader.max_items = 10
    config.model.dtype = "bfloat16"
    config.model.dropout = 0.3
    config.model.tie_embeddings = True  # few rows to learn from; with Beauty's it is no help
    # For the system, the item table and what it orders; on validation (docs/results.md).
    config.loss.neighbour_share = 0.4
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
        parts.make_smoke(config, num_steps=400)
    return config
