"""A generated world: learnable, not trivial, and without any signal where that is asked for.

Every item belongs to a category and a style, which its text tells, with some noise. Every user has
a taste: mostly one style. The next item's category follows from the *last two* categories by a
hidden rule, a Latin square, so that neither of the two alone says anything about the next: counting
which item follows which sees the taste and the popularity but not the rule. Inside a category and
style popularity has a long tail. A model that reads the last two items' semantic IDs can learn the
rule's 64 cases; a count of item pairs cannot.

With `signal` 0 every event is an independent draw from one popularity law (without repeats within
a user), so that nothing can rank better than popularity does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from pipelines.sources.generated_shop import SHOP_EVENTS, shop_events
from pipelines.sources.generated_text import CARRIED, CATEGORIES, STYLES, item_table
from pipelines.tables.bad_rows import BadRows
from pipelines.tables.interactions import (
    INTERACTION_SCHEMA,
    ITEM_SCHEMA,
    TICKS_PER_SECOND,
    FramePart,
    RawDataset,
)

NUM_CATEGORIES = len(CATEGORIES)
NUM_STYLES = len(STYLES)
# With `signal` 1: how often the rule decides the category, and the taste the style.
RULE_SHARE = 0.9
TASTE_SHARE = 0.9
_ZIPF_EXPONENT = 0.8
_START = 1_600_000_000
_SPREAD = 2 * 365 * 86_400


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of the source.

    Attributes:
        num_users: number of users, at least 1.
        num_items: size of the catalogue; at least 4 items for each pair of category and style,
            and twice `max_length`, so that users need not repeat.
        seed: everything is drawn from it.
        signal: 0 to 1: the share of events that follow rule and taste; the others are drawn from
            the popularity law.
        min_length: shortest sequence of a user, at least 3.
        max_length: longest sequence.
        columns: of "colour" and "price" those that `items.parquet` keeps.
        shop: whether people do more than look: `generated_shop` has what.
    """

    num_users: int = 4000
    num_items: int = 1000
    seed: int = 0
    signal: float = 1.0
    min_length: int = 8
    max_length: int = 20
    columns: tuple[str, ...] = ()
    shop: bool = False


@dataclasses.dataclass(frozen=True)
class World:
    """The truth behind a generated log, for oracles in tests.

    Attributes:
        category: `[N]` category of each item.
        style: `[N]` style of each item.
        weight: `[N]` the popularity law, sums to 1.
        rule: `[categories, categories]` next category after (the one before the last, the last);
            every row and every column holds every category once.
        taste: `[U]` the style each user prefers.
        sequences: `[U, max_length]` items of each user, oldest first, -1 after the last.
        times: `[U, max_length]` their times in seconds.
    """

    category: Int[np.ndarray, " N"]
    style: Int[np.ndarray, " N"]
    weight: Float[np.ndarray, " N"]
    rule: Int[np.ndarray, "C C"]
    taste: Int[np.ndarray, " U"]
    sequences: Int[np.ndarray, "U T"]
    times: Int[np.ndarray, "U T"]


def load(config: Config, bad_rows: BadRows) -> RawDataset:
    """Generates the log and the catalogue.

    Raises:
        ValueError: a field out of range.
    """
    del bad_rows  # What is made is right.
    world = make_world(config)
    present = world.sequences >= 0
    user, _ = np.nonzero(present)
    item, time, event = world.sequences[present], world.times[present], np.zeros(len(user))
    if config.shop:
        is_liked = world.style[item] == world.taste[user]
        rng = np.random.default_rng([config.seed, 2])
        user, item, time, event = shop_events(user, item, time, is_liked, rng)
    order = np.argsort(time, kind="stable")  # as a real log: by time
    interactions = pl.DataFrame(
        {
            "user": pl.Series(user[order]).cast(pl.String).str.zfill(6).str.replace("^", "u"),
            "item": pl.Series(item[order]).cast(pl.String).str.zfill(5).str.replace("^", "i"),
            "time": time[order] * TICKS_PER_SECOND,
            "event": event[order].astype(np.int32),
        },
        schema=INTERACTION_SCHEMA,
    )
    items = item_table(world.category, world.style, np.random.default_rng([config.seed, 1]))
    items = items.select(*ITEM_SCHEMA, *config.columns)
    types = SHOP_EVENTS if config.shop else ("interaction",)
    return RawDataset((FramePart(interactions),), items, event_types=types)


