"""Published checkpoints: `python -m launch.artifacts init | download | verify | probe`.

- `init` writes the manifest (`--manifest`, artifacts.json), which pins MiniOneRec's released
  checkpoint and source to their commits;
- `download` fetches an artifact's subfolder to `--folder`/NAME, goes on with what an earlier one
  left, checks it and records each file's size and SHA-256;
- `verify` compares size and SHA-256 of every file; `--record` records what is not known yet;
- `probe` loads a checkpoint, says what it is and runs it once.

Sums are not known before the first download, so that the first is trusted; from then on the
manifest holds them. `--artifact=NAME,…` names some of the artifacts. `--dry_run` says what a verb
would do, without network, and touches nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags

from launch.wiring import program, verbs
from minirec import artifacts
from minirec.artifacts.verify import describe

_MANIFEST = flags.DEFINE_string("manifest", "artifacts.json", "The manifest of artifacts.")
_FOLDER = flags.DEFINE_string("folder", "artifacts", "Where each artifact has a folder.")
_ARTIFACT = flags.DEFINE_list("artifact", [], "Names of artifacts; default: all.")
_RECORD = flags.DEFINE_bool("record", False, "verify: record sizes and sums not known yet.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "probe: a checkpoint's folder, instead of the manifest's."
)
flags.adopt_module_key_flags(verbs)


def init() -> None:
    """Writes the manifest with the default pins."""
    path = Path(_MANIFEST.value)
    defaults = artifacts.default_artifacts()
    if verbs.DRY_RUN.value:
        print(f"would write {path}:")
        print(json.dumps(artifacts.manifest_json(defaults), indent=2))
        return
    if path.exists() and not program.may_overwrite():
        raise program.UsageError(f"{path}: there is one already; --overwrite replaces it")
    artifacts.write_manifest(path, defaults)
    print(f"wrote {path}")


def download() -> None:
    """Downloads artifacts, and records their files in the manifest."""
    known = _read()
    for artifact in _chosen(known):
        folder = _folder(artifact)
        if artifact.kind == "source":
            print(f"{artifact.name}: {artifacts.instructions(artifact, folder)}")
        elif verbs.DRY_RUN.value:
            print(f"would download {artifact.url} to {folder}: {_files_line(artifact)}")
        else:
            known[artifact.name] = artifacts.download(
                artifact, folder, overwrite=program.may_overwrite()
            )
            # One after the other, so that what came before a failure stays recorded.
            if known[artifact.name] != artifact:
                artifacts.write_manifest(_MANIFEST.value, known)
            print(f"{artifact.name}: {folder}: {_files_line(known[artifact.name])}")


def verify() -> None:
    """Compares artifacts with the manifest."""
    known = _read()
    wrong = []
    for artifact in _chosen(known):
        folder = _folder(artifact)
        if artifact.kind == "source":
            print(f"{artifact.name}: recorded only, nothing to verify")
        elif verbs.DRY_RUN.value:
            recording = " and record the rest" if _RECORD.value else ""
            print(f"would verify {folder}: {_files_line(artifact)}{recording}")
        elif _RECORD.value:
            known[artifact.name] = artifacts.record(artifact, folder)
            if known[artifact.name] != artifact:
                artifacts.write_manifest(_MANIFEST.value, known)
            print(f"{artifact.name}: {folder}: recorded, {_files_line(known[artifact.name])}")
        elif found := artifacts.problems(artifact, folder):
            wrong.append(describe(artifact, found))
        else:
            print(f"{artifact.name}: {folder}: verified, {_files_line(artifact)}")
    if wrong:
        raise ValueError("\n".join(wrong))


def probe() -> None:
    """Loads checkpoints and says what they are."""
    if _CHECKPOINT.value:
        folders = [Path(_CHECKPOINT.value)]
    else:
        folders = [_folder(artifact) for artifact in _chosen(_read()) if artifact.kind == "model"]
    for folder in folders:
        if verbs.DRY_RUN.value:
            there = "there" if (folder / "config.json").is_file() else "not there yet"
            print(f"would load the checkpoint in {folder} ({there}) and run it once")
            continue
        from minirec.artifacts.probe import probe_checkpoint  # The other verbs need no JAX.

        print(f"checkpoint={folder}")
        for line in probe_checkpoint(folder).lines():
            print(line)


def _read() -> dict[str, artifacts.Artifact]:
    path = Path(_MANIFEST.value)
    if path.exists():
        return artifacts.read_manifest(path)
    if verbs.DRY_RUN.value:
        print(f"{path}: not there yet; these are the default pins")
        return artifacts.default_artifacts()
    raise program.UsageError(f"{path}: no manifest; `python -m launch.artifacts init` writes one")


def _chosen(known: dict[str, artifacts.Artifact]) -> list[artifacts.Artifact]:
    for name in _ARTIFACT.value:
        if name not in known:
            raise program.UsageError(
                f"--artifact={name}: {_MANIFEST.value} has none of that name; it has "
                f"{', '.join(known)}"
            )
    return [known[name] for name in _ARTIFACT.value or known]


def _folder(artifact: artifacts.Artifact) -> Path:
    return Path(_FOLDER.value) / artifact.name


def _files_line(artifact: artifacts.Artifact) -> str:
    if not artifact.files:
        return "files not known yet"
    size = sum(record.size or 0 for record in artifact.files.values())
    return f"{len(artifact.files)} files, {size:,} bytes"


VERBS = {"init": init, "download": download, "verify": verify, "probe": probe}

if __name__ == "__main__":
    verbs.start(VERBS, sys.argv)
