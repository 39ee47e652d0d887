"""What the items' own text says of them: rows of weighted words, and each item's neighbours."""

from minirec.recommend.content.neighbours import Neighbours, nearest
from minirec.recommend.content.rows import content_rows

__all__ = ["Neighbours", "content_rows", "nearest"]
