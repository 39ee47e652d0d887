"""Documents to passages: `python -m launch.prepare_text --config=text_quickstart --workdir=W`.

Writes W/text: train.jsonl and eval.jsonl, a passage a line, and manifest.json, which says how many
letters came in, how many went out, and for which reason each of the others was left out. What lies
there stays where it is of the same config and documents.
"""

from __future__ import annotations

import sys
import time

from launch.wiring import made_with, program
from launch.wiring.text_corpus import corpus_config, require_text, text_folder
from minirec import files
from pipelines.text.corpus.prepare import corpus_inputs, prepare_corpus
from pipelines.text.passages import MANIFEST, read_manifest


def main(job: program.Job) -> None:
    """Writes the passages and prints how many there are and what was left out.

    Raises:
        ValueError: what `prepare_corpus` raises, or other passages lie there and the job does not
            say to overwrite them.
    """
    require_text(job, "launch.prepare_text")
    config = corpus_config(job)
    folder = text_folder(job)
    begin = time.monotonic()

    def progress(characters: int) -> None:
        seconds = time.monotonic() - begin
        print(f"read {characters:,} characters in {seconds:.0f} s", file=sys.stderr)

    if not _lies_there(job):
        prepare_corpus(config, folder, progress)
    manifest = read_manifest(folder)
    for part in ("train", "eval"):
        counts = manifest["counts"][part] | {"characters": manifest["characters"][part]}
        print(part, " ".join(f"{name}={value}" for name, value in counts.items()))
    for reason, characters in manifest["characters"]["left_out"].items():
        if characters:
            times = manifest["counts"]["left_out"][reason]
            print(f"left_out {reason}: characters={characters} times={times}")
    for row in manifest["first_bad_rows"]:
        print(files.shown(f"skipped {manifest['counts']['bad_rows']} lines, such as {row}"))
    print(f"characters={manifest['characters']['in']}")
    print(f"seconds={time.monotonic() - begin:.1f}")
    print(f"wrote {folder}")


def _lies_there(job: program.Job) -> bool:
    """Returns whether the passages of this config and of these documents lie there.

    Raises:
        UsageError: others do, and the job does not say to overwrite them.
    """
    folder = text_folder(job)
    if job.overwrite:
        return False
    try:
        manifest = read_manifest(folder)
    except ValueError:  # None, or damaged: to be made again.
        return False
    differences = made_with.part_differences(job.config, "corpus", manifest["config"])
    if corpus_inputs(corpus_config(job)) != manifest["inputs"]:
        differences.append("the documents are others than then")
    if differences:
        raise program.UsageError(
            f"{folder / MANIFEST}: {'; '.join(differences)}: --overwrite them, or take another "
            "--workdir"
        )
    return True


if __name__ == "__main__":
    program.run(main)
