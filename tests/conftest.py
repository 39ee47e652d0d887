"""Settings that every test shares; set before JAX is imported."""

import gc
import os
import pathlib
import sys

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
# Triton's kernels run in its interpreter; what compiles them does so in a process without this.
os.environ.setdefault("TRITON_INTERPRET", "1")
_CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
# Small programs too: they are many, and come again with every worker and process.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most of the suite's time is compiling: compile fast, run slowly. The new emitters of fused loops
# go through MLIR, which takes three times as long as all else for a training step.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
os.environ.setdefault("MPLBACKEND", "Agg")
# What a worker or a process compiles of Python's modules the others read, where containers turn
# that off, too: a second for each process that imports ours, and ten for each worker.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("MINIREC_PEERS", str(pathlib.Path(__file__).parent / "oracles"))
# Tracing makes many objects, which mostly stay: looking through all of them again and again took a
# tenth of the time.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish():
    """What was imported stays: the collector need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder with the real data sets; tests that need it skip where it is not named."""
    folder = os.environ.get("MINIREC_DATA")
    if not folder:
        pytest.skip("needs the real data sets: set MINIREC_DATA to the folder that holds them")
    return pathlib.Path(folder)


@pytest.fixture(scope="module", autouse=True)
def _few_mappings():
    """Forgets compiled programs before the process has too many memory mappings.

    Each program that XLA compiles for a CPU takes some (82 tests of one file took 9,300). Linux
    allows a process 65,530, and a compiler that gets no more may crash the test worker.
    """
    yield
    jax, maps = sys.modules.get("jax"), pathlib.Path("/proc/self/maps")
    if jax is not None and maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()
        gc.collect()
