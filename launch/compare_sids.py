"""Quantisers side by side: `python -m launch.compare_sids --config=amazon_beauty --workdir=W`.

Makes SIDs of the prepared catalogue in several ways (`--quantisers=given,rq_kmeans,rq_vae`), all of
the same item vectors, and writes W/sids/compare/index.html and compare.json: reconstruction error,
codebook use, perplexity, collisions, seconds, how much each level tells of the next item, and how
much of the items' neighbourhoods, by text and by transitions, it keeps together. For that the last
item of every training sequence is held out, of the vectors as of the counts; nothing of validation
or test is looked at. Leaves W/sids/sids.json, which the other steps use, as it is.

`--sweep=W/sweeps/NAME` sets the validation NDCG@10 of the models beside that a sweep has trained on
such SIDs, and how what is known before training goes with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from launch import make_sids
from launch.sweep.results import RECORD, RESULTS, read_lines
from launch.wiring import catalogue, program, quantisers
from minirec import files
from minirec.evaluation.sid_comparison import (
    Comparison,
    QuantiserScores,
    additive_error,
)
from minirec.evaluation.sid_information import (
    Transitions,
    hold_out_last,
    item_information,
    prefix_information,
    transitions_of,
)
from minirec.evaluation.sid_neighbourhoods import (
    NEAREST,
    Neighbourhood,
    kept_by_chance,
    kept_by_prefixes,
    transition_neighbourhood,
)
from minirec.recommend.content import content_rows, nearest
from minirec.recommend.sources import MODEL
from minirec.reports.sid_page import write_comparison
from minirec.sids import SidTable
from minirec.training import compare
from pipelines.prepared import Prepared

QUANTISERS: Mapping[str, Mapping[str, Any]] = {
    "given": {"source": "given"},
    "rq_kmeans": {"source": "rq_kmeans"},
    "rq_kmeans_balanced": {"source": "rq_kmeans", "balance": 1.0},
    "rq_vae": {"source": "rq_vae", "rq_vae.codebook_update": "ema"},
    "rq_vae_gradient": {"source": "rq_vae", "rq_vae.codebook_update": "gradient"},
    "rq_vae_rotation": {
        "source": "rq_vae",
        "rq_vae.codebook_update": "ema",
        "rq_vae.estimator": "rotation",
    },
}
"""What can be compared, by name: what each changes in `config.sids`."""

_DEFAULT = ("rq_kmeans", "rq_kmeans_balanced", "rq_vae", "rq_vae_gradient")
_FOLDER = "compare"
_QUANTISERS = flags.DEFINE_list(
    "quantisers",
    [],
    f"What to compare: {', '.join(QUANTISERS)}. Default: {', '.join(_DEFAULT)} and, where "
    "config.sids.path names an index, given.",
)

_SWEEP = flags.DEFINE_string(
    "sweep", None, "Folder of a sweep over config.sids, whose models' NDCG@10 stands beside."
)


def chosen_quantisers(names: Sequence[str], config: ConfigDict) -> list[str]:
    """Returns the names to compare, by default those that the config can make.

    Raises:
        ValueError: a name is unknown, or occurs twice.
    """
    if not names:
        return [*(["given"] if config.path else []), *_DEFAULT]
    for number, name in enumerate(names):
        if name not in QUANTISERS:
            raise ValueError(f"--quantisers: {name!r} is not known; there are {list(QUANTISERS)}")
        if name in names[:number]:
            raise ValueError(f"--quantisers: {name!r} occurs twice; each can stand there once")
    return list(names)


def quantiser_config(config: ConfigDict, name: str) -> ConfigDict:
    """Returns `config.sids` as a quantiser of the list changes it; each begins afresh."""
    changed = config.copy_and_resolve_references()
    changed.balance, changed.start = 0.0, ""
    changed.update_from_flattened_dict(dict(QUANTISERS[name]))
    return changed


def run_comparison(
    job: program.Job, names: Sequence[str] = (), sweep: Path | None = None
) -> Comparison:
    """Makes the SIDs, judges them and writes the page.

    Items that collide are left so: a level that numbers them would hide how well the others do.

    Args:
        job: whose records and settings.
        names: of `QUANTISERS`; none: those that the config can make.
        sweep: folder of a sweep over their settings, to read NDCG@10 from; None: no models.

    Raises:
        ValueError: a name or a setting is wrong, the given SIDs do not fit the records, or no
            training sequence has three items.
        FloatingPointError: the training of an RQ-VAE diverged.
        OSError: no page could be written.
    """
    sids, seed = job.config.sids, job.config.seed
    folder = job.config.data.source.get("folder", "")
    names = chosen_quantisers(names, sids)
    configs = {name: quantiser_config(sids, name) for name in names}
    for config in configs.values():
        quantisers.check(config, folder)
    ndcg = {} if sweep is None else trained_ndcg(job, sweep, names)
    prepared = catalogue.load_prepared(job)
    given = {
        name: SidTable.load(quantisers.index_file(config.path, folder), prepared.raw_item_ids)
        for name, config in configs.items()
        if config.source == "given"
    }
    try:
        item, offsets, held_out = hold_out_last(*prepared.training_items())
        transitions = transitions_of(item, offsets, held_out, prepared.num_items)
    except ValueError as error:
        raise ValueError(f"{prepared.folder}: training sequences: {error}") from error
    files.check_writable(job.sids / _FOLDER)
    vectors, _ = make_sids.item_vectors(prepared, sids, seed, (item, offsets))
    around = neighbourhoods(prepared, transitions)
    made = {}
    for name, config in configs.items():
        started = time.monotonic()
        if name in given:
            codes, sizes = given[name].codes, given[name].codebook_sizes
            error = additive_error(vectors, codes)
        else:
            result = quantisers.quantise(vectors, config, seed)
            codes, sizes = result.codes, result.codebook_sizes
            error = [value / (result.variance or 1.0) for value in result.reconstruction_error]
        seconds = time.monotonic() - started
        made[name] = QuantiserScores(
            settings=dict(QUANTISERS[name]),
            codes=codes,
            codebook_sizes=sizes,
            relative_error=error,
            information=prefix_information(codes, transitions),
            seconds=seconds,
            kept={kind: kept_by_prefixes(codes, found) for kind, found in around.items()},
            by_chance=kept_by_chance(codes),
        )
        print(_line(name, made[name]), flush=True)
    comparison = Comparison(
        name=job.config.name,
        vectors=f"{sids.vectors}, {vectors.shape[1]} wide",
        quantisers=made,
        item_level=item_information(transitions),
        num_transitions=len(transitions.train),
        config=job.config.to_dict(),
        seed=seed,
        ndcg=ndcg,
    )
    write_comparison(job.sids / _FOLDER, comparison)
    return comparison


def trained_ndcg(job: program.Job, folder: Path, names: Sequence[str]) -> dict[str, float]:
    """Returns NDCG@10 of the models that a sweep has trained on each quantiser's SIDs.

    A run belongs to a quantiser if its setting changes `config.sids` alone, and makes of it what
    the quantiser makes of the job's. Runs of several seeds count by their mean; all are of
    validation users.

    Args:
        job: whose records are compared on.
        folder: of the sweep.
        names: of `QUANTISERS`.

    Raises:
        ValueError: no file of a sweep's results, a sweep over other records, or none of its runs
            belongs to a quantiser.
    """
    path, record = folder / RESULTS, folder / RECORD
    if not path.is_file() or not record.is_file():
        raise ValueError(f"--sweep: {path} is missing; expected the folder of a sweep")
    shape = {"config": {"data": dict, "sids": dict}}
    swept = files.read_sealed(record, "run the sweep again", shape)["config"]
    ours = json.loads(json.dumps(job.config.data.to_dict()))
    if differences := compare(swept["data"], ours):
        field, theirs, own = differences[0]
        raise ValueError(
            f"--sweep: {record}: config.data.{field} is {theirs} there and {own} here: models of "
            "other records tell nothing of these SIDs"
        )
    wanted = {name: _plain(quantiser_config(job.config.sids, name)) for name in names}
    found: dict[str, list[float]] = {}
    for line in read_lines(path).values():
        fields = line.get("fields") or {}
        if line["split"] != "valid" or any(not field.startswith("sids.") for field in fields):
            continue
        config = ConfigDict(swept["sids"])
        config.update_from_flattened_dict(fields, "sids.")
        for name, sids in wanted.items():
            if _plain(config) == sids:
                found.setdefault(name, []).append(line["metrics"][MODEL]["item"]["ndcg@10"])
    if not found:
        raise ValueError(
            f"--sweep: {path} has no run on validation users whose setting makes of config.sids "
            f"what a quantiser makes of it, such as {names[0]}: {dict(QUANTISERS[names[0]])}"
        )
    return {name: float(np.mean(values)) for name, values in found.items()}


def _plain(config: ConfigDict) -> dict[str, Any]:
    return json.loads(json.dumps(config.to_dict()))


def neighbourhoods(prepared: Prepared, transitions: Transitions) -> dict[str, Neighbourhood]:
    """Returns each item's nearest, by kind: by its text, and by the transitions that are counted.

    A kind of which nothing is known, as the text of items without any, is left out.
    """
    items = prepared.items
    like = nearest(
        content_rows(items["title"].to_list(), items["attributes"].to_list()), kept=NEAREST
    )
    found = {
        "content": Neighbourhood(like.offsets, like.item),
        "transitions": transition_neighbourhood(transitions.train, prepared.num_items),
    }
    return {kind: one for kind, one in found.items() if len(one.item)}


def _line(name: str, scores: QuantiserScores) -> str:
    levels = scores.report["levels"]
    values = {
        "relative_error": f"{scores.relative_error[-1]:.4f}",
        "used": ",".join(str(level["used"]) for level in levels),
        "perplexity": ",".join(f"{level['perplexity']:.0f}" for level in levels),
        "items_sharing_sid": str(scores.report["items_sharing_sid"]),
        "bits": ",".join(f"{entry.bits:.3f}" for entry in scores.information[:-1]),
        **{
            f"{kind}_kept": ",".join(f"{share:.3f}" for share in shares)
            for kind, shares in scores.kept.items()
        },
        "seconds": f"{scores.seconds:.1f}",
    }
    return " ".join([name, *(f"{key}={value}" for key, value in values.items())])


def main(job: program.Job) -> None:
    """Prints a line a quantiser, and where the page is."""
    program.require_log(job, "launch.compare_sids")
    folder = None if _SWEEP.value is None else Path(_SWEEP.value)
    comparison = run_comparison(job, _QUANTISERS.value, folder)
    for measure, correlation in comparison.correlations().items():
        print(f"correlation with ndcg@10 of {len(comparison.ndcg)}: {measure} {correlation:+.2f}")
    print(f"item_pairs bits={comparison.item_level.bits:.3f}")
    print(f"wrote {job.sids / _FOLDER / 'index.html'}")


if __name__ == "__main__":
    program.run(main)
