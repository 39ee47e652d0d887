"""Compiled programs that are kept between processes, so that a server restarts in seconds."""

from __future__ import annotations

from pathlib import Path

import jax


def keep_programs(folder: Path) -> None:
    """Keeps what XLA compiles in a folder, unless JAX was told of another.

    JAX_COMPILATION_CACHE_DIR in the environment names another; empty, it turns this off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
