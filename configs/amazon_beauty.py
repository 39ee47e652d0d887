"""Amazon Beauty 2014, 5-core, leave-one-out, all 22,363 users and 12,101 items ranked.

    export MINIREC_DATA=...   # the folder that holds amazon_beauty/
    for step in prepare make_sids train evaluate; do
      python -m launch.$step --config=amazon_beauty --workdir=W
    done

On 2 CPU cores (AMD EPYC) beside other jobs training took 11 min and evaluation, the choice of the
system included, 5 min. Test split, item level, seen items excluded, invalid 0, seed 0:

                        HR@5    NDCG@5   HR@10   NDCG@10
    system              .0814   .0579    .1141   .0685
    item_head           .0740   .0522    .1040   .0618
    model_head          .0708   .0502    .0990   .0592
    model               .0582   .0407    .0829   .0486
    transition_content  .0639   .0476    .0845   .0542
    item_transition     .0582   .0435    .0793   .0502
    popularity          .0075   .0041    .0115   .0055

`amazon_beauty:letter` takes LETTER's SIDs instead of the project's own (RQ-KMeans on attributes and
co-occurrence in the training split), `amazon_beauty:smoke` is a run of about half a minute. For
another set in the same layout set `config.data.source.folder`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import blocks, parts

VARIANTS = ("", "letter", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "" for the project's own SIDs, "letter" for LETTER's, "smoke" for a short run.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = blocks.sid("amazon_beauty")
    folder = parts.data_folder("amazon_beauty")
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
        parts.make_smoke(config, num_steps=400)
    return config
