"""The RQ-VAE's modules: encoder, residual codebooks, decoder, and gradients through the codes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int32

from minirec.sids.kmeans import Centroids, assign
from minirec.sids.latent_codebooks import LatentCodebooks, Layers, apply_layers
from minirec.sids.rq_vae_config import RQVAEConfig

_PRECISION = jax.lax.Precision.HIGHEST
# Norms below this have no direction.
_TINY = 1e-12


class CodebookState(nnx.Variable):
    """What a codebook holds that the optimizer must not touch."""


class Codebook(nnx.Module):
    """K codes of one level.

    Attributes:
        vectors: `[K, Z]`; a parameter where the optimizer trains it.
        counts: `[K]`, running count a batch of each code.
        sums: `[K, Z]`, running sum a batch of what each code stands for.
    """

    def __init__(self, size: int, width: int, *, is_trained: bool):
        kind = nnx.Param if is_trained else CodebookState
        self.vectors = kind(jnp.zeros((size, width), jnp.float32))
        self.counts = CodebookState(jnp.zeros(size, jnp.float32))
        self.sums = CodebookState(jnp.zeros((size, width), jnp.float32))


class MLP(nnx.Module):
    """Linear layers with ReLU between them, as TIGER's encoder and decoder."""

    def __init__(
        self, widths: Sequence[int], rngs: nnx.Rngs, last: Callable[..., Array] | None = None
    ):
        pairs = list(itertools.pairwise(widths))
        inits = [nnx.initializers.he_normal()] * (len(pairs) - 1)
        inits.append(last or nnx.initializers.lecun_normal())
        self.layers = nnx.List(
            [
                nnx.Linear(before, after, kernel_init=init, rngs=rngs)
                for (before, after), init in zip(pairs, inits, strict=True)
            ]
        )

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Returns the last layer's output."""
        return apply_layers(self.weights(), x)

    def weights(self) -> Layers:
        """Returns the layers' kernels and biases."""
        pairs = []
        for layer in self.layers:
            assert layer.bias is not None
            pairs.append((layer.kernel[...], layer.bias[...]))
        return tuple(pairs)

    def set_weights(self, layers: Layers) -> None:
        """Takes kernels and biases of the same shapes."""
        for layer, (kernel, bias) in zip(self.layers, layers, strict=True):
            assert layer.bias is not None
            layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)


class Quantised(NamedTuple):
    """What the codebooks make of encoder outputs, level by level.

    Attributes:
        codes: a level, `[B]` int32.
        residuals: a level, `[B, Z]`, what the codebook of the level was given. The codes of the
            levels before count as constants in it.
        vectors: a level, `[B, Z]`, the codebook's rows; gradients reach the codebook.
    """

    codes: tuple[Int32[Array, " B"], ...]
    residuals: tuple[Float32[Array, "B Z"], ...]
    vectors: tuple[Float32[Array, "B Z"], ...]


class RQVAE(nnx.Module):
    """Encoder, one codebook a level, decoder."""

    def __init__(self, width: int, sizes: Sequence[int], config: RQVAEConfig, rngs: nnx.Rngs):
        widths = (width, *config.hidden_widths, config.latent_dim)
        self.encoder = MLP(widths, rngs)
        self.codebooks = nnx.List(
            [
                Codebook(size, config.latent_dim, is_trained=config.codebook_update == "gradient")
                for size in sizes
            ]
        )
        # The first reconstruction is the mean of all vectors: nothing to unlearn.
        self.decoder = MLP(widths[::-1], rngs, last=nnx.initializers.zeros)

    def quantise(self, encoded: Float32[Array, "B Z"]) -> Quantised:
        """Returns the nearest code of every level's residual; ties to the lower code."""
        residual, codes, residuals, vectors = encoded, [], [], []
        for codebook in self.codebooks:
            rows = codebook.vectors[...]
            centroids = jax.lax.stop_gradient(Centroids(rows, jnp.ones(len(rows), bool)))
            code = assign(jax.lax.stop_gradient(residual)[None], centroids)[0]
            if isinstance(codebook.vectors, nnx.Param):
                # A product, not a gather: on GPU the gradient of a gather adds in any order.
                vector = jnp.matmul(one_hot(code, len(rows)), rows, precision=_PRECISION)
            else:
                vector = rows[code]
            codes.append(code)
            residuals.append(residual)
            vectors.append(vector)
            residual = residual - jax.lax.stop_gradient(vector)
        return Quantised(tuple(codes), tuple(residuals), tuple(vectors))

    def go_on_from(self, start: LatentCodebooks) -> None:
        """Takes the weights and codes of an earlier model of the same shape."""
        for mlp, layers in ((self.encoder, start.encoder), (self.decoder, start.decoder)):
            mlp.set_weights(layers)
        for codebook, book in zip(self.codebooks, start.codebooks, strict=True):
            codebook.vectors[...] = jnp.asarray(book)

    def quantiser(self, mean: Float32[np.ndarray, " D"], scale: float) -> LatentCodebooks:
        """Returns encoder, codebooks and decoder as plain arrays; all codes count as used."""
        books = tuple(np.asarray(codebook.vectors[...]) for codebook in self.codebooks)
        return LatentCodebooks(
            codebooks=books,
            counts=tuple(np.ones(len(book), np.int64) for book in books),
            encoder=_as_numpy(self.encoder),
            decoder=_as_numpy(self.decoder),
            mean=mean,
            scale=scale,
        )


