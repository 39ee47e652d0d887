"""Raw log to records: `python -m launch.prepare --config=amazon_beauty --workdir=W`.

Writes W/prepared (columns, splits, items.parquet, users.parquet, manifest.json).
"""

from __future__ import annotations

from launch import program
from pipelines.prepare import prepare


def main(job: program.Job) -> None:
    """Prepares the log and prints the counts of every stage."""
    manifest = prepare(job.config.data.to_dict(), job.prepared, overwrite=job.overwrite)
    for stage, counts in manifest["counts"].items():
        print(stage, " ".join(f"{name}={value}" for name, value in counts.items()))
    print(f"wrote {job.prepared}")


if __name__ == "__main__":
    program.run(main)
