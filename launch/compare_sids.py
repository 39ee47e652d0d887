"""Quantisers side by side: `python -m launch.compare_sids --config=amazon_beauty --workdir=W`.

Makes SIDs of the prepared catalogue in several ways (`--quantisers=given,rq_kmeans,rq_vae`), all of
the same item vectors, and writes W/sids/compare/index.html and compare.json: reconstruction error,
codebook use, perplexity, collisions, seconds, and how much each level tells of the next item. For
that the last item of every training sequence is held out, of the vectors as of the counts; nothing
of validation or test is looked at. Leaves W/sids/sids.json, which the other steps use, as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from launch import make_sids
from launch.wiring import catalogue, program, quantisers
from minirec import files
from minirec.evaluation.sid_comparison import (
    Comparison,
    QuantiserScores,
    additive_error,
)
from minirec.evaluation.sid_information import (
    hold_out_last,
    item_information,
    prefix_information,
    transitions_of,
)
from minirec.reports.sid_page import write_comparison
from minirec.sids import SidTable

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


def run_comparison(job: program.Job, names: Sequence[str] = ()) -> Comparison:
    """Makes the SIDs, judges them and writes the page.

    Items that collide are left so: a level that numbers them would hide how well the others do.

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
    )
    write_comparison(job.sids / _FOLDER, comparison)
    return comparison


def _line(name: str, scores: QuantiserScores) -> str:
    levels = scores.report["levels"]
    values = {
        "relative_error": f"{scores.relative_error[-1]:.4f}",
        "used": ",".join(str(level["used"]) for level in levels),
        "perplexity": ",".join(f"{level['perplexity']:.0f}" for level in levels),
        "items_sharing_sid": str(scores.report["items_sharing_sid"]),
        "bits": ",".join(f"{entry.bits:.3f}" for entry in scores.information[:-1]),
        "seconds": f"{scores.seconds:.1f}",
    }
    return " ".join([name, *(f"{key}={value}" for key, value in values.items())])


def main(job: program.Job) -> None:
    """Prints a line a quantiser, and where the page is."""
    comparison = run_comparison(job, _QUANTISERS.value)
    print(f"item_pairs bits={comparison.item_level.bits:.3f}")
    print(f"wrote {job.sids / _FOLDER / 'index.html'}")


if __name__ == "__main__":
    program.run(main)
