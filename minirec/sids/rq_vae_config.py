"""How an RQ-VAE is built and trained."""

from __future__ import annotations

import dataclasses
import math

from minirec.files.schema import require_whole

ESTIMATORS = ("straight_through", "rotation")
CODEBOOK_UPDATES = ("ema", "gradient")


@dataclasses.dataclass(frozen=True)
class RQVAEConfig:
    """An RQ-VAE as in TIGER (Rajput et al., 2023, arXiv 2305.05065), with its usual variants.

    Attributes:
        hidden_widths: widths of the encoder's hidden layers, from the vectors inwards; the decoder
            has them in the opposite order. Empty: both are one linear map.
        latent_dim: width of what is quantised.
        num_steps: optimizer steps.
        batch_size: vectors a step; a catalogue with fewer items is taken whole.
        learning_rate: AdamW's peak rate; it climbs over the first twentieth of the steps and falls
            to a hundredth along a cosine.
        weight_decay: AdamW's, of the layers' matrices alone.
        commitment: beta, the weight of the encoder's distance to its codes.
        estimator: how the decoder's gradient passes the codes: "straight_through" copies it (Bengio
            et al., 2013); "rotation" turns and scales it as the code stands to the encoder's output
            (Fifty et al., 2024, arXiv 2410.06424).
        codebook_update: "ema": a code is the running mean of what it stands for (van den Oord et
            al., 2017, appendix A.1); "gradient": of the codebook loss, by the optimizer.
        ema_decay: how much of the running sums and counts stays from one step to the next.
        kmeans_start: codebooks begin as RQ-KMeans of the untrained encoder's output; else as
            numbers from a normal distribution of that output's spread.
        revive_below: a code is dead when its running count falls below this fraction of an even
            share; it then moves to a residual of the batch. 0: never.
    """

    hidden_widths: tuple[int, ...] = (256,)
    latent_dim: int = 128
    num_steps: int = 3000
    batch_size: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    commitment: float = 0.25
    estimator: str = "straight_through"
    codebook_update: str = "ema"
    ema_decay: float = 0.95
    kmeans_start: bool = True
    revive_below: float = 0.01

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field is out of its range; the message names it.
        """
        object.__setattr__(self, "hidden_widths", tuple(self.hidden_widths))
        for place, width in enumerate(self.hidden_widths):
            require_whole(f"hidden_widths[{place}]", width)
        for name in ("latent_dim", "num_steps", "batch_size"):
            require_whole(name, getattr(self, name))
        for name, low, high, with_low in (
            ("learning_rate", 0.0, math.inf, False),
            ("weight_decay", 0.0, math.inf, True),
            ("commitment", 0.0, math.inf, True),
            ("ema_decay", 0.0, 1.0, True),
            ("revive_below", 0.0, 1.0, True),
        ):
            value = getattr(self, name)
            if not (low < value < high or (with_low and value == low)):
                bracket = "[" if with_low else "("
                raise ValueError(f"{name}: {value!r}; must lie in {bracket}{low:g}, {high:g})")
        for name, known in (("estimator", ESTIMATORS), ("codebook_update", CODEBOOK_UPDATES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r}; must be one of {list(known)}")
