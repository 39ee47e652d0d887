"""Checkpoints by step, each of which is there whole, with the digests of its files, or not at all.

Orbax writes a step beside its place, its `checksums.json` follows, and one rename puts both there.
Only then do older steps go, so that a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from minirec import files
from minirec.files.workplace import workplace
from minirec.training import processes
from minirec.training.failed_saves import one_error

_ORBAX_PARTIAL = ".orbax-checkpoint-tmp"


class MismatchError(ValueError):
    """A checkpoint belongs to another model."""


class StepFolders:
    """The checkpoints in `folder/STEP`.

    Attributes:
        folder: where they lie.
    """

    def __init__(self, folder: Path, *, keep: int | None) -> None:
        """Opens the folder, made where it is missing.

        Args:
            folder: where the checkpoints lie.
            keep: how many of the newest stay; None reads only, and changes nothing.
        """
        self.folder = folder
        self._keep = keep
        self._checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                model=ocp.StandardCheckpointHandler(),
                optimizer=ocp.StandardCheckpointHandler(),
                position=ocp.JsonCheckpointHandler(),
            )
        )
        if keep is not None:
            processes.first_alone(self._clear)

    def steps(self) -> list[int]:
        """Returns the steps that are there, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if _is_step(path.name))

    def save(self, step: int, **items: Any) -> None:
        """Saves a step that is not there yet; of the others the oldest go."""
        unchecked = self.folder / f".{step}.unchecked"
        with one_error(self.folder / str(step)):
            self._checkpointer.save(unchecked, args=ocp.args.Composite(**items), force=True)

        def vouch() -> None:
            files.write_checksums(unchecked)
            os.replace(unchecked, self.folder / str(step))
            others = [other for other in self.steps() if other != step]
            for old in others[: max(len(others) - (self._keep or 1) + 1, 0)]:
                self._remove(old)

        processes.first_alone(vouch)

    def restore(self, step: int, **items: Any) -> Any:
        """Returns some of a step's items, as Orbax's restore arguments ask for them."""
        return self._checkpointer.restore(self.folder / str(step), args=ocp.args.Composite(**items))

    def check(self, step: int, remedy: str) -> None:
        """Compares a step's files with its checksums; each process must call it.

        Raises:
            DamagedError: a file is damaged or missing, or nothing vouches for the step; the message
                names the file.
            ValueError: that was found by another process.
        """
        folder = self.folder / str(step)
        processes.first_alone(lambda: files.check_folder(folder, remedy=remedy))

    @contextlib.contextmanager
    def reading(self, step: int, remedy: str) -> Generator[None]:
        """Checks a step before the body reads it, and names it where it cannot be read.

        Raises:
            DamagedError: see `check`, or the body ends in an error of Orbax.
        """
        self.check(step, remedy)
        try:
            yield
        except (files.DamagedError, MismatchError):
            raise
        except (OSError, MemoryError, jax.errors.JaxRuntimeError):  # They say nothing of the files.
            raise
        except Exception as error:  # Orbax believes its files, and fails anywhere if they are odd.
            said = str(error).partition("\n")[0]
            raise files.DamagedError(
                f"{self.folder / str(step)}: cannot be read as a checkpoint: "
                f"{type(error).__name__}: {said:.300}; {remedy}"
            ) from error

    def wanted(self, step: int, item: str, state: nnx.State) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns what to restore for `state`, placed on devices as it is.

        Raises:
            MismatchError: the checkpoint does not hold just that.
        """
        wanted = {}
        # An abstract model goes to one device, wherever the checkpoint's arrays once lay.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        for path, variable in nnx.to_flat_state(state):
            value = variable.get_value()
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.eval_shape(jax.random.key_data, value)
            wanted[name_of(path)] = jax.ShapeDtypeStruct(
                value.shape, value.dtype, sharding=getattr(value, "sharding", None) or here
            )
        metadata: Any = self._checkpointer.metadata(self.folder / str(step))
        saved = metadata.item_metadata[item]
        place = f"{self.folder / str(step)}: the {item}"
        for name in sorted({*wanted, *saved.keys()}):
            if name not in saved:
                raise MismatchError(f"{place} saved there lacks {name!r}; is the config the run's?")
            if name not in wanted:
                raise MismatchError(
                    f"{place} saved there has {name!r}, the given one lacks it; "
                    "is the config the run's?"
                )
            if tuple(saved[name].shape) != wanted[name].shape:
                raise MismatchError(
                    f"{place} saved there has {name!r} of shape {tuple(saved[name].shape)}, the "
                    f"given one of shape {wanted[name].shape}; is the config the run's?"
                )
        return wanted

    def discard(self, step: int) -> None:
        """Removes a step at once, so that a kill half-way leaves no half checkpoint."""
        processes.first_alone(lambda: self._remove(step))

    def close(self) -> None:
        """Ends the work of Orbax."""
        self._checkpointer.close()

    def _remove(self, step: int) -> None:
        place = self.folder / str(step)
        if place.exists():
            with workplace(self.folder.parent / "discarded") as trash:
                os.replace(place, trash / str(step))

    def _clear(self) -> None:
        """Makes the folder, and removes what killed programs left half-written or half-removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name.startswith(".") or _ORBAX_PARTIAL in path.name:
                shutil.rmtree(path, ignore_errors=True)


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a parameter's name in a checkpoint, such as "layers.norm.scale"."""
    return ".".join(str(part) for part in path)


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit()
