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
    start: LatentCodebooks | None = None,
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
        start: an earlier result to go on from (`load_codebooks`), in place of drawn weights and a
            k-means start, so that SIDs change little where vectors do. Its vectors must have been
            of the same kind: a decomposition made anew turns their directions.

    Raises:
        ValueError: a vector that is not finite (the message names its row), sizes out of range, or
            a start of other sizes.
        FloatingPointError: training diverged.
    """
    config = config or RQVAEConfig()
    vectors = check_vectors(vectors)
    sizes = check_sizes(num_levels, codebook_size)
    centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    variance = float(np.square(vectors - centre).sum(axis=1, dtype=np.float64).mean())
    model = RQVAE(vectors.shape[1], sizes, config, nnx.Rngs(seed))
    if start is None:
        mean, scale, counts = centre, float(np.sqrt(variance / vectors.shape[1])) or 1.0, None
    else:
        check_start(start, sizes, config, vectors.shape[1])
        mean, scale, counts = start.mean, start.scale, start.counts
        model.go_on_from(start)
    history = train(model, (vectors - mean) / np.float32(scale), config, seed, counts)
    quantiser, codes = _of_used_codes(model.quantiser(mean, scale), vectors)
    return RQVAEResult(
        **{field.name: getattr(quantiser, field.name) for field in dataclasses.fields(quantiser)},
        codes=codes,
        variance=variance,
        reconstruction_error=quantiser.prefix_errors(vectors, codes),
        history=history,
    )


def check_start(
    start: LatentCodebooks, sizes: Sequence[int], config: RQVAEConfig, width: int | None = None
) -> None:
    """Checks that an RQ-VAE of these sizes and settings can go on from an earlier one.

    Args:
        start: the earlier one.
        sizes: K of each level.
        config: how the model is built.
        width: of the vectors, where that is known already.

    Raises:
        ValueError: they differ; the message names both.
    """
    widths = (width or start.width, *config.hidden_widths, config.latent_dim)
    theirs = (start.width, *(len(bias) for _, bias in start.encoder))
    if widths != theirs:
        raise ValueError(f"start: its encoder's layers are {theirs} wide; here they are {widths}")
    if start.codebook_sizes != tuple(sizes):
        raise ValueError(f"start: codebooks of {start.codebook_sizes}; here {tuple(sizes)}")


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
        pairs = zip(quantiser.counts, counts, strict=True)
        is_settled = all(np.array_equal(old > 0, new > 0) for old, new in pairs)
        books = tuple(
            np.where((count > 0)[:, None], codebook, np.float32(0))
            for count, codebook in zip(counts, quantiser.codebooks, strict=True)
        )
        quantiser = dataclasses.replace(quantiser, counts=counts, codebooks=books)
        if is_settled:
            return quantiser, codes
