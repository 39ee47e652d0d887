"""Quantisers side by side: `python -m launch.compare_sids --config=amazon_beauty --workdir=W`.

Makes SIDs of the prepared catalogue in several ways (`--quantisers=given,rq_kmeans,rq_vae`) and
writes W/sids/compare/index.html and compare.json: reconstruction error, codebook use, perplexity,
collisions, seconds, and how much each level tells of the next item, on validation targets. Leaves
W/sids/sids.json, which the other steps use, as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from launch import make_sids, program, wiring
from minirec.evaluation.sid_comparison import Comparison, QuantiserScores, write_comparison
from minirec.evaluation.sid_information import (
    Transitions,
    item_information,
    prefix_information,
    transitions_of,
)
from pipelines.prepared import Prepared

QUANTISERS: Mapping[str, Mapping[str, Any]] = {
    "given": {"source": "given"},
    "rq_kmeans": {"source": "rq_kmeans"},
    "rq_vae": {"source": "rq_vae"},
    "rq_vae_rotation": {"source": "rq_vae", "rq_vae.estimator": "rotation"},
    "rq_vae_gradient": {"source": "rq_vae", "rq_vae.codebook_update": "gradient"},
    "rq_vae_gradient_rotation": {
        "source": "rq_vae",
        "rq_vae.codebook_update": "gradient",
        "rq_vae.estimator": "rotation",
    },
}
"""What can be compared, by name: what each changes in `config.sids`."""

_FOLDER = "compare"
_QUANTISERS = flags.DEFINE_list(
    "quantisers",
    [],
    f"What to compare: {', '.join(QUANTISERS)}. Default: rq_kmeans and rq_vae and, where "
    "config.sids.path names an index, given.",
)


def chosen_quantisers(names: Sequence[str], config: ConfigDict) -> list[str]:
    """Returns the names to compare, by default those that the config can make.

    Raises:
        ValueError: a name is unknown, or occurs twice.
    """
    if not names:
        return [*(["given"] if config.path else []), "rq_kmeans", "rq_vae"]
    for number, name in enumerate(names):
        if name not in QUANTISERS:
            raise ValueError(f"--quantisers: {name!r} is not known; there are {list(QUANTISERS)}")
        if name in names[:number]:
            raise ValueError(f"--quantisers: {name!r} occurs twice; each can stand there once")
    return list(names)


def quantiser_config(config: ConfigDict, name: str) -> ConfigDict:
    """Returns `config.sids` as a quantiser of the list changes it.

    Items that collide are left so, unless that is what the quantiser is about: a level that numbers
    them would hide how well the others do.
    """
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({"collisions": "keep", **QUANTISERS[name]})
    return changed


def validation_transitions(prepared: Prepared) -> Transitions:
    """Returns the neighbours of the training sequences, and last items with validation targets.

    Raises:
        ValueError: there are none.
    """
    item, offsets = prepared.training_items()
    stop = prepared.views("valid")[:, 2]
    column = prepared.columns["item"]
    held_out = np.stack([column[stop - 1], column[stop]], axis=1)
    try:
        return transitions_of(item, offsets, held_out, prepared.num_items)
    except ValueError as error:
        raise ValueError(f"{prepared.folder}: transitions of the records: {error}") from error


def run_comparison(job: program.Job, names: Sequence[str] = ()) -> Comparison:
    """Makes the SIDs, judges them and writes the page.

    Raises:
        ValueError: a name or a setting is wrong, or the records and the SIDs do not fit.
        FloatingPointError: the training of an RQ-VAE diverged.
    """
    sids, seed = job.config.sids, job.config.seed
    folder = job.config.data.source.get("folder", "")
    names = chosen_quantisers(names, sids)
    configs = {name: quantiser_config(sids, name) for name in names}
    for config in configs.values():
        make_sids.check(config, folder)
    prepared = wiring.load_prepared(job)
    transitions = validation_transitions(prepared)
    needs_vectors = any(config.source != "given" for config in configs.values())
    vectors = make_sids.item_vectors(prepared, sids, seed) if needs_vectors else None
    quantisers = {}
    for name, config in configs.items():
        started = time.monotonic()
        table, report = make_sids.make_table(prepared, config, seed, folder, vectors)
        seconds = time.monotonic() - started
        quantisers[name] = QuantiserScores(
            source=report["source"],
            settings=dict(QUANTISERS[name]),
            codes=table.codes,
            codebook_sizes=table.codebook_sizes,
            relative_error=relative_error(report),
            information=prefix_information(table.codes, transitions),
            seconds=seconds,
        )
        print(_line(name, quantisers[name]), flush=True)
    comparison = Comparison(
        name=job.config.name,
        vectors=sids.vectors if needs_vectors else "none",
        quantisers=quantisers,
        item_level=item_information(transitions),
        num_transitions=len(transitions.train),
        config=job.config.to_dict(),
        seed=seed,
    )
    write_comparison(job.sids / _FOLDER, comparison)
    return comparison


def relative_error(report: Mapping[str, Any]) -> list[float] | None:
    """Returns the error of each level by the vectors' variance; None where there are no vectors."""
    if "reconstruction_error" not in report:
        return None
    variance = report["variance"]
    return [error / variance if variance > 0 else 0.0 for error in report["reconstruction_error"]]


def _line(name: str, scores: QuantiserScores) -> str:
    values = {"items_sharing_sid": str(scores.report["items_sharing_sid"])}
    if scores.relative_error:
        values["relative_error"] = f"{scores.relative_error[-1]:.4f}"
    values["bits"] = ",".join(f"{entry.bits:.3f}" for entry in scores.information[:-1])
    values["seconds"] = f"{scores.seconds:.1f}"
    return " ".join([name, *(f"{key}={value}" for key, value in values.items())])


def main(job: program.Job) -> None:
    """Prints a line a quantiser, and where the page is."""
    comparison = run_comparison(job, _QUANTISERS.value)
    print(f"item_pairs bits={comparison.item_level.bits:.3f}")
    print(f"page={job.sids / _FOLDER / 'index.html'}")


if __name__ == "__main__":
    program.run(main)
