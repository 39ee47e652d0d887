"""Codebooks of a space that an encoder maps vectors into and a decoder maps back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from minirec import files
from minirec.files.schema import COUNT, check
from minirec.sids.codebooks import Codebooks, in_blocks

_PRECISION = jax.lax.Precision.HIGHEST
_ROWS = 1024
_SIDES = ("encoder", "decoder")
_ABOUT = {"num_layers": COUNT}

type Layers = Sequence[tuple[Float32[Any, "E F"], Float32[Any, " F"]]]
"""Linear layers as (kernel `[E, F]`, bias `[F]`), ReLU between them."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LatentCodebooks(Codebooks):
    """A residual quantiser between an encoder and a decoder.

    Attributes:
        codebooks: a level, `[K, Z]` float32; what the encoder makes of a vector is approximated by
            the sum of its codes' rows.
        encoder: layers from D to Z; they work on `(vectors - mean) / scale`.
        decoder: layers from Z to D.
        mean: `[D]`.
        scale: above 0.
    """

    encoder: Layers
    decoder: Layers
    mean: Float32[np.ndarray, " D"]
    scale: float

    @property
    def width(self) -> int:
        """D, the width of the vectors."""
        return len(self.mean)

    def latent(self, vectors: Float[np.ndarray, "n D"]) -> Float32[np.ndarray, "n Z"]:
        """Returns what the codebooks' sums approximate: the encoder's output.

        Raises:
            ValueError: the vectors are not finite, or not as wide as those of the training.
        """
        return over_rows(self.encoder, (self._checked(vectors) - self.mean) / self.scale)

    def decode(self, codes: Int[np.ndarray, "n L"]) -> Float32[np.ndarray, "n D"]:
        """Returns the vectors that SIDs stand for: the decoder's output on their codes' sum."""
        return self._decoded(super().decode(codes))

    def prefix_errors(
        self, vectors: Float[np.ndarray, "n D"], codes: Int[np.ndarray, "n L"]
    ) -> tuple[float, ...]:
        """Returns the mean squared distance of vectors from what their first codes decode to.

        A number a level; training looks at the last level alone, so the first need not fall.
        """
        latent, errors = np.float32(0), []
        for level, codebook in enumerate(self.codebooks):
            latent = latent + codebook[codes[:, level]]
            distance = np.square(vectors - self._decoded(latent)).sum(axis=1)
            errors.append(float(distance.mean(dtype=np.float64)))
        return tuple(errors)

    def save(
        self,
        path: str | os.PathLike[str],
        about: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes what `Codebooks.save` does, and the layers: `encoder_kernel_0`, …, `decoder_…`."""
        own: dict[str, np.ndarray] = {"mean": self.mean, "scale": np.array(self.scale)}
        for side in _SIDES:
            for number, (kernel, bias) in enumerate(getattr(self, side)):
                own[f"{side}_kernel_{number}"], own[f"{side}_bias_{number}"] = kernel, bias
        about = {**about, "num_layers": len(self.encoder)}
        super().save(path, about, {**own, **(arrays or {})})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Self, dict[str, Any], dict[str, Any]]:
        """Returns what `save` wrote: the codebooks with their layers, `about`, the other arrays.

        Raises:
            ValueError: as `Codebooks.load`, or there are no layers that fit the codebooks.
        """
        plain, about, arrays = Codebooks.load(path)
        check(about, _ABOUT, f"{path}: about")
        mean = files.take_array(arrays, "mean", "float32", (None,), path)
        scale = float(files.take_array(arrays, "scale", "float64", (), path))
        if scale <= 0:
            raise ValueError(f"{path}: scale: {scale}; must be above 0")
        starts = {"encoder": len(mean), "decoder": plain.width}
        ends = {"encoder": plain.width, "decoder": len(mean)}
        sides: dict[str, Layers] = {}
        for side in _SIDES:
            width, layers = starts[side], []
            for number in range(about["num_layers"]):
                kernel = files.take_array(
                    arrays, f"{side}_kernel_{number}", "float32", (width, None), path
                )
                width = kernel.shape[1]
                bias = files.take_array(arrays, f"{side}_bias_{number}", "float32", (width,), path)
                layers.append((kernel, bias))
            if width != ends[side]:
                raise ValueError(f"{path}: the {side} ends {width} wide, not {ends[side]}")
            sides[side] = tuple(layers)
        own = cls(codebooks=plain.codebooks, counts=plain.counts, mean=mean, scale=scale, **sides)
        return own, about, arrays

    def _decoded(self, latent: Float32[np.ndarray, "n Z"]) -> Float32[np.ndarray, "n D"]:
        return over_rows(self.decoder, latent) * np.float32(self.scale) + self.mean


def load_codebooks(
    path: str | os.PathLike[str],
) -> tuple[Codebooks, dict[str, Any], dict[str, Any]]:
    """Returns the codebooks of a file, `LatentCodebooks` where it holds layers, and what is beside.

    Raises:
        ValueError: as the class's `load`.
    """
    plain, about, arrays = Codebooks.load(path)
    return LatentCodebooks.load(path) if "num_layers" in about else (plain, about, arrays)


def apply_layers(layers: Layers, x: Float32[Array, "B E"]) -> Float32[Array, "B F"]:
    """Returns the last layer's output; ReLU between layers, as in TIGER's encoder and decoder."""
    for number, (kernel, bias) in enumerate(layers):
        x = jnp.matmul(x if number == 0 else jax.nn.relu(x), kernel, precision=_PRECISION) + bias
    return x


def over_rows(layers: Layers, rows: Float32[np.ndarray, "N E"]) -> Float32[np.ndarray, "N F"]:
    """Returns the layers' output for many rows, in blocks of one shape.

    A block looks alike for any number of rows, so that making SIDs and encoding new items run the
    same compiled program and agree to the bit.
    """
    blocks = in_blocks(np.asarray(rows, np.float32), _ROWS)
    return np.concatenate([np.asarray(_applied(layers, block)) for block in blocks])[: len(rows)]


_applied = jax.jit(apply_layers)