def _as_numpy(mlp: MLP) -> Layers:
    return tuple((np.asarray(kernel), np.asarray(bias)) for kernel, bias in mlp.weights())


class Losses(NamedTuple):
    """Parts of the loss, each a mean over the batch of squared distances, divided by D.

    Attributes:
        reconstruction: of the vectors from the decoder's output.
        codebook: of the codes from the residuals; moves the codes. 0 where they are running means.
        commitment: of the residuals from the codes; moves the encoder. Not yet times beta.
    """

    reconstruction: Float32[Array, ""]
    codebook: Float32[Array, ""]
    commitment: Float32[Array, ""]


def losses(
    model: RQVAE, vectors: Float32[Array, "B D"], config: RQVAEConfig
) -> tuple[Losses, Quantised]:
    """Returns the loss's parts and what the codebooks made of the batch."""
    encoded = model.encoder(vectors)
    quantised = model.quantise(encoded)
    total = jax.lax.stop_gradient(sum(quantised.vectors, jnp.zeros_like(encoded)))
    passed = straight_through if config.estimator == "straight_through" else rotate
    decoded = model.decoder(passed(encoded, total))
    width = vectors.shape[1]

    def distance(one: Array, other: Array) -> Array:
        return jnp.square(one - other).sum(axis=1).mean() / width

    codebook = commitment = jnp.float32(0)
    for residual, vector in zip(quantised.residuals, quantised.vectors, strict=True):
        commitment += distance(residual, jax.lax.stop_gradient(vector))
        if config.codebook_update == "gradient":
            codebook += distance(jax.lax.stop_gradient(residual), vector)
    return Losses(distance(vectors, decoded), codebook, commitment), quantised


def straight_through(
    encoded: Float[Array, "B Z"], quantised: Float[Array, "B Z"]
) -> Float[Array, "B Z"]:
    """Returns `quantised`; its gradient goes to `encoded` unchanged."""
    return encoded + jax.lax.stop_gradient(quantised - encoded)


def rotate(encoded: Float[Array, "B Z"], quantised: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
    """Returns `quantised` as a rotation and scaling of `encoded`, both constants to the gradient.

    The rotation trick (Fifty et al., 2024, arXiv 2410.06424, section 4.2): with unit vectors
    `e` and `q` along the two and `w = (e + q) / |e + q|`, the result is `|quantised| / |encoded| ·
    (I - 2 w wᵀ + 2 q eᵀ) encoded`. In residual quantisation `quantised` is the sum of all levels'
    codes. Where either vector is zero there is no rotation, and the gradient goes straight through.
    """
    constant, target = jax.lax.stop_gradient(encoded), jax.lax.stop_gradient(quantised)
    norm = jnp.linalg.norm(constant, axis=1, keepdims=True)
    target_norm = jnp.linalg.norm(target, axis=1, keepdims=True)
    is_rotation = (norm > _TINY) & (target_norm > _TINY)
    unit = constant / jnp.maximum(norm, _TINY)
    target_unit = target / jnp.maximum(target_norm, _TINY)
    middle = unit + target_unit
    # Opposite vectors have no middle; without it the formula is the reflection along them.
    middle_norm = jnp.linalg.norm(middle, axis=1, keepdims=True)
    middle = jnp.where(middle_norm > 1e-6, middle / jnp.maximum(middle_norm, 1e-6), 0)
    turned = (
        encoded
        - 2 * middle * (middle * encoded).sum(axis=1, keepdims=True)
        + 2 * target_unit * (unit * encoded).sum(axis=1, keepdims=True)
    )
    rotated = turned * (target_norm / jnp.maximum(norm, _TINY))
    return jnp.where(is_rotation, rotated, straight_through(encoded, quantised))


def one_hot(codes: Int32[Array, " B"], size: int) -> Float32[Array, "B K"]:
    """Returns a row of zeros with a one at its code, a row for each code."""
    return (codes[:, None] == jnp.arange(size, dtype=jnp.int32)).astype(jnp.float32)
