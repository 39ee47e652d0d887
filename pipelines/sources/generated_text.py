"""Titles and descriptions of generated items: plausible product names from word lists."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int

from pipelines.tables.interactions import ITEM_SCHEMA

# Category -> (what such a product is called, what a description says of it).
CATEGORIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lighting": (
        ("Desk Lamp", "Floor Lamp", "Wall Light", "Pendant Light"),
        ("warm light", "dimmer switch", "shade", "bulb socket"),
    ),
    "seating": (
        ("Armchair", "Bar Stool", "Rocking Chair", "Footrest"),
        ("seat cushion", "backrest", "sturdy legs", "armrest"),
    ),
    "cookware": (
        ("Frying Pan", "Stock Pot", "Saucepan", "Casserole Dish"),
        ("even heat", "glass lid", "riveted handle", "oven proof"),
    ),
    "garden": (
        ("Plant Pot", "Watering Can", "Garden Trowel", "Pruning Shears"),
        ("frost proof", "soil", "flower bed", "drain hole"),
    ),
    "bath": (
        ("Bath Towel", "Soap Dish", "Shower Curtain", "Bath Mat"),
        ("quick drying", "absorbent", "bathroom shelf", "rust free"),
    ),
    "stationery": (
        ("Notebook", "Fountain Pen", "Letter Tray", "Pencil Case"),
        ("smooth paper", "ink", "desk drawer", "page marker"),
    ),
    "audio": (
        ("Headphones", "Bookshelf Speaker", "Radio", "Record Player"),
        ("clear sound", "volume knob", "audio cable", "deep bass"),
    ),
    "travel": (
        ("Backpack", "Weekend Bag", "Suitcase", "Toiletry Bag"),
        ("carry strap", "zip pocket", "cabin size", "padded sleeve"),
    ),
}

# Style -> (adjectives, materials, brands).
STYLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "rustic": (
        ("Rustic", "Farmhouse", "Weathered"),
        ("Oak", "Linen", "Stoneware"),
        ("Halden", "Brackwood"),
    ),
    "modern": (
        ("Modern", "Minimal", "Sleek"),
        ("Steel", "Glass", "Aluminium"),
        ("Norvik", "Linea Nove"),
    ),
    "vintage": (
        ("Vintage", "Retro", "Antique"),
        ("Brass", "Velvet", "Walnut"),
        ("Old Mill Works", "Carrow"),
    ),
    "playful": (
        ("Colourful", "Happy", "Rainbow"),
        ("Silicone", "Felt", "Beech"),
        ("Pippo", "Tamtam"),
    ),
    "outdoor": (
        ("Rugged", "Weatherproof", "All-Terrain"),
        ("Canvas", "Rubber", "Nylon"),
        ("Fellrunner", "Kestrel Peak"),
    ),
    "luxury": (
        ("Deluxe", "Elegant", "Royal"),
        ("Marble", "Silk", "Gold"),
        ("Maison Avelle", "Orsay"),
    ),
}
CARRIED = ("colour", "price")
"""Columns of the catalogue that `source.columns` may name."""

_COLOURS = ("Red", "Blue", "Green", "Black", "White", "Sand", "Grey", "Teal")
# How often a word of the text comes from another category or style than the item's.
_NOISE = 0.05


def item_table(
    category: Int[np.ndarray, " N"], style: Int[np.ndarray, " N"], rng: np.random.Generator
) -> pl.DataFrame:
    """Returns the catalogue for items of the given categories and styles.

    Its columns are `ITEM_SCHEMA` and those of `CARRIED`: `colour` (String), and `price` (Float64),
    which a product's kind and style decide, but for a factor of its own.

    Words are drawn from the category's and the style's lists; a few come from another's, so that
    the text tells both only with noise. More words tell the category than the style, so that the
    first codes of a residual quantiser say the category and the next the style. Titles carry a
    model number and are unique.
    """
    num_items = len(category)
    kinds, styles = list(CATEGORIES.values()), list(STYLES.values())

    def noisy(truth: np.ndarray, count: int) -> list[int]:
        other = rng.integers(count, size=num_items)
        return np.where(rng.random(num_items) < _NOISE, other, truth).tolist()

    def draw(lists: list[tuple[str, ...]], which: list[int]) -> list[str]:
        numbers = rng.random(num_items).tolist()
        return [
            lists[index][int(number * len(lists[index]))]
            for index, number in zip(which, numbers, strict=True)
        ]

    nouns = draw([kind[0] for kind in kinds], noisy(category, len(kinds)))
    features = [draw([kind[1] for kind in kinds], noisy(category, len(kinds))) for _ in range(3)]
    adjectives = draw([entry[0] for entry in styles], noisy(style, len(styles)))
    materials = draw([entry[1] for entry in styles], noisy(style, len(styles)))
    brands = draw([entry[2] for entry in styles], noisy(style, len(styles)))
    colours = draw([_COLOURS], [0] * num_items)
    numbers = rng.permutation(num_items) + 100

    titles = [
        f"{brand} {adjective} {material} {noun}, {colour}, No. {number}"
        for brand, adjective, material, noun, colour, number in zip(
            brands, adjectives, materials, nouns, colours, numbers, strict=True
        )
    ]
    texts = [
        f"{title}\n" + ", ".join(parts).capitalize() + "."
        for title, *parts in zip(titles, *features, strict=True)
    ]
    departments = draw([(name,) for name in CATEGORIES], noisy(category, len(kinds)))
    attributes = [
        [f"department={department}", f"type={noun.lower()}", f"brand={brand}"]
        for department, noun, brand in zip(departments, nouns, brands, strict=True)
    ]
    frame = pl.DataFrame(
        {
            "raw_item_id": [f"i{number:05d}" for number in range(num_items)],
            "title": titles,
            "text": texts,
            "attributes": attributes,
        },
        schema=ITEM_SCHEMA,
    )
    # Drawn last: what was drawn before there were prices stays as it was.
    price = 8.0 * (1 + category) * (1 + 0.5 * style) * rng.lognormal(0.0, 0.3, size=num_items)
    return frame.with_columns(
        pl.Series("colour", colours), pl.Series("price", np.ceil(price) - 0.05).round(2)
    )
