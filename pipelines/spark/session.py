"""Starts Spark, once it is sure that this machine can."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LEAST_JAVA = 17
# Spark's log goes to stderr, errors only: what a person can mend is told by this project.
_LOG_SETTINGS = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark: %m%n
"""


def missing() -> str:
    """Returns what is missing for Spark on this machine and where to get it, or ""."""
    for module, package in (("pyspark", "pyspark"), ("pyarrow", "pyarrow"), ("pandas", "pandas")):
        if importlib.util.find_spec(module) is None:
            return f"Spark needs the Python package {package}: pip install 'minirec[spark]'"
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    advice = (
        f"Spark needs Java {_LEAST_JAVA} or newer (apt-get install openjdk-17-jre-headless, or "
        "https://adoptium.net), on the PATH or in JAVA_HOME"
    )
    if shutil.which(java) is None:
        return f"{advice}; {java!r} is not there"
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    if found is None:
        return f"{advice}; {java!r} does not say its version"
    if int(found[1]) < _LEAST_JAVA:
        return f"{advice}; {java!r} is version {found[1]}"
    return ""


@contextlib.contextmanager
def spark_session(master: str, settings: Mapping[str, str]) -> Generator[SparkSession]:
    """Yields the session that runs already, or one that is stopped at the end.

    Args:
        master: `local[N]` for N cores of this machine, `local[*]` for all, a cluster's address, or
            "" for what `spark-submit` or `spark-defaults.conf` say.
        settings: Spark's own, by their names; they win over those that are set here.

    Raises:
        ValueError: Spark or Java is missing.
    """
    if problem := missing():
        raise ValueError(problem)
    with warnings.catch_warnings():
        # No pandas frame is made here, so it does not matter which version Spark likes.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        from pyspark.sql import SparkSession

        running = SparkSession.getActiveSession()
        if running is not None:
            yield running
            return
        with tempfile.TemporaryDirectory() as folder:
            builder = SparkSession.builder.appName("minirec prepare")
            if master:
                builder = builder.master(master)
            for name, value in {**_settings(master, Path(folder)), **settings}.items():
                builder = builder.config(name, value)
            session = builder.getOrCreate()
        try:
            yield session
        finally:
            session.stop()


def _settings(master: str, folder: Path) -> dict[str, str]:
    log_settings = folder / "log4j2.properties"
    log_settings.write_text(_LOG_SETTINGS)
    settings = {
        # What comes back to the driver is bounded by users and items, not by the log.
        "spark.driver.maxResultSize": "0",
        "spark.executorEnv.POLARS_MAX_THREADS": "1",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.showConsoleProgress": "false",
    }
    if master.startswith("local"):
        # Before Spark starts it looks for this machine's name, and may find no network.
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        settings |= {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log_settings}",
            "spark.driver.memory": "2g",
            "spark.executorEnv.PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "spark.ui.enabled": "false",
        }
    return settings
