"""A served run small enough to be made in a second, and an engine's stand-in model."""

import dataclasses
import threading
import types

import numpy as np
from flax import nnx

from kernels.trie import build_trie
from minirec.decoding import BeamSearcher, ItemRanker
from minirec.models import ItemDecoder, ItemDecoderConfig, ItemReader, TrunkConfig
from minirec.recommend import ItemTransition, System
from minirec.recommend.content import content_rows, nearest
from minirec.recommend.fusion_weights import FusionWeights
from minirec.recommend.ranker import Ranker
from minirec.recommend.sources import ITEM_HEAD, ITEM_TRANSITION, MODEL
from minirec.serving.catalogue import Catalogue, Listing
from minirec.serving.engine import Engine
from minirec.serving.metrics import Metrics
from minirec.serving.programs import Programs, Weights
from minirec.serving.query import Found
from minirec.serving.reading_cache import ReadingCache
from minirec.serving.recommender import Recommender, Served
from minirec.serving.rules import Columns
from minirec.serving.service import Service
from minirec.serving.versions import Versions
from minirec.sids import SidTable, SidVocab

NUM_ITEMS, MORE_ITEMS, TILE, BEAMS, SHOWN = 60, 30, 4, 8, 6
SIZES = (8, 8, 4)


@dataclasses.dataclass(frozen=True)
class ItemPrompts:
    widths: tuple[int, ...] = (SHOWN,)

    def __call__(self, history):
        return history[-SHOWN:]


class World:
    """A model that nobody has trained, over items with titles, colours and prices."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), -1).reshape(-1, 3)
        drawn = rng.permutation(len(every))[: NUM_ITEMS + MORE_ITEMS]
        self.codes = every[drawn][:NUM_ITEMS].astype(np.int32)
        self.codes[:8] = self.codes[8:16]  # Some share a SID.
        self.later_codes = every[drawn][NUM_ITEMS:].astype(np.int32)
        self.raw = tuple(f"i{item}" for item in range(NUM_ITEMS))
        self.titles = tuple(
            f"{('oak', 'pine', 'steel')[item % 3]} {('lamp', 'chair', 'desk')[item % 7 % 3]} {item}"
            for item in range(NUM_ITEMS)
        )
        attributes = [
            [f"colour={('red', 'blue')[item % 2]}", f"price={item}"] for item in range(NUM_ITEMS)
        ]
        self.columns = Columns(attributes)
        full = SidTable(tuple(map(str, range(len(every)))), every.astype(np.int32), SIZES)
        self.vocab = SidVocab.from_table(full)
        trunk = TrunkConfig(
            num_layers=1, width=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=24
        )
        config = ItemDecoderConfig(trunk, self.vocab.size, NUM_ITEMS, 3, 16, False)
        model = ItemDecoder(config, rngs=nnx.Rngs(seed))
        # Sharper than at the start of training, so that histories and items differ.
        for name, times in (("head", 40), ("embedding", 20), ("items", 20)):
            getattr(model, name)[...] = getattr(model, name)[...] * times
        self.model = model
        sequences = rng.integers(0, NUM_ITEMS, 400)
        offsets = np.arange(0, 401, 8)
        self.train_count = np.bincount(sequences, minlength=NUM_ITEMS)
        self.transition = ItemTransition(sequences, offsets, NUM_ITEMS)
        self.like = nearest(content_rows(list(self.titles), attributes))
        tokens = np.repeat(self.vocab.encode(every.astype(np.int32)), 2, axis=0)
        self.capacities = build_trie(tokens, codebook_sizes=[self.vocab.size] * 3).capacities
        table = SidTable(self.raw, self.codes, SIZES)
        self.listing = Listing(table, self.titles, np.ones(NUM_ITEMS, bool))
        self.filters = {"normalize": "children"}

    @property
    def fingerprint(self):
        return "world"

    sids_sha256 = "0" * 64
    num_known = NUM_ITEMS

    def programs(self, tile=TILE):
        return Programs(tile=tile, num_beams=BEAMS, normalize="children", num_items=4 * BEAMS)

    def recommender(self, tile=TILE, cache_bytes=1 << 20):
        return Recommender(self.programs(tile), ItemPrompts(), ReadingCache(cache_bytes))

    def catalogue(self, number=1, listing=None):
        listing = listing or self.listing
        table = listing.table
        tokens = self.vocab.encode(table.codes)
        order = np.arange(table.num_items)[listing.listed]
        trie = build_trie(
            tokens[order],
            order.astype(np.int32),
            codebook_sizes=[self.vocab.size] * 3,
            capacities=self.capacities,
        )
        columns = self.columns.and_later(
            [known.attributes for known in listing.later],
            [known.columns for known in listing.later],
        )
        room = ((0, self.capacities.items - len(tokens)), (0, 0))
        return Catalogue(
            number, tuple(table.raw_item_ids), listing.titles, table.codes,
            np.pad(tokens, room).astype(np.int32), listing.listed, trie, columns,
        )  # fmt: skip

    def served(self, catalogue=None, version="world@1"):
        catalogue = catalogue or self.catalogue()
        reader = ItemReader(self.model, catalogue.item_tokens)
        weights = {MODEL: 0.4, ITEM_HEAD: 0.3, ITEM_TRANSITION: 0.3}
        pool = FusionWeights(weights, {}, {name: {} for name in weights}, 1, 0.1, 10)
        ranker = Ranker(
            model=reader,
            trie=catalogue.trie,
            searcher=BeamSearcher(num_beams=BEAMS, **self.filters),
            item_tokens=catalogue.item_tokens[: catalogue.num_items],
            train_count=self.train_count,
            transition=self.transition,
            length=4 * BEAMS,
            exclude_seen=True,
            item_ranker=ItemRanker(num_items=4 * BEAMS),
            neighbours=self.like,
        )
        return Served(version, Weights.of(reader), ranker, System(pool), catalogue)

    def with_listing(self, served, number, listing):
        return self.served(self.catalogue(number, listing), served.model_version)

    def with_model(self, served, run, count=None):
        if run not in (None, "other"):
            raise ValueError(f"run: {run!r} is not there")
        return self.served(served.catalogue, "world@2" if count is None else f"world@2+{count}")

    def service(self, folder, users=()):
        """A service whose catalogue may change, its versions in a folder; close its engine."""
        versions = Versions(folder, self, self.served(), self.listing)
        metrics = Metrics(TILE)
        engine = Engine(
            self.recommender(), versions.served, exclude_seen=True, stock=versions.stock,
            deadline_s=60.0, observer=metrics,
        )  # fmt: skip
        metrics.watch(engine)
        versions.serve(engine)
        return Service(engine, versions, metrics, dict(users).get)


class SlowRecommender:
    """Answers each tile with item 0, when it is told to; counts what it was asked for."""

    programs = types.SimpleNamespace(num_beams=BEAMS, num_traces=0)

    def __init__(self, tile=TILE):
        self.tile, self.tiles, self.allowed = tile, [], []
        self.cache = ReadingCache(0)
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.error = None

    def warm_up(self, served):
        pass

    def key(self, query):
        return None

    def start(self, served, queries, allowed):
        self.tiles.append([query.history.tolist() for query in queries])
        self.allowed.append(allowed)
        self.begun.release()
        error, self.error = self.error, None

        def wait(searched):
            assert self.go.wait(60)
            searched()
            if error is not None:
                raise error
            return [Found(np.array([0], np.int32), np.zeros(1)) for _ in queries]

        return wait


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now
