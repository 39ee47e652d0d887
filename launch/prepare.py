"""Raw log to records: `python -m launch.prepare --config=amazon_beauty --workdir=W`.

Writes W/prepared (columns, splits, items.parquet, users.parquet, manifest.json). With
`--engine=spark` Spark reads, filters and sorts the log, on this machine or on a cluster; what it
writes is the same, byte for byte.
"""

from __future__ import annotations

import sys
import time

from absl import flags

from launch.wiring import program
from launch.wiring.engines import engine_of
from minirec import files
from pipelines.prepare.ordered_log import Engine, order_in_memory
from pipelines.prepare.prepare import prepare
from pipelines.prepared import read_manifest
from pipelines.spark.session import missing

_SPARK_MASTER = flags.DEFINE_string(
    "spark_master",
    "local[*]",
    "Where Spark runs: local[N] for N cores, local[*] for all, a cluster's address, or empty for "
    "what spark-submit or spark-defaults.conf say.",
)
_SPARK_CONF = flags.DEFINE_multi_string(
    "spark_conf", [], "NAME=VALUE of one of Spark's own settings; may be given several times."
)
_TELL_EVERY_SECONDS = 5.0


def main(job: program.Job, engine: Engine = order_in_memory) -> None:
    """Prepares the log and prints the counts of every stage, what was left out and why, its health.

    What a person should mind before they trust a figure goes to stderr.
    """
    program.require_log(job, "launch.prepare")
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

    _check_replaced(job)
    manifest = prepare(
        job.config.data.to_dict(),
        job.prepared,
        overwrite=job.overwrite,
        progress=progress,
        engine=engine,
    )
    from minirec.reports.log_health import health_lines, health_notes  # It brings JAX.

    for stage, counts in manifest["counts"].items():
        print(stage, " ".join(f"{name}={value}" for name, value in counts.items()))
    for reason, found in manifest["skipped"].items():
        print(files.shown(f"skipped {reason}={found['rows']} (first: {found['first']})"))
    for line in health_lines(manifest["health"]):
        print(line)
    exclude_seen = job.config.search.exclude_seen if "search" in job.config else False
    for note in health_notes(manifest["health"], exclude_seen=exclude_seen):
        print(note, file=sys.stderr)
    seconds = time.monotonic() - begin
    print(f"seconds={seconds:.1f}")
    if num_read:  # None where the data set lies there already.
        print(f"rows_per_second={num_read / seconds:.0f}")
    print(f"wrote {job.prepared}")


def _check_replaced(job: program.Job) -> None:
    """Says what hangs on the data that lie there, where they are of other settings.

    Raises:
        UsageError: they are, and the job does not say to overwrite.
    """
    try:
        manifest = read_manifest(job.prepared)
    except ValueError:  # None, or damaged: what prepares says so.
        return
    from launch.wiring import made_with  # It brings JAX.

    differences = made_with.data_differences(job.config, manifest)
    if not differences:
        return
    runs = made_with.runs_of(job, "prepared", manifest["fingerprint"])
    hanging = f"; trained on them, and of no use without: {', '.join(runs)}" if runs else ""
    said = f"{job.prepared}: holds data of other settings: {'; '.join(differences)}{hanging}"
    if not job.overwrite:
        raise program.UsageError(f"{said}: --overwrite them, or take another --workdir")
    if runs:
        print(f"note: {said}: they are overwritten", file=sys.stderr)


def engine_from_flags() -> Engine:
    """Returns the engine that the flags name.

    Raises:
        UsageError: flags that do not fit together, or Spark or Java is missing.
    """
    if engine_of("launch.prepare", "polars", "spark") == "polars":
        for flag in (_SPARK_MASTER, _SPARK_CONF):
            if flag.present:
                raise program.UsageError(f"--{flag.name} needs --engine=spark")
        return order_in_memory
    settings = {}
    for setting in _SPARK_CONF.value:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise program.UsageError(f"--spark_conf={setting}: it must be NAME=VALUE")
        settings[name] = value
    if problem := missing():
        raise program.UsageError(f"--engine=spark: {problem}")
    from pipelines.spark.engine import SparkEngine  # Its packages are an extra.

    return SparkEngine(_SPARK_MASTER.value, settings)


if __name__ == "__main__":
    program.run(lambda job: main(job, engine_from_flags()))
