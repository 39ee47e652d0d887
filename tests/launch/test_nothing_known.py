"""Where nothing is known of any item, an error says what would help with this very data."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from launch import make_sids
from pipelines.prepared import Prepared


@pytest.mark.parametrize(
    ("kind", "worded", "near", "advice"),
    [
        ("text", False, True, "; use 'cooccurrence'"),
        ("cooccurrence", True, False, "; use 'text'"),
        # Nobody is sent from one kind to the other and back.
        ("text", False, False, "give the items titles, texts or attributes"),
        ("cooccurrence", False, False, r"vectors of your own \(config.sids.vectors=FILE.npy\)"),
        ("both", False, False, "SIDs \\(config.sids.source='given'\\)"),
    ],
)
def test_the_other_kind_is_named_only_where_it_would_help(smoke, kind, worded, near, advice):
    job, _ = smoke
    prepared = Prepared.load(job.prepared)
    if not worded:
        nothing = {"text": pl.lit(""), "attributes": pl.lit([]).cast(pl.List(str))}
        prepared = dataclasses.replace(prepared, items=prepared.items.with_columns(**nothing))
    if not near:
        users = np.arange(9)
        alone = np.stack([users, users, users + 1], axis=1)
        prepared = dataclasses.replace(prepared, train_sequences=alone)
    sids = job.config.sids.copy_and_resolve_references()
    sids.vectors = kind
    with pytest.raises(ValueError, match=rf"config.sids.vectors='{kind}': no.*{advice}") as told:
        make_sids.make_table(prepared, sids, 0)
    assert ("; use '" in str(told.value)) == (worded or near)
