"""The baselines that stand beside every model, a file each.

All are fitted on training interactions only. Ties go by popularity, and ties in popularity to the
lower item id, so that the lists are the same everywhere.
"""

from minirec.recommend.baselines.item_transition import ItemTransition
from minirec.recommend.baselines.popularity import Popularity

__all__ = ["ItemTransition", "Popularity"]
