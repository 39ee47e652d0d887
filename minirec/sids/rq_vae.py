"""RQ-VAE: semantic IDs by a residual quantiser between a learned encoder and decoder, in NNX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Float, Int32

from minirec.sids.codebooks import check_sizes, check_vectors
from minirec.sids.latent_codebooks import LatentCodebooks
from minirec.sids.rq_vae_config import RQVAEConfig
from minirec.sids.rq_vae_model import RQVAE
from minirec.sids.rq_vae_training import History, train


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RQVAEResult(LatentCodebooks):
    """SIDs and the quantiser that they came from.

    Attributes:
        codes: `[N, L]` SIDs by item id.
        variance: mean squared distance of the vectors from their mean.
        reconstruction_error: mean squared distance of the vectors, in their own space, from what
            the decoder makes of the codes up to level 0, up to level 1, …
        history: loss and reconstruction a step.
    """

    codes: Int32[np.ndarray, "N L"]
    variance: float
    reconstruction_error: tuple[float, ...]
    history: History


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
    model = RQVAE(vectors.shape[1], sizes, config, nnx.Rngs(seed))
    history = train(model, (vectors - mean) / np.float32(scale), config, seed)
    quantiser, codes = _of_used_codes(model.quantiser(mean, scale), vectors)
    return RQVAEResult(
        **{field.name: getattr(quantiser, field.name) for field in dataclasses.fields(quantiser)},
        codes=codes,
        variance=variance,
        reconstruction_error=quantiser.prefix_errors(vectors, codes),
        history=history,
    )


def _of_used_codes(
    quantiser: LatentCodebooks, vectors: Float[np.ndarray, "N D"]
) -> tuple[LatentCodebooks, Int32[np.ndarray, "N L"]]:
    """Returns the quantiser without the codes that no vector has, and the vectors' codes by it.

    Codes that are gone shift where distances are measured from, so that a tie may fall otherwise
    and leave one more code unused: it ends when encoding with the used codes uses them all.
    """
    while True:
        codes = quantiser.encode(vectors)
        counts = tuple(
            np.bincount(codes[:, level], minlength=size)
            for level, size in enumerate(quantiser.codebook_sizes)
        )
        before, quantiser = (
            quantiser,
            dataclasses.replace(
                quantiser,
                counts=counts,
                codebooks=tuple(
                    np.where((count > 0)[:, None], codebook, np.float32(0))
                    for count, codebook in zip(counts, quantiser.codebooks, strict=True)
                ),
            ),
        )
        pairs = zip(before.counts, counts, strict=True)
        if all(np.array_equal(old > 0, new > 0) for old, new in pairs):
            return quantiser, codes