def make_world(config: Config) -> World:
    """Draws a world.

    Raises:
        ValueError: a field out of range.
    """
    _check(config)
    rng = np.random.default_rng([config.seed, 0])
    category, style, weight = _catalogue(config.num_items, rng)
    rule = _latin_square(rng)
    taste = rng.integers(NUM_STYLES, size=config.num_users)
    length = rng.integers(config.min_length, config.max_length + 1, size=config.num_users)
    sequences = _sequences(config, category, style, weight, rule, taste, rng)
    sequences[np.arange(config.max_length) >= length[:, None]] = -1
    start = rng.integers(_START, _START + _SPREAD, size=(config.num_users, 1))
    gaps = 60 + rng.exponential(3 * 86_400, size=sequences.shape).astype(np.int64)
    return World(category, style, weight, rule, taste, sequences, start + np.cumsum(gaps, axis=1))


def _check(config: Config) -> None:
    if config.num_users < 1:
        raise ValueError(f"source.num_users is {config.num_users}; it must be at least 1")
    if not 3 <= config.min_length <= config.max_length:
        raise ValueError(
            f"source.min_length is {config.min_length} and max_length {config.max_length}; they "
            "must be at least 3 and in order"
        )
    least = max(4 * NUM_CATEGORIES * NUM_STYLES, 2 * config.max_length)
    if config.num_items < least:
        raise ValueError(
            f"source.num_items is {config.num_items}; it must be at least {least} (4 items for "
            f"each of {NUM_CATEGORIES} categories and {NUM_STYLES} styles, and twice max_length)"
        )
    for name in config.columns:
        if name not in CARRIED:
            raise ValueError(
                f"source.columns names {name!r}, which the generated items have not; they have "
                f"{', '.join(CARRIED)}"
            )
    if not 0 <= config.signal <= 1:
        raise ValueError(f"source.signal is {config.signal}; it must lie between 0 and 1")


def _catalogue(
    num_items: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Category, style and popularity of every item; item ids say nothing about any of them."""
    num_cells = NUM_CATEGORIES * NUM_STYLES
    place = rng.permutation(num_items)
    cell, rank = place % num_cells, place // num_cells
    cell_weight = rng.lognormal(0.0, 0.5, size=num_cells)
    weight = cell_weight[cell] * (rank + 1.0) ** -_ZIPF_EXPONENT
    return cell // NUM_STYLES, cell % NUM_STYLES, weight / weight.sum()


def _latin_square(rng: np.random.Generator) -> np.ndarray:
    """A shuffled addition table: every row and every column is a permutation."""
    rows, columns, values = (rng.permutation(NUM_CATEGORIES) for _ in range(3))
    return values[(rows[:, None] + columns[None, :]) % NUM_CATEGORIES]


def _sequences(
    config: Config,
    category: np.ndarray,
    style: np.ndarray,
    weight: np.ndarray,
    rule: np.ndarray,
    taste: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Items `[U, max_length]` of every user, one place after the other, for all users at once."""
    num_users = config.num_users
    # Largest log-weight + Gumbel noise = one draw by weight; -inf rules an item out.
    log_weight = np.log(weight)
    cells = _members(category * NUM_STYLES + style)
    cell_log_weight = np.where(cells >= 0, log_weight[cells], -np.inf)
    sequences = np.full((num_users, config.max_length), -1, np.int64)
    for step in range(config.max_length):
        seen = sequences[:, :step]
        if step >= 2:
            by_rule = rule[category[seen[:, -2]], category[seen[:, -1]]]
        else:
            by_rule = rng.integers(NUM_CATEGORIES, size=num_users)
        any_category = rng.integers(NUM_CATEGORIES, size=num_users)
        any_style = rng.integers(NUM_STYLES, size=num_users)
        next_category = np.where(rng.random(num_users) < RULE_SHARE, by_rule, any_category)
        next_style = np.where(rng.random(num_users) < TASTE_SHARE, taste, any_style)
        cell = next_category * NUM_STYLES + next_style
        candidates = cells[cell]
        keys = cell_log_weight[cell] + rng.gumbel(size=candidates.shape)
        keys[(candidates[:, :, None] == seen[:, None, :]).any(axis=2)] = -np.inf
        best = keys.argmax(axis=1)
        chosen = candidates[np.arange(num_users), best]
        # The rest: no signal, or a cell of which this user has seen every item.
        free = rng.random(num_users) >= config.signal
        free |= np.isneginf(keys.max(axis=1))
        sequences[:, step] = np.where(free, _draw(weight, seen, rng), chosen)
    return sequences


def _draw(weight: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One item a user by `weight`, drawn anew where the user has seen it."""
    items = rng.choice(len(weight), size=len(seen), p=weight)
    while True:
        again = np.flatnonzero((seen == items[:, None]).any(axis=1))
        if not len(again):
            return items
        items[again] = rng.choice(len(weight), size=len(again), p=weight)


def _members(cell: np.ndarray) -> np.ndarray:
    """Items of each cell, `[cells, most]`, -1 after the last."""
    count = np.bincount(cell)
    order = np.argsort(cell, kind="stable")
    members = np.full((len(count), count.max()), -1, np.int64)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(count) - count, count)
    members[cell[order], place] = order
    return members
