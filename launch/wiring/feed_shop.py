"""A feed's items and people, from the records that its model was trained with."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from launch.wiring.program import UsageError
from minirec.recommend.feed.live import PastEvents
from minirec.recommend.feed.shop import Shop
from pipelines.events.messages import key_of
from pipelines.events.settings import DAY_MS, StoreSettings
from pipelines.prepared import Prepared

_USERS_TOLD = 20


def shop_of(config: ConfigDict, prepared: Prepared) -> Shop:
    """Returns the items as a feed shows them.

    Raises:
        UsageError: `config.feed` names an attribute or a column that no item has.
    """
    brand, brands = _numbered(config.feed.brand, prepared, "brand")
    category, categories = _numbered(config.feed.category, prepared, "category")
    price = np.full(prepared.num_items, np.nan)
    if name := config.feed.price:
        if name not in prepared.carried.columns:
            raise UsageError(
                f"config.feed.price={name!r}: the items have no such column; config.data.source."
                f"columns carries {', '.join(prepared.carried.columns) or 'none'}"
            )
        try:
            price = prepared.carried[name].cast(float).to_numpy().astype(np.float64)
        except Exception as error:
            raise UsageError(f"config.feed.price={name!r}: the column holds no numbers") from error
    return Shop(
        tuple(prepared.raw_item_ids),
        tuple(prepared.titles),
        brand,
        category,
        price,
        np.asarray(prepared.train_count, np.int64),
        brands,
        categories,
        _keys(prepared.raw_item_ids),
        _keys(brands),
        _keys(categories),
    )


def records_of(prepared: Prepared) -> Callable[[str, int], PastEvents]:
    """Returns what looks the newest events of a user of the log up."""
    number_of = _numbers_of_users(prepared)

    def records(user: str, most: int) -> PastEvents:
        number = number_of().get(user)
        if number is None:
            return PastEvents.of()
        start, stop = prepared.offsets[number : number + 2].tolist()
        rows = slice(max(start, stop - most), stop)
        return PastEvents.of(*(prepared.columns[name][rows] for name in ("item", "event", "time")))

    return records


def some_users(prepared: Prepared) -> list[str]:
    """Returns a few users of the log, for a page to begin with."""
    return prepared.users["raw_user_id"].head(_USERS_TOLD).to_list()


def action_of(config: ConfigDict, prepared: Prepared, field: str) -> int | None:
    """Returns the number of the event type that a field of `config.feed` names; None: of none.

    Raises:
        UsageError: the log has no such event type.
    """
    name, known = config.feed[field], list(prepared.event_weights)
    if not name:
        return None
    if name not in known:
        raise UsageError(
            f"config.feed.{field}={name!r}: the log has the event types {', '.join(known)}"
        )
    return known.index(name)


def weights_of(config: ConfigDict, prepared: Prepared) -> dict[str, float]:
    """Returns what each action weighs in a feed, from `config.feed.weights`.

    Raises:
        UsageError: it is not of the form "view=1,cart=3", or names a type that the log lacks.
    """
    known = list(prepared.event_weights)
    given: dict[str, float] = {}
    for part in filter(None, config.feed.weights.split(",")):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = np.nan
        name = name.strip()
        if not np.isfinite(weight) or name not in known or name in given:
            raise UsageError(
                f"config.feed.weights={config.feed.weights!r}: {part!r} is not TYPE=WEIGHT with a "
                f"finite number, once for one of {', '.join(known)}"
            )
        given[name] = weight
    return {name: given.get(name, 0.0 if given else 1.0) for name in known}


def store_settings(config: ConfigDict, prepared: Prepared) -> StoreSettings:
    """Returns what the event store of a feed keeps.

    Raises:
        UsageError: a field of `config.feed.store` is impossible.
    """
    fields = config.feed.store
    try:
        return StoreSettings(
            actions=tuple(prepared.event_weights),
            retention_ms=round(fields.retention_days * DAY_MS),
            max_events=fields.max_events,
            max_per_user=fields.max_per_user,
            max_per_list=fields.max_per_list,
        )
    except ValueError as error:
        raise UsageError(f"config.feed.store: {error}") from error


def _numbered(name: str, prepared: Prepared, field: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the numbers of an attribute's first values, -1 for none, and what they say."""
    if not name:
        return np.full(prepared.num_items, -1), ()
    start = f"{name}="
    values = [
        next((value[len(start) :] for value in of or () if value.startswith(start)), None)
        for of in prepared.items["attributes"].to_list()
    ]
    names = sorted({value for value in values if value is not None})
    if not names:
        raise UsageError(f"config.feed.{field}={name!r}: no item has such an attribute")
    number = {value: place for place, value in enumerate(names)}
    return np.array([number.get(value, -1) for value in values], np.int64), tuple(names)


def _keys(names: object) -> np.ndarray:
    assert isinstance(names, list | tuple)
    return np.array([key_of(name) for name in names], np.int64)


def _numbers_of_users(prepared: Prepared) -> Callable[[], dict[str, int]]:
    @functools.cache
    def number_of() -> dict[str, int]:
        return {raw: user for user, raw in enumerate(prepared.users["raw_user_id"].to_list())}

    return number_of
