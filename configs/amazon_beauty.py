"""Amazon Beauty 2014, 5-core, leave-one-out, all 22,363 users and 12,101 items ranked.

    export MINIREC_DATA=...   # the folder that holds amazon_beauty/
    for step in prepare make_sids train evaluate; do
      python -m launch.$step --config=amazon_beauty --workdir=W
    done

On 2 CPU cores (AMD EPYC) training takes 16.7 min (`:own_sids`: 16.5 min) and evaluation 49 s
(47 s). Test split, item level, seed 0, invalid 0, seen items excluded:

                                        HR@5    NDCG@5   HR@10   NDCG@10
    model, LETTER's SIDs                .0393   .0264    .0611   .0334
    model, own SIDs (`:own_sids`)       .0461   .0297    .0722   .0381
    item_transition                     .0582   .0435    .0793   .0502
    popularity                          .0075   .0041    .0115   .0055

Validation (2,000 users) chose step 6,000 of 6,000 with LETTER's SIDs, 5,500 with the project's own
(RQ-KMeans on co-occurrence vectors of the training split). `amazon_beauty:smoke` is a run of about
half a minute. For another set in the same layout set `config.data.source.folder`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("", "letter", "smoke")


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
    config.train.num_epochs = 12
    config.train.learning_rate = 3e-3
    config.train.eval_every = 300
    config.train.checkpoint_every = 300
    config.loss.num_negatives = 4096
    if variant == "letter":
        config.name = "amazon_beauty_letter"
        config.sids.source = "given"
        config.sids.collisions = "keep"
        config.sids.path = "*.index.json"
    if variant == "smoke":
        config.name = "amazon_beauty_smoke"
        base.make_smoke(config, num_steps=400)
    return config
