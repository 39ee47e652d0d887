"""Downloading an artifact: one subfolder of a Hugging Face repository at the pinned revision."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from minirec.artifacts.manifest import Artifact
from minirec.artifacts.verify import describe, problems, record
from minirec.files.workplace import replace_folder, workplace


def download(
    artifact: Artifact, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Artifact:
    """Downloads an artifact and returns it with its files recorded.

    Files are gathered in `.NAME.REVISION.partial` beside `folder`, checked, and only then moved to
    `folder` together. What a download that was cut off had gathered stays there, and the next one
    goes on from it. A folder that is as recorded is left as it is, without a look at the network.

    Args:
        artifact: what to download, of kind "model" or "dataset".
        folder: where its files shall be.
        overwrite: replace a folder that holds something else.

    Raises:
        ValueError: nothing can be downloaded (the message says what to place where instead), what
            came is not what the manifest says, or `folder` holds something else.
    """
    if artifact.kind == "source":
        raise ValueError(f"{artifact.name}: {instructions(artifact, folder)}")
    folder = Path(folder)
    if folder.exists():
        wrong = problems(artifact, folder)
        if not wrong:
            return artifact
        if not overwrite:
            raise ValueError(
                f"{describe(artifact, wrong)}\n--overwrite replaces the folder by a new download"
            )
    partial = folder.parent / f".{folder.name}.{artifact.revision[:12]}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    _fetch(artifact, folder, partial)
    fetched = partial / artifact.subfolder
    wrong = problems(artifact, fetched, recorded_only=True)
    if wrong:
        for name in wrong:
            # Otherwise the next download would take it for a file that is done.
            if name and (fetched / name).is_file():
                (fetched / name).unlink()
        raise ValueError(
            f"{describe(artifact, wrong)}\n"
            f"{folder} is unchanged; the next download fetches these files again"
        )
    recorded = record(artifact, fetched)
    # Where the whole repository is wanted, the hub's notes lie among its files. They go last: by
    # them the next download knows, without a network too, that not all is there.
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    _replace(folder, fetched)
    shutil.rmtree(partial, ignore_errors=True)
    return recorded


def instructions(artifact: Artifact, folder: str | os.PathLike[str]) -> str:
    """Returns what a person without a network, or for a source, has to place where."""
    if artifact.kind == "source":
        return (
            f"recorded only; it is not needed to run anything here. To read it: git clone "
            f"https://github.com/{artifact.repository} && git checkout {artifact.revision}"
        )
    names = f" ({', '.join(artifact.files)})" if artifact.files else ""
    return (
        f"Take the files{names} of {artifact.url} from where there is a network, place them in "
        f"{Path(folder).absolute()}, without the subfolder's own name, and run "
        "`python -m launch.artifacts verify --record`"
    )


def _fetch(artifact: Artifact, folder: Path, partial: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{artifact.name}: downloading needs huggingface-hub: pip install '.[lm]'. "
            f"Or: {instructions(artifact, folder)}"
        ) from error
    try:
        snapshot_download(
            repo_id=artifact.repository,
            repo_type=artifact.kind,
            revision=artifact.revision,
            allow_patterns=[f"{artifact.subfolder}/*"] if artifact.subfolder else None,
            local_dir=partial,
        )
    except Exception as error:  # Those of its HTTP client have no base in common with its own.
        raise ValueError(
            f"{artifact.name}: {artifact.url} cannot be downloaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())}\n"
            f"{instructions(artifact, folder)}"
        ) from error


def _replace(folder: Path, by: Path) -> None:
    """Puts a folder in another's place, which is removed afterwards."""
    if not folder.exists():
        os.replace(by, folder)
        return
    with workplace(folder) as new:
        os.replace(by, new)
        replace_folder(new, folder)
