"""What people of a generated world do beside looking: they come back, fill a cart, and buy.

An item of the style that a user likes is looked at again and put into the cart more often than
another; half of what is in a cart is bought. So what somebody did before tells what they will do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int64

SHOP_EVENTS = ("view", "addtocart", "transaction")
_AGAIN = (0.2, 0.5)  # How often an item is looked at once more: one of another style, and a liked.
_CART = (0.03, 0.25)
_BUY = 0.5
_MOST_S = 600  # from one event to the next of an item


def shop_events(
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
    time: Int[np.ndarray, " n"],
    is_liked: Bool[np.ndarray, " n"],
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, " m"], ...]:
    """Returns user, item, time in seconds and event type of a shop's log, in no order.

    Args:
        user: who looks.
        item: at what.
        time: when, in seconds.
        is_liked: whether it is of the style that the user likes.
        rng: draws what else happens.
    """
    number, liked = len(user), is_liked.astype(int)
    steps = np.cumsum(rng.integers(5, _MOST_S, (3, number)), axis=0)
    again = rng.random(number) < np.array(_AGAIN)[liked]
    cart = rng.random(number) < np.array(_CART)[liked]
    bought = cart & (rng.random(number) < _BUY)
    happened = [np.ones(number, bool), again, cart, bought]
    later = [np.zeros(number, np.int64), *steps]
    columns = [
        np.concatenate([column[which] for which in happened]).astype(np.int64)
        for column in (user, item)
    ]
    when = np.concatenate(
        [(time + more)[which] for more, which in zip(later, happened, strict=True)]
    )
    types = np.repeat([0, 0, 1, 2], [int(which.sum()) for which in happened])
    return columns[0], columns[1], when, types
