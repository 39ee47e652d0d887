"""Weights of a feed's actions, dated: what one more of each is worth; see `WeightedScorer`.

`SHOP` is this project's own default. `X_2026_10` is what xai-org/x-algorithm published for its
social feed in October 2026 (what had not changed stands as of August 2026).
"""

from __future__ import annotations

SHOP = {"view": 1.0, "addtocart": 3.0, "transaction": 10.0}

X_2026_10 = {
    "favorite": 0.5,
    "reply": 5.0,
    "repost": 1.0,
    "photo_expand": 0.05,
    "click": 0.3,
    "profile_click": 0.0,
    "video_view": 0.0,
    "video_open": 0.07,
    "open_link": 0.2,
    "share": 2.0,
    "share_dm": 5.0,
    "share_copy_link": 20.0,
    "dwell": 0.05,
    "dwell_time": 0.004,
    "click_dwell_time": 0.4,
    "not_dwelled": -0.02,
    "quote": 5.0,
    "quoted_click": 0.05,
    "follow_author": 4.0,
    "not_interested": -47.52,
    "block": -31.2,
    "mute": -58.8,
    "report": -234.0,
}
