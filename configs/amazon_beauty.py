"""Amazon Beauty 2014, 5-core, leave-one-out, all 22,363 users and 12,101 items ranked.

    export MINIREC_DATA=...   # the folder that holds amazon_beauty/
    for step in prepare make_sids train evaluate; do
      python -m launch.$step --config=amazon_beauty --workdir=W
    done

On 2 CPU cores (AMD EPYC) training takes 3.9 min and evaluation 64 s. Test split, item level, seen
items excluded, invalid 0, mean of seeds 0, 1, 2 (`docs/results.md` has the intervals):

                        HR@5    NDCG@5   HR@10   NDCG@10
    system (seed 0)     .0787   .0566    .1095   .0666
    item_head           .0668   .0481    .0944   .0569
    model               .0569   .0398    .0821   .0479
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
