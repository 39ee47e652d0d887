"""What a step was made with, and whether the config at hand asks for just that.

A step writes down the part of the config that shapes what it leaves: `prepare` in manifest.json,
`make_sids` in sids_report.json, `train` in config.json, `evaluate` in report.json. Each later step
compares all of it, so that no setting is silently ignored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from launch.wiring.program import Job, UsageError
from minirec import files
from minirec.files.schema import check
from minirec.training.run_folder import CONFIG_FILE, MISSING, read_config
from pipelines.prepare.prepare import plain_config

CHANGE_NOTHING = {
    "data.source.folder": "where the log lies; what lies there is compared by its hashes",
    "loader.num_threads": "how fast batches come; the stream is the same",
    "loader.num_workers": "how fast batches come; the stream is the same",
    "loader.prefetch": "how fast batches come; the stream is the same",
    "mesh.data": "how many devices share a batch; a run may go on with more or fewer",
    "mesh.fsdp": "how many devices share the parameters; a run may go on with more or fewer",
    "tasks.folder": "where the lists lie; what lies there is compared by its hashes",
    "model.checkpoint": "where the first weights lie; the record has the hashes of their files",
    "evaluate.batch_size": "how many users are searched for at a time; each is by itself",
    "corpus.folder": "where the documents lie; what lies there is compared by its hashes",
    "retrieval": "how passages are found; an index of other settings is made again",
    "chat": "how questions are answered; each is answered by the config at hand",
    "gate": "which questions are answered; each is looked at by the config at hand",
    "family": "whose model it is; another family has other blocks, and they are compared",
    "wandb": "who else is told of a run",
    "feed": "how a run is served as a feed; a server takes what it is started with",
}
"""Fields that change nothing in what any step leaves, and why."""

_BOTH = ("search", "evaluate.prompt")
EVALUATION = (
    *_BOTH,
    "evaluate.test_users",
    "evaluate.fusion_users",
    "evaluate.resamples",
    "evaluate.overlap",
    "evaluate.kneser_ney_order",
)
"""What shapes an evaluation. How is searched selects a run's best model too, and may be another
when it is evaluated."""

# They have records of their own.
_PARTS = ("data", "sids", "tasks", "corpus", "tokenizer")
# Fields that a run's record may lack, and what they were then.
_ONCE = (
    ("model", "terms_per_item", 0),
    ("loss", "neighbour_share", 0.0),
    ("sft", "codebooks_path", ""),
    ("sft", "ridge_lambda", 1e-3),
    ("sft", "max_fit_samples", 50_000),
)


def sids_part(config: ConfigDict) -> dict[str, Any]:
    """Returns the part of a config that shapes the SIDs, a JSON object; see `sids_seed`."""
    part = _plain(config.sids)
    return part | {"seed": None if config.sids.source == "given" else sids_seed(config)}


def sids_seed(config: ConfigDict) -> int:
    """Returns the seed of vectors and codebooks: the experiment's, unless they have their own."""
    return config.seed if config.sids.seed < 0 else config.sids.seed


def run_part(config: ConfigDict) -> dict[str, Any]:
    """Returns the part of a config that shapes a run, beside its records and SIDs."""
    part = {name: value for name, value in _plain(config).items() if name not in _PARTS}
    return without(part, [field for field in (*CHANGE_NOTHING, *EVALUATION) if field not in _BOTH])


def evaluation_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a config, a JSON object, that shapes an evaluation beside its run."""
    return {field: _value(config, field) for field in EVALUATION}


def is_in(field: str, fields: Iterable[str]) -> bool:
    """Returns whether a field is one of some, or within one that is a block."""
    return any(f"{field}.".startswith(f"{one}.") for one in fields)


def without(config: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Returns a config, a JSON object, without some of its fields."""
    config = json.loads(json.dumps(config))
    for field in fields:
        *path, name = field.split(".")
        part = config
        for step in path:
            part = part.get(step, {})
        part.pop(name, None)
    return config


def check_data(job: Job, manifest: Mapping[str, Any]) -> None:
    """Compares the config's data with those that were prepared.

    Raises:
        ValueError: a field differs, or the log lies in another folder, and is another.
    """
    _check_folder(job, manifest)
    _check(
        data_differences(job.config, manifest),
        job.prepared / "manifest.json",
        "run launch.prepare --overwrite to have the data as this config says, take the config they "
        "were prepared with, or another --workdir",
    )


