"""The feed: candidates from several sources, judged by a ranker."""

from minirec.recommend.feed.searcher import FeedSearcher, Judged

__all__ = ["FeedSearcher", "Judged"]
