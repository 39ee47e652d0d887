"""The component that docs/feed.md shows."""

import pathlib
import re

from configs import feed_weights
from minirec.recommend.feed.scorers import WeightedScorer

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_the_documents_component_runs_as_it_says():
    text = (ROOT / "docs" / "feed.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 25
    names = {}
    exec(code, names)  # The document's own example.
    feed = names["feed"]
    assert "`feed.shown.item` is `[8, 9]`" in text
    assert feed.shown.item.tolist() == [8, 9]
    assert feed.sources_of(0) == ["Cheapest"]
    names["pipeline"].close()


def test_dated_weights_are_weights():
    for weights in (feed_weights.SHOP, feed_weights.X_2026_10):
        assert WeightedScorer(weights).weights == weights
