"""RQ-VAE: semantic IDs by a residual quantiser between a learned encoder and decoder, in NNX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Int, Int32, Int64

from minirec.sids import rq_vae_blocks
from minirec.sids.codebooks import check_sizes, check_vectors
from minirec.sids.rq_kmeans import distinct_rows
from minirec.sids.rq_vae_config import RQVAEConfig
from minirec.sids.rq_vae_model import RQVAE
from minirec.sids.rq_vae_training import History, train


@dataclasses.dataclass(frozen=True, eq=False)
class RQVAEResult:
    """SIDs and the model that they came from.

    Attributes:
        codes: `[N, L]` SIDs by item id.
        counts: a level, `[K]`: how many items have each code.
        variance: mean squared distance of the vectors from their mean.
        reconstruction_error: mean squared distance of the vectors, in their own space, from what
            the decoder makes of the codes up to level 0, up to level 1, … Training looks at the
            last level alone, so the first ones need not fall.
        history: loss and reconstruction a step.
        model: encoder, codebooks and decoder; works on `(vectors - mean) / scale`.
        mean: `[D]`, the vectors' mean.
        scale: the vectors' standard deviation a dimension.
    """

    codes: Int32[np.ndarray, "N L"]
    counts: tuple[Int64[np.ndarray, " K"], ...]
    variance: float
    reconstruction_error: tuple[float, ...]
    history: History
    model: RQVAE
    mean: Float32[np.ndarray, " D"]
    scale: float

    @property
    def codebooks(self) -> tuple[Float32[np.ndarray, "K Z"], ...]:
        """A level's codes, as rows of the space between encoder and decoder.

        What the decoder is given for a SID is the sum of its codes' rows. Rows of codes that no
        item has are zeros.
        """
        return tuple(
            np.where((count > 0)[:, None], np.asarray(codebook.vectors[...]), np.float32(0))
            for codebook, count in zip(self.model.codebooks, self.counts, strict=True)
        )

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K of each level."""
        return tuple(len(count) for count in self.counts)

    def encode(self, vectors: Float[np.ndarray, "n D"]) -> Int32[np.ndarray, "n L"]:
        """Returns the SIDs of vectors, old or new, by this model; nothing moves.

        Only codes that some item had when the model was trained are given.

        Raises:
            ValueError: the vectors are not finite, or not as wide as those of the training.
        """
        vectors = check_vectors(vectors)
        if vectors.shape[1] != len(self.mean):
            raise ValueError(
                f"vectors: {vectors.shape[1]} wide; the encoder takes {len(self.mean)} wide ones"
            )
        alive = [count > 0 for count in self.counts]
        return rq_vae_blocks.encode(self.model, (vectors - self.mean) / self.scale, alive)

    def decode(self, codes: Int[np.ndarray, "n L"]) -> Float32[np.ndarray, "n D"]:
        """Returns the vectors that SIDs stand for: the decoder's output on their codes' sum."""
        return rq_vae_blocks.decode(self.model, np.asarray(codes)) * self.scale + self.mean


def rq_vae(
    vectors: Float[np.ndarray, "N D"],
    num_levels: int,
    codebook_size: int | Sequence[int],
    seed: int = 0,
    *,
    config: RQVAEConfig | None = None,
) -> RQVAEResult:
    """Returns SIDs of item vectors by an RQ-VAE, trained on these vectors.

    The method is TIGER's (Rajput et al., 2023, arXiv 2305.05065): an encoder, a residual quantiser
    of one codebook a level, a decoder; the loss is the squared reconstruction error plus the
    quantiser's commitment and codebook losses. Codebooks start from k-means of the encoder's
    residuals, level by level, and dead codes move to residuals that are badly represented. Vectors
    are centred and scaled to variance 1 first, so that neither their scale nor their offset
    matters. Equal vectors get equal SIDs. The same arguments on the same machine give the same
    bits.

    Args:
        vectors: a vector an item, any scale; taken as float32.
        num_levels: L, 1 to 16.
        codebook_size: K of every level, or one K a level.
        seed: of weights, batches, the k-means starts and the draws for dead codes.
        config: how the model is built and trained; None: the defaults.

    Raises:
        ValueError: a vector that is not finite (the message names its row), sizes out of range.
        FloatingPointError: training diverged.
    """
    config = config or RQVAEConfig()
    vectors = check_vectors(vectors)
    sizes = check_sizes(num_levels, codebook_size)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    variance = float(np.square(vectors - mean).sum(axis=1, dtype=np.float64).mean())
    scale = float(np.sqrt(variance / vectors.shape[1])) or 1.0
    normed = (vectors - mean) / np.float32(scale)
    model = RQVAE(vectors.shape[1], sizes, config, nnx.Rngs(seed))
    history = train(model, normed, config, seed)

    distinct, row_of_item, _ = distinct_rows(normed)
    all_alive = [np.ones(size, bool) for size in sizes]
    codes = rq_vae_blocks.encode(model, distinct, all_alive)
    errors = rq_vae_blocks.prefix_errors(model, distinct, codes)[row_of_item]
    codes = codes[row_of_item]
    return RQVAEResult(
        codes=codes,
        counts=tuple(
            np.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)
        ),
        variance=variance,
        reconstruction_error=tuple(
            float(error) * scale**2 for error in errors.mean(axis=0, dtype=np.float64)
        ),
        history=history,
        model=model,
        mean=mean,
        scale=scale,
    )