def _check_folder(job: Job, manifest: Mapping[str, Any]) -> None:
    """Compares the log in the config's folder with the one that was prepared, if they are two."""
    there = manifest["config"]["source"].get("folder")
    asked = job.config.data.source.get("folder", there)
    if asked == there:
        return
    inputs = {Path(asked) / name: checksum for name, checksum in manifest["inputs"].items()}
    if not any(path.is_file() for path in inputs):
        print(
            f"note: config.data.source.folder is {asked!r}, where the log that was prepared from "
            f"{there!r} does not lie: {job.prepared} is taken as it is",
            file=sys.stderr,
        )
        return
    for path, checksum in inputs.items():
        same = path.is_file() and path.stat().st_size == checksum["bytes"]
        if not same or files.sha256(path) != checksum["sha256"]:
            raise UsageError(
                f"{path}: is not what was prepared: config.data.source.folder is {there!r} in "
                f"{job.prepared / 'manifest.json'}, {asked!r} now; take another --workdir for "
                "another log, or run launch.prepare --overwrite"
            )


def data_differences(config: ConfigDict, manifest: Mapping[str, Any]) -> list[str]:
    """Returns what of the config's data was another in those that were prepared, in words."""
    return _differences(manifest["config"], plain_config(config.data), "data")


def sids_differences(config: ConfigDict, report: Mapping[str, Any]) -> list[str]:
    """Returns what of the config's SIDs was another in those that a report describes, in words."""
    return _differences(report["config"], sids_part(config), "sids")


def block(config: ConfigDict, name: str) -> dict[str, Any]:
    """Returns a block of a config as JSON has it."""
    return _plain(config[name])


def part_differences(config: ConfigDict, name: str, there: Mapping[str, Any]) -> list[str]:
    """Returns what of a block of the config was another in what a step left, in words."""
    return _differences(there, _plain(config[name]), name)


def check_sids(job: Job, report: Mapping[str, Any], folder: Path) -> None:
    """Compares the config's SIDs with those that lie in a folder.

    Raises:
        ValueError: a field differs.
    """
    remedy = (
        "run launch.make_sids --overwrite to have SIDs as this config says, or take the config "
        "they were made with"
        if folder == job.sids
        else "take the config that the run's SIDs were made with, or train another run (--run)"
    )
    _check(sids_differences(job.config, report), folder / "sids_report.json", remedy)


def check_run(job: Job) -> dict[str, Any]:
    """Returns the run's record, once its config is found to be the one at hand.

    Raises:
        ValueError: a field differs, or the record is damaged.
    """
    trained = read_config(job.run)
    check(trained, {"config": dict}, str(job.run / CONFIG_FILE))
    there = _with_present_names(trained["config"], job.config)
    _check(
        _differences(there, run_part(job.config), skip=_BOTH),
        job.run / CONFIG_FILE,
        "take the config that the run was trained with, or train another one (--run=NAME), or "
        "launch.train --overwrite",
    )
    return trained


def _with_present_names(trained: dict[str, Any], config: ConfigDict) -> dict[str, Any]:
    """Returns a run's config with its fields as they are called now, and those that it had not.

    A row was once counted in tokens, and nothing was read of the items' text.
    """
    there = without(trained, ())
    for block, field, was in _ONCE:
        if block in config and field in config[block] and isinstance(there.get(block), dict):
            there[block] = {field: was} | there[block]
    match there.get("loader"):
        case {"row_tokens": 0, **rest} if "row_items" in config.loader:
            there["loader"] = rest | {"row_items": 0}
    return there


def check_report(job: Job, path: Path) -> None:
    """Compares the config with the one that a report of the run was made with, if there is one.

    Raises:
        ValueError: a field differs, and the job does not say to overwrite.
    """
    if job.overwrite or not path.is_file():
        return
    there = evaluation_part(files.read_json(path, {"config": dict})["config"])
    differences = _differences(there, evaluation_part(_plain(job.config)))
    _check(differences, path, "--overwrite the report, or take the config that it was made with")


def runs_of(job: Job, field: str, value: str) -> list[str]:
    """Returns the runs in the workdir whose record says so of what they were trained on."""
    found = []
    for path in sorted(job.workdir.glob(f"runs/*/{CONFIG_FILE}")):
        try:
            if read_config(path.parent).get(field) == value:
                found.append(path.parent.name)
        except ValueError:  # Damaged: nothing hangs on it.
            continue
    return found


def _check(differences: list[str], where: Path, remedy: str) -> None:
    if differences:
        raise UsageError(f"{where}: {'; '.join(differences)}: {remedy}")


def _differences(there: Any, here: Any, name: str = "", skip: tuple[str, ...] = ()) -> list[str]:
    """Returns where two JSON values differ, in words."""
    if is_in(name, (*CHANGE_NOTHING, *skip)):
        return []
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            difference
            for key in {**there, **here}
            for difference in _differences(
                there.get(key, MISSING), here.get(key, MISSING), f"{name}.{key}".strip("."), skip
            )
        ]
    if there == here:
        return []
    return [f"config.{name} is {_shown(there)} there, {_shown(here)} now"]


def _shown(value: Any) -> str:
    return value if value is MISSING else json.dumps(value, ensure_ascii=False)


def _plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON has it, where a tuple is a list."""
    return json.loads(json.dumps(config.to_dict()))


def _value(config: Any, field: str) -> Any:
    for name in field.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config
