"""A batch of events: one NumPy record an event, as stores take it and logs keep it."""

from __future__ import annotations

import numpy as np

from pipelines.events import settings as codes
from pipelines.events.settings import StoreSettings

NONE = -1
"""No item, brand or category."""

EVENT = np.dtype(
    [
        ("id", "<i8"),
        ("user", "<i8"),
        ("item", "<i8"),
        ("brand", "<i8"),
        ("category", "<i8"),
        ("time", "<i8"),
        ("received", "<i8"),
        ("action", "u1"),
        ("kind", "u1"),
    ]
)
"""An event. `id` tells it from all others; `time` is when it happened and `received` when it
reached the log, in milliseconds since 1970; `action` and `kind` are codes of `StoreSettings`.
`item`, `brand` and `category` are `NONE` where there is none, and from 0 on elsewhere."""


def make_batch(size: int) -> np.ndarray:
    """Returns a batch of `size` events whose item, brand and category are `NONE`, all else 0."""
    batch = np.zeros(size, EVENT)
    for name in ("item", "brand", "category"):
        batch[name] = NONE
    return batch


def require_batch(batch: np.ndarray) -> None:
    """Raises ValueError unless `batch` is a one-axis array of `EVENT` records."""
    if not isinstance(batch, np.ndarray) or batch.dtype != EVENT or batch.ndim != 1:
        found = getattr(batch, "dtype", type(batch).__name__)
        raise ValueError(f"batch={found}: must be one axis of EVENT records; see make_batch")


def require_known(batch: np.ndarray, settings: StoreSettings) -> None:
    """Raises ValueError unless actions and kinds have names, and every event what it needs.

    Events of brands need a brand, all others an item.
    """
    action = batch["action"]
    known = action < len(settings.actions)
    known |= (action >= codes.FOLLOW) & (action < codes.FOLLOW + len(codes.HOUSE_ACTIONS))
    if not known.all():
        raise ValueError(f"action={action[~known][0]}: no code of {settings.action_codes}")
    if (wrong := batch["kind"] >= len(settings.kinds)).any():
        raise ValueError(f"kind={batch['kind'][wrong][0]}: no code of {settings.kinds}")
    of_brand = (action >= codes.FOLLOW) & (action < codes.LISTED)
    for field, concerned in (("brand", of_brand), ("item", ~of_brand)):
        if (wrong := concerned & (batch[field] < 0)).any():
            raise ValueError(
                f"{field}={batch[field][wrong][0]}: must be 0 or more where "
                f"action={action[wrong][0]}"
            )
