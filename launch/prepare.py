"""Raw log to records: `python -m launch.prepare --config=amazon_beauty --workdir=W`.

Writes W/prepared (columns, splits, items.parquet, users.parquet, manifest.json).
"""

from __future__ import annotations

import sys
import time

from launch import program
from pipelines.prepare import prepare

_TELL_EVERY_SECONDS = 5.0


def main(job: program.Job) -> None:
    """Prepares the log and prints the counts of every stage, and what was left out and why."""
    begin = told = time.monotonic()
    num_read = 0

    def progress(num_rows: int) -> None:
        nonlocal told, num_read
        num_read = num_rows
        now = time.monotonic()
        if now - told >= _TELL_EVERY_SECONDS:
            told = now
            rate = num_rows / (now - begin)
            print(f"read {num_rows:,} rows, {rate:,.0f} a second", file=sys.stderr)

    manifest = prepare(
        job.config.data.to_dict(), job.prepared, overwrite=job.overwrite, progress=progress
    )
    for stage, counts in manifest["counts"].items():
        print(stage, " ".join(f"{name}={value}" for name, value in counts.items()))
    for reason, found in manifest["skipped"].items():
        print(f"skipped {reason}={found['rows']} (first: {found['first']})")
    seconds = time.monotonic() - begin
    print(f"seconds={seconds:.1f}")
    if num_read:  # None where the data set lies there already.
        print(f"rows_per_second={num_read / seconds:.0f}")
    print(f"wrote {job.prepared}")


if __name__ == "__main__":
    program.run(main)
